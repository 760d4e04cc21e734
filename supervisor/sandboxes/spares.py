"""Spare processes: booted with the toolkits loaded and no app, for the first one that needs a
process and has none.

A process can only take an app for which it would have been started the same way (`Jail.kind`): most
apps of a host have the default limits, and so the spares are of the kind that most apps have. As
root each has a user of its own, which was never another process's.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

import trio
from attrs import define, field

from ..config.model import App
from ..errors import BootFailed

# seconds after one was taken that the next is started: whoever took it has its first run now
AFTER = 0.5
SETTLE = 2.0  # seconds after a reload that wants others: all apps may be starting new processes now
RETRY = 10.0  # seconds after a failed start, or one for which there was no room

log = logging.getLogger(__name__)


@define(eq=False)
class Spares:
    """Says of which kind they are, and keeps `count` of them ready.

    Attributes:
        kind: What apps have in common that can take the same process.
        have: How many there are, those that boot included.
        start: Starts one for an app of the kind; returns when it is ready, whether it was started;
            raises BootFailed.
        end_all: Ends those that are there.
    """

    count: int
    _kind: Callable[[App], object]
    _have: Callable[[], int]
    _start: Callable[[App], Awaitable[bool]]
    _end_all: Callable[[], None]
    _wanted: object = field(default=None, init=False)
    _like: App | None = field(default=None, init=False)  # an app of that kind
    _not_before: float = field(default=0.0, init=False)
    _was_updated: bool = field(default=False, init=False)
    _bell: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)

    def update(self, apps: Mapping[str, App]) -> bool:
        """The apps are these now. Returns whether those that are there are of use still."""
        fitting = [app for app in apps.values() if app.modules_dir is None] if self.count else []
        kinds = Counter(self._kind(app) for app in fitting)
        wanted = kinds.most_common(1)[0][0] if kinds else None
        is_same = wanted == self._wanted
        if not is_same:
            self._wanted = wanted
            self._like = next((app for app in fitting if self._kind(app) == wanted), None)
            self._not_before = trio.current_time() + (SETTLE if self._was_updated else 0.0)
        self._was_updated = True
        self.ring()
        return is_same

    def fits(self, app: App) -> bool:
        """Whether an app can take one."""
        is_wanted = self._wanted is not None and app.modules_dir is None
        return is_wanted and self._kind(app) == self._wanted

    def renew(self) -> None:
        """End those that are there and start others: there is something now that they could not
        have had.
        """
        self._end_all()
        self.ring()

    def ring(self) -> None:
        """There may be fewer of them now, or room for more."""
        self._bell.unpark_all()

    async def run(self) -> None:
        """Keep them ready."""
        while True:
            like, now = self._like, trio.current_time()
            if like is not None and now < self._not_before:
                await trio.sleep_until(self._not_before)
                continue
            if like is not None and self._have() < self.count:
                try:
                    if await self._start(like):
                        continue
                except BootFailed as error:
                    log.warning("no spare process: %s", error)
                    await trio.sleep(RETRY)
                    continue
            with trio.move_on_after(RETRY):
                await self._bell.park()
            await trio.sleep(AFTER)
