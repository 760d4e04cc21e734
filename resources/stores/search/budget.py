"""How much one query may compute here, in Python.

What the engine computes cannot be interrupted, so that is estimated beforehand (`translate`), and
in the end the supervisor kills the process.
"""

from __future__ import annotations

import time

from .nodes import QueryError

SECONDS = 2.0  # of CPU time, less than any query may take


class Budget:
    """What is left of a query's time. It belongs to one thread."""

    __slots__ = ("_until",)

    def __init__(self, seconds: float = SECONDS) -> None:
        """Start with so many seconds of CPU time."""
        self._until = time.thread_time() + seconds

    def check(self) -> None:
        """Raise QueryError if none is left."""
        if time.thread_time() > self._until:
            raise QueryError(
                None,
                f"it needs more than {SECONDS:g} s of computing: fewer or simpler patterns, sloppy"
                " phrases and fuzzy terms would do",
            )
