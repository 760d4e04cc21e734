"""The live log of an app that several servers write: the store is looked at again and again."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

import trio
from attrs import define, field

from .logbook import Logbook, LogEntry, missed
from .redis import StoreError

PAUSE = 0.25  # seconds between two looks
STEPS = (32, 256)  # entries that are read at once to find the newest that was read before

log = logging.getLogger(__name__)


@define(eq=False)
class LogTail:
    """One reader of a live log; iterate over it after `start`. An entry of level MISSED stands for
    those that came faster than they were read, or than they are kept.
    """

    _logbook: Logbook
    _account: str
    _app: str
    # The newest that were read, newest first.
    _seen: Sequence[bytes] = field(default=(), init=False)
    _waiting: deque[LogEntry] = field(factory=deque, init=False)

    async def start(self) -> None:
        """From now on. Raises StoreError."""
        self._seen = await self._read(STEPS[0])

    def __aiter__(self) -> LogTail:
        return self

    async def __anext__(self) -> LogEntry:
        while not self._waiting:
            await trio.sleep(PAUSE)
            try:
                fresh, is_gap = await self._look()
            except StoreError as error:
                log.debug("the log of %s cannot be followed: %s", self._app, error)
                continue
            if is_gap:
                self._waiting.append(missed("entries came faster than they were read"))
            self._waiting.extend(map(self._logbook.read, reversed(fresh)))
        return self._waiting.popleft()

    async def _look(self) -> tuple[Sequence[bytes], bool]:
        """The entries that are new, newest first, and whether there were more."""
        newest = await self._read(1)
        if newest == list(self._seen[:1]):
            return [], False
        texts, place = newest, None
        for size in STEPS:
            texts = await self._read(size)
            place = self._place_in(texts)
            if place is not None or len(texts) < size:
                break
        before, self._seen = self._seen, texts[: STEPS[0]]
        return texts[:place], place is None and bool(before)

    def _place_in(self, texts: Sequence[bytes]) -> int | None:
        """Where what was read before begins."""
        for place in range(len(texts)):
            if all(map(bytes.__eq__, texts[place:], self._seen)):
                return place if self._seen else None
        return None

    async def _read(self, count: int) -> list[bytes]:
        key = self._logbook.key(self._account, self._app)
        found: list[bytes] = await self._logbook.redis.execute("LRANGE", key, 0, count - 1)
        return found
