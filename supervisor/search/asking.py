"""What the client knows of a question in progress, and how a question gets a slot."""

from __future__ import annotations

import trio
from attrs import define

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


async def acquire(limiter: trio.CapacityLimiter, slot: object) -> None:
    """Take a slot; without a pass of the event loop if there is one, as each costs a short query a
    tenth of its time.
    """
    try:
        limiter.acquire_on_behalf_of_nowait(slot)
    except trio.WouldBlock:
        await limiter.acquire_on_behalf_of(slot)
