"""Metrics of several servers that share the work: Graphite keeps one value of a path and a time, so
what the servers have of a stretch of time is added up in the store, and one of them sends it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import trio
from attrs import define, field, frozen

from ..fence import fence
from .graphite import Bucket, Graphite, Target, Values
from .redis import Redis, StoreError, StoreRefused
from .scripts import script

DUE = "jsbox:{metrics}:due"  # stretches of time that are to be sent (sorted set, by their end)
GRACE = 3.0  # seconds after its end that a server may still add to one
AT_ONCE = 200  # metrics in one step
PARTS_MAX = 500  # that wait for the store
KEPT = 3600  # seconds that what nobody has sent is kept
TICK = 1.0  # seconds between two looks

log = logging.getLogger(__name__)


@frozen
class _Part:
    """Some of what this server has of a stretch of time."""

    key: str
    end: float
    rows: Sequence[Any]


@define(eq=False)
class MetricSums:
    """Adds what this server has; sends what all have, when that falls to it."""

    _redis: Redis
    _graphite: Graphite
    _is_ours: Callable[[], bool]
    _waiting: deque[_Part] = field(factory=deque, init=False)

    def take(self, bucket: Bucket) -> None:
        """A stretch of time has ended here."""
        rows = [
            (f"{path}.{agg}", one.count, *map(repr, (one.total, one.low, one.high, one.last)))
            for (path, agg), one in bucket.values.items()
        ]
        for start in range(0, len(rows), AT_ONCE):
            flat = [part for row in rows[start : start + AT_ONCE] for part in row]
            self._waiting.append(_Part(_key(bucket), bucket.end, flat))
        if (dropped := len(self._waiting) - PARTS_MAX) > 0:
            log.warning("up to %d metrics are dropped: the store is away", dropped * AT_ONCE)
            for _ in range(dropped):
                self._waiting.popleft()

    async def run(self) -> None:
        """Add and send, until cancelled."""
        while True:
            await trio.sleep(TICK)
            with fence("metrics"):
                try:
                    await self._add()
                    if self._is_ours():
                        await self._send()
                except StoreError as error:
                    log.warning("metrics of all servers cannot be added up: %s", error)

    async def finish(self) -> None:
        """Add what this server has of times that have not ended: it stops. Raises StoreError."""
        self._graphite.flush(float("inf"))
        await self._add()

    async def _add(self) -> None:
        while self._waiting:
            # Taken out before anything is waited for: `take` may drop the first meanwhile, and
            # `finish` may add at the same time as `run`.
            part = self._waiting.popleft()
            try:
                # First: what is in no list would never be sent.
                due = max(part.end, time.time()) + GRACE
                await self._redis.execute("ZADD", DUE, due, part.key)
                await self._redis.run(script("metrics_merge"), (part.key,), KEPT, *part.rows)
            except StoreError as error:
                if not error.sent:  # else it may have been added, and must not be twice
                    self._waiting.appendleft(part)
                raise

    async def _send(self) -> None:
        for key in await self._redis.execute("ZRANGE", DUE, "-inf", time.time(), "BYSCORE"):
            try:
                flat = await self._redis.execute("HGETALL", key)
                found = _read(key.decode())
                if found is not None:
                    target, start = found
                    self._graphite.put(target, list(_lines(flat, start)))
            except (StoreRefused, ValueError) as error:  # others are sent all the same
                log.warning("metrics in %.100r cannot be read, and are dropped: %s", key, error)
            # What is added later replaces what was sent: so the hash stays until it expires.
            await self._redis.execute("ZREM", DUE, key)


def _key(bucket: Bucket) -> str:
    target = bucket.target
    return f"jsbox:{{metrics}}:{bucket.start}:{target.bucket:g}:{target.port}:{target.host}"


def _read(key: str) -> tuple[Target, int] | None:
    try:
        start, length, port, host = key.split("}:", 1)[1].split(":", 3)
        return Target(host, int(port), float(length)), int(start)
    except (IndexError, ValueError):
        return None


def _lines(flat: Sequence[bytes], start: int) -> Iterable[str]:
    for name, text in zip(flat[::2], flat[1::2], strict=True):
        count, *numbers = text.split(b" ")
        total, low, high, last = map(float, numbers)
        values = Values(int(count), total, low, high, last)
        path = name.decode()
        yield f"{path} {values.result(path.rpartition('.')[2]):f} {start}\n"
