"""How many connections a full port has turned away, or had to make way for others."""

from __future__ import annotations

from collections import deque

import trio
from attrs import define, field

WITHIN = 60  # seconds that are looked back
STEP = 5  # seconds that are counted together


@define(eq=False)
class Crowding:
    """Counts them.

    Attributes:
        total: Since the start.
        address: Of the last one.
    """

    total: int = field(default=0, init=False)
    address: str = field(default="", init=False)
    _steps: deque[list[int]] = field(factory=lambda: deque(maxlen=WITHIN // STEP), init=False)

    def note(self, address: str) -> None:
        """Count one, from an address."""
        self.total += 1
        self.address = address
        now = int(trio.current_time() / STEP)
        if not self._steps or self._steps[-1][0] != now:
            self._steps.append([now, 0])
        self._steps[-1][1] += 1

    def lately(self) -> int:
        """How many there were within `WITHIN` seconds."""
        since = int(trio.current_time() / STEP) - WITHIN // STEP
        return sum(count for step, count in self._steps if step > since)
