"""Accounts that wait for background work."""

from __future__ import annotations

import threading
from queue import SimpleQueue

from attrs import define, field


@define(eq=False)
class AccountQueue:
    """A queue for any number of threads. An account is in it, or worked on, once at a time."""

    _queue: SimpleQueue[str] = field(factory=SimpleQueue, init=False)
    _known: set[str] = field(factory=set, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    def put(self, account: str) -> None:
        """Add an account that is not in it."""
        with self._lock:
            if account in self._known:
                return
            self._known.add(account)
        self._queue.put(account)

    def get(self, timeout: float | None) -> str:
        """Take the next, to be followed by `done`. Raises queue.Empty if there is none within a
        time in seconds.
        """
        return self._queue.get(timeout=timeout)

    def done(self, account: str) -> None:
        """It may be put in again."""
        with self._lock:
            self._known.discard(account)
