"""A partition of a journal that this server owns, and how far it has read it."""

from __future__ import annotations

from math import inf

from attrs import define, field

from resources.stores.partitions import Part, split_place

from .jobs import Job


@define(eq=False)
class Owned:
    """A partition that we own."""

    part: Part
    owner: bytes
    last: str = ""  # the newest place that was read
    is_rung: bool = True  # there may be more
    is_first: bool = True  # what is read may have been in progress when a server died
    is_leaving: bool = False
    open: set[str] = field(factory=set)  # places in line or in progress
    ended: set[str] = field(factory=set)  # since it is read for the first time
    begun: dict[str, int] = field(factory=dict)  # of what is read for the first time
    rewound: int = 0  # how often it is to be read again from the first
    problem: str = ""  # what the store has refused of it
    again: float = inf  # when it is read again, because of that

    def rewind(self) -> None:
        """Have it read again from the first."""
        self.last, self.is_first, self.is_rung, self.again = "", True, True, inf
        self.ended.clear()
        self.begun.clear()
        self.rewound += 1


def part_of(job: Job) -> Part:
    """The partition of a job."""
    return Part(job.entry.account, job.entry.app, split_place(job.place)[0])
