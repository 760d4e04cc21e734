"""What the client knows of a question in progress, and how a question gets a slot."""

from __future__ import annotations

import trio
from attrs import define, field

from resources.stores.search import dialogue

from .process import Ended

CRASHES_MAX = 2  # of the process while a question is in progress; then that is suspected
KILLS_MAX = 10  # of the process from outside meanwhile, such as by a kernel short of memory


@define(eq=False)
class Asking:
    """A question from when it is asked until it is answered, and what the process went through
    meanwhile.
    """

    request: dialogue.Query
    crashes: int = 0
    kills: int = 0
    was_inspected: bool = False

    def note(self, ended: Ended) -> None:
        """Count an end of the process."""
        if ended.was_killed:
            self.kills += 1
        elif not ended.by_deadline:
            self.crashes += 1

    @property
    def is_suspect(self) -> bool:
        """Whether the process ended often enough to suspect this question."""
        most = CRASHES_MAX + self.was_inspected
        return self.crashes >= most or self.kills >= KILLS_MAX * most


@define(eq=False)
class Slots:
    """Slots that questions take in turn. trio.CapacityLimiter would add a tenth to the time of a
    short query: it yields to the event loop, and keeps track of who has taken what.
    """

    count: int
    taken: int = field(default=0, init=False)
    _waiting: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)

    async def take(self) -> None:
        """Take a slot; at once if there is one."""
        if self.taken < self.count:
            self.taken += 1
        else:
            await self._waiting.park()  # whoever gives one back leaves it to us

    def give(self) -> None:
        """Give a slot back."""
        if self._waiting:
            self._waiting.unpark()
        else:
            self.taken -= 1

    @property
    def is_idle(self) -> bool:
        """Whether no slot is taken."""
        return not self.taken
