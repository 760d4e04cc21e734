"""The CPU time of one process: what it has used, for which of its runs, and whether it may have its
share or only what nobody else wants.
"""

from __future__ import annotations

from collections.abc import Collection

from attrs import define, field

from ..host.process import Process
from .run import Run

# of CPU between two looks; one that uses less waits for others, and need not take turns
HUNGRY_SECONDS = 0.01
# of CPU; a run that uses more gets what nobody else wants: ordinary ones use a few milliseconds
HEAVY_SECONDS = 0.05


@define(eq=False)
class Cpu:
    """Seconds, and the kernel's scheduling."""

    _process: Process
    seen: float = field(default=0.0, init=False)  # all that was shared out
    # it stands back, and used CPU when it last could
    is_hungry: bool = field(default=False, init=False)
    stands_back: bool = field(default=False, init=False)
    _heard: float = field(default=0.0, init=False)  # what was seen when it last gave a sign of life
    _used_before: float = field(default=0.0, init=False)
    _is_paused: bool = field(default=False, init=False)

    def share(self, runs: Collection[Run]) -> None:
        """What was used since the last call, in equal parts to those in hand; to nobody where none
        is.
        """
        used = self._process.cpu_seconds()
        for run in runs:
            run.cpu_seconds += (used - self.seen) / len(runs)
        self.seen = used

    def hear(self) -> None:
        """The process gave a sign of life."""
        self._heard = self.seen

    @property
    def since_heard(self) -> float:
        """Seconds used since then."""
        return self.seen - self._heard

    def judge(self, used: float) -> None:
        """A run has used so much: one that uses much stands back for all others, and takes turns
        with its kind.
        """
        if used > HEAVY_SECONDS and not self.stands_back:
            self.stand_back()
        if not self._is_paused:
            self.is_hungry = self.stands_back and used - self._used_before > HUNGRY_SECONDS
            self._used_before = used

    def stand_back(self) -> None:
        """Take only the CPU time that nobody else wants, until a run has ended well."""
        self.stands_back = self._process.set_background(on=True)

    def step_forward(self) -> None:
        """Take its share of CPU time again."""
        if self.stands_back:
            self.stands_back = not self._process.set_background(on=False)

    def pause(self, *, on: bool) -> None:
        """Stop, or go on: those that stand back take turns."""
        if on is not self._is_paused:
            self._is_paused = on
            self._process.pause(on=on)

    def rest(self) -> bool:
        """No run is in hand any more. False where it stands back and we may not change that: then
        it is of no more use.
        """
        self.pause(on=False)
        self.is_hungry, self._used_before = False, 0.0
        self.step_forward()
        return not self.stands_back
