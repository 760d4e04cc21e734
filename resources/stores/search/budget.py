"""How much one query may compute here, in Python.

What the engine computes cannot be interrupted, so that is estimated beforehand (`translate`), and
in the end the supervisor kills the process.
"""

from __future__ import annotations

import math
import time

from .nodes import QueryError

SECONDS = 2.0  # of CPU time, less than any query may take
# of the time that a query may take: it ends by itself if others, which take turns with it, have
# used the rest, so that nobody has to end the process for it
SHARE = 0.6


class Budget:
    """What is left of a query's time, of the CPU from the first check on. It belongs to one
    thread.
    """

    __slots__ = ("_late", "_seconds", "_until")

    def __init__(self, seconds: float = SECONDS, allowed: float = math.inf) -> None:
        """Allow so many seconds of CPU time, and a share of the time that is allowed from now."""
        self._seconds = seconds
        self._until = 0.0  # most queries need no check, and the clock is a system call
        self._late = time.monotonic() + allowed * SHARE

    def check(self) -> None:
        """Raise QueryError if none is left."""
        now = time.thread_time()
        if not self._until:
            self._until = now + self._seconds
        elif now > self._until:
            raise QueryError(None, f"it needs more than {SECONDS:g} s of computing: {_ADVICE}")
        if time.monotonic() > self._late:
            raise QueryError(None, f"it takes too long beside other searches: {_ADVICE}")


_ADVICE = "fewer or simpler patterns, sloppy phrases and fuzzy terms would do"
