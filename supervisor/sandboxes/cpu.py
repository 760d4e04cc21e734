"""The CPU time of one process: how much it used, for which of its runs, and whether it runs at
normal priority or in the background.
"""

from __future__ import annotations

from collections.abc import Collection

from attrs import define, field

from ..host.process import Process
from .run import Run

# of CPU between two looks; a process that uses less waits for something, and need not take turns
HUNGRY_SECONDS = 0.01
# of CPU; a run that uses more goes to the background: ordinary ones use a few milliseconds
HEAVY_SECONDS = 0.05


@define(eq=False)
class Cpu:
    """Seconds, and the kernel's scheduling.

    Attributes:
        seen: Seconds that the process has used, as of the last call of `share`.
        stands_back: Whether it runs in the background.
        is_hungry: Whether it runs in the background, and used the CPU on its last turn.
    """

    _process: Process
    seen: float = field(default=0.0, init=False)
    is_hungry: bool = field(default=False, init=False)
    stands_back: bool = field(default=False, init=False)
    _heard: float = field(default=0.0, init=False)  # `seen` when it last wrote something
    _used_before: float = field(default=0.0, init=False)
    _is_paused: bool = field(default=False, init=False)

    def share(self, runs: Collection[Run]) -> None:
        """Charge what was used since the last call to these runs, in equal parts."""
        used = self._process.cpu_seconds()
        for run in runs:
            run.cpu_seconds += (used - self.seen) / len(runs)
        self.seen = used

    def hear(self) -> None:
        """The process wrote something, or begins a run."""
        self._heard = self.seen

    @property
    def since_heard(self) -> float:
        """Seconds used since `hear`, as of the last call of `share`."""
        return self.seen - self._heard

    def judge(self, used: float) -> None:
        """A run has used N seconds: if that is much, move the process to the background, where it
        takes turns with others of its kind.
        """
        if used > HEAVY_SECONDS and not self.stands_back:
            self.stand_back()
        if not self._is_paused:
            self.is_hungry = self.stands_back and used - self._used_before > HUNGRY_SECONDS
            self._used_before = used

    def stand_back(self) -> None:
        """Move the process to the background (idle priority) until a run ends well."""
        self.stands_back = self._process.set_background(on=True)

    def step_forward(self) -> None:
        """Move it back to normal priority, if the kernel allows."""
        if self.stands_back:
            self.stands_back = not self._process.set_background(on=False)

    def pause(self, *, on: bool) -> None:
        """Stop the process, or let it go on: those in the background take turns."""
        if on is not self._is_paused:
            self._is_paused = on
            self._process.pause(on=on)

    def rest(self) -> bool:
        """No run is in progress any more. Returns whether the process is of further use: not if it
        is in the background and the kernel does not let us bring it back.
        """
        self.pause(on=False)
        self.is_hungry, self._used_before = False, 0.0
        self.step_forward()
        return not self.stands_back
