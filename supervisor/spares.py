"""Spare processes: booted with the toolkits loaded and no app, for the first one that needs a process and has none.

A process can only take an app for which it would have been started the same way (`Jail.kind`): most apps of a host have the default limits,
and so the spares are of the kind that most apps have. As root each has a user of its own, which was never another process's.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext

import trio
from attrs import define, field

from .config.model import App
from .errors import BootFailed, CannotStart
from .hold import CAN_STAND_BACK, hold_spare
from .jail import Jail
from .sandbox import Sandbox

AFTER = 0.5  # seconds after one was taken that the next is started: whoever took it has its first run now
SETTLE = 2.0  # seconds after a reload that wants others: all apps may be starting new processes now
RETRY = 10.0  # seconds after a failed start

log = logging.getLogger(__name__)


@define(eq=False)
class Spares:
    """Keeps `count` of them ready. `blank` makes the jail of a process that waits for an app of the kind of the one given."""

    count: int
    _nursery: trio.Nursery
    _blank: Callable[[App], Jail]
    _kind: Callable[[App], object]
    _processes: trio.CapacityLimiter
    _boot_turn: Callable[[], AbstractAsyncContextManager[None]]
    _wanted: object = field(default=None, init=False)
    _like: App | None = field(default=None, init=False)  # an app of that kind
    _not_before: float = field(default=0.0, init=False)
    _was_updated: bool = field(default=False, init=False)
    ready: list[Sandbox] = field(factory=list, init=False)
    _bell: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)

    def update(self, apps: Mapping[str, App]) -> None:
        """The apps as they are now."""
        fitting = [app for app in apps.values() if app.modules_dir is None] if self.count else []
        kinds = Counter(self._kind(app) for app in fitting)
        wanted = kinds.most_common(1)[0][0] if kinds else None
        if wanted != self._wanted:
            self._wanted = wanted
            self._like = next((app for app in fitting if self._kind(app) == wanted), None)
            self._not_before = trio.current_time() + (SETTLE if self._was_updated else 0.0)
            self.end_all()
        self._was_updated = True
        self._bell.unpark_all()

    def take(self, app: App) -> Sandbox | None:
        """A process for an app; it has yet to be told the app."""
        if app.modules_dir is not None or self._wanted is None or self._kind(app) != self._wanted:
            return None
        while self.ready:
            sandbox = self.ready.pop()
            self._bell.unpark_all()
            if sandbox.is_clean():
                return sandbox
            sandbox.end()
        return None

    def renew(self) -> None:
        """End those that are there and start others: there is something now that they could not have had."""
        self.end_all()
        self._bell.unpark_all()

    def end_one(self) -> bool:
        """Make room on the host. Whether there was one."""
        if self.ready:
            self.ready.pop().end()
            return True
        return False

    def end_all(self) -> None:
        """They are of no use any more."""
        while self.end_one():
            pass

    async def run(self) -> None:
        """Keep them ready."""
        while True:
            self.ready = [sandbox for sandbox in self.ready if sandbox.process.returncode is None]
            if self._like is None or len(self.ready) >= self.count or self._processes.available_tokens <= 1:
                with trio.move_on_after(RETRY):
                    await self._bell.park()
                await trio.sleep(AFTER)
                continue
            if trio.current_time() < self._not_before:
                await trio.sleep_until(self._not_before)
                continue
            like, wanted = self._like, self._wanted
            try:
                # One that takes only the time that nobody else wants may take long: it must not keep apps' processes from starting.
                async with nullcontext() if CAN_STAND_BACK else self._boot_turn():
                    sandbox: Sandbox = await self._nursery.start(self._hold, like)
            except (BootFailed, CannotStart) as error:
                log.warning("no spare process: %s", error)
                await trio.sleep(RETRY)
                continue
            if wanted == self._wanted:
                self.ready.append(sandbox)
            else:
                sandbox.end()

    async def _hold(self, like: App, *, task_status: trio.TaskStatus[Sandbox]) -> None:
        async with self._processes:
            await hold_spare(like, self._blank(like), task_status=task_status)
