"""Spare processes: booted with the toolkits loaded and no app, for the first app that needs a
process and has none idle.

A process can only take an app for which it would have been started in the same way (`Walls.kind`).
Most apps of a host have the default limits, so the spares are of the kind that most apps have. As
root, each has a user of its own that no other process had.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

import trio
from attrs import define, field

from ..config.model import App
from ..errors import BootFailed

AFTER = 0.5  # seconds until the next one is started, as the app that took one has its first run now
SETTLE = 2.0  # seconds after a reload that changes the kind, as all apps may start processes now
RETRY = 10.0  # seconds after a start that failed, or for which there was no room

log = logging.getLogger(__name__)


@define(eq=False)
class Spares:
    """Decides their kind and keeps `count` of them ready.

    Attributes:
        kind: A key that is equal for apps that can use the same spare processes.
        have: How many there are, including those that boot.
        start: Starts one for an app of the kind. Returns when it is ready; False if there was no
            room. May raise BootFailed.
        end_all: Ends all of them.
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
        """Take the apps as they are now. Returns whether the present spares are still of use."""
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
        is_wanted = self._wanted is not None and app.modules_dir is None and app.clock is None
        return is_wanted and self._kind(app) == self._wanted

    def renew(self) -> None:
        """End all of them and start others, because those would start with something new."""
        self._end_all()
        self.ring()

    def ring(self) -> None:
        """Look again: there may be fewer of them now, or room for more."""
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
