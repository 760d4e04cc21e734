"""Requests to the admin port that were refused for their token or their origin."""

from __future__ import annotations

from collections import deque

import trio
from attrs import define, field

WITHIN = 600.0  # seconds that are looked back
MANY = 10  # refused requests within them; below, somebody has mistyped a token
KEPT = 1000  # of the newest, whose times are kept


@define(eq=False)
class Refusals:
    """Counts them.

    Attributes:
        total: Since the start.
    """

    total: int = field(default=0, init=False)
    _newest: deque[float] = field(factory=lambda: deque(maxlen=KEPT), init=False)
    _source: str = field(default="", init=False)

    def note(self, source: str) -> None:
        """Count one, from an address."""
        self.total += 1
        self._newest.append(trio.current_time())
        self._source = source

    def problem(self) -> str:
        """What a person should know of them; empty if there were few."""
        since = trio.current_time() - WITHIN
        count = sum(at >= since for at in self._newest)
        if count < MANY:
            return ""
        more = " or more" if count == KEPT else ""
        return (
            f"{count}{more} requests without a valid token in {WITHIN / 60:.0f} minutes,"
            f" the last from {self._source or 'an unknown address'}"
        )
