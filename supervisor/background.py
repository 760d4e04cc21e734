"""Background tasks of the service itself: the event loop's lag, the toolkits' code cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import trio
from attrs import define, field, frozen
from prometheus_client import Gauge, Histogram

from .config import Config
from .jail.walls import Walls
from .sandboxes.codecache import compile_toolkits
from .sandboxes.spares import Spares

LAG_TICK = 0.25  # seconds between two looks
COMPILE_AFTER = 3.0  # seconds after the start or a reload: the apps' first messages come before
COMPILE_EVERY = 3600.0  # seconds: what was compiled may be gone, if a cleaner of /tmp took it


@define(eq=False)
class LoopLag:
    """Measures how late the event loop is.

    Attributes:
        seconds: How late its timer was the last time.
    """

    _gauge: Gauge
    _histogram: Histogram
    seconds: float = field(default=0.0, init=False)

    async def watch(self) -> None:
        """Measure it until cancelled."""
        while True:
            due = trio.current_time() + LAG_TICK
            await trio.sleep_until(due)
            self.seconds = trio.current_time() - due
            self._gauge.set(self.seconds)
            self._histogram.observe(self.seconds)


@frozen(eq=False)
class Compiling:
    """Keeps the toolkits compiled, and the copies that processes are started from complete."""

    _walls: Walls
    _config: Callable[[], Config]
    _spares: Spares
    _reloaded: Callable[[], trio.Event]  # is set by the next reload

    async def run(self) -> None:
        """Do it after the start, after each reload, and from time to time, until cancelled."""
        while True:
            reloaded = self._reloaded()
            await trio.sleep(COMPILE_AFTER)
            await trio.to_thread.run_sync(partial(self._walls.stage.restore, thoroughly=True))
            if await compile_toolkits(self._walls, self._config().apps.values()):
                self._spares.renew()
            with trio.move_on_after(COMPILE_EVERY):
                await reloaded.wait()
