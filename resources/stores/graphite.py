"""Metrics for Graphite: values are gathered in time buckets and sent in the plaintext protocol."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
from attrs import define, field, frozen

from ..fence import note
from ..forever import keep_running
from .resp import is_readable

LINES_MAX = 100_000  # that wait for one Graphite; beyond it the oldest are dropped and counted
NAMES_MAX = 10_000  # distinct metrics of one account in one bucket; more are refused
BACKOFF = (0.2, 30.0)  # seconds between attempts to connect: first, most
CONNECT_SECONDS = 10.0
SEND_SECONDS = 10.0
BATCH = 1000  # lines that are sent together
LAST_SECONDS = 3.0  # for sending the rest at shutdown
AGGREGATORS = ("sum", "avg", "min", "max", "last")

log = logging.getLogger(__name__)


class TooManyMetrics(Exception):
    """An account has reached its number of distinct metrics in this bucket."""


@frozen
class Target:
    """A Graphite server, and the length of its buckets in seconds."""

    host: str
    port: int
    bucket: float


@define
class Values:
    """All values of one metric and aggregator in one bucket."""

    count: int = 0
    total: float = 0.0
    low: float = float("inf")
    high: float = float("-inf")
    last: float = 0.0

    def add(self, value: float) -> None:
        """Add one."""
        self.count += 1
        self.total += value
        self.low = min(self.low, value)
        self.high = max(self.high, value)
        self.last = value

    def result(self, aggregator: str) -> float:
        """What Graphite is sent."""
        match aggregator:
            case "sum":
                return self.total
            case "avg":
                return self.total / self.count
            case "min":
                return self.low
            case "max":
                return self.high
            case _:
                return self.last


@define
class Bucket:
    """One stretch of time for one target: path and aggregator to values."""

    target: Target
    start: int
    values: dict[tuple[str, str], Values] = field(factory=dict)
    names: dict[str, int] = field(factory=dict)  # account to its distinct metrics

    @property
    def end(self) -> float:
        """When it ends, as `time.time()` has it."""
        return self.start + self.target.bucket

    def lines(self) -> list[str]:
        """What Graphite is sent."""
        return [
            f"{path}.{agg} {values.result(agg):f} {self.start}\n"
            for (path, agg), values in self.values.items()
        ]


@define(eq=False)
class _Sender:
    """The connection to one Graphite server, made again whenever it breaks."""

    host: str
    port: int
    lines: deque[str] = field(factory=deque)
    dropped: int = 0
    batches: int = 0
    pause: float = BACKOFF[0]
    sending: bool = False
    bell: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)
    sent: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)

    def put(self, lines: list[str]) -> None:
        self.lines.extend(lines)
        while len(self.lines) > LINES_MAX:
            self.lines.popleft()
            self.dropped += 1
        self.bell.unpark()

    async def run(self) -> None:
        """Send for ever; after any failure, try again after a pause."""
        while True:
            batches = self.batches
            try:
                with trio.fail_after(CONNECT_SECONDS):
                    stream = await trio.open_tcp_stream(self.host, self.port)
                async with stream:
                    await self._send_all(stream)
            except (OSError, trio.TooSlowError, trio.BrokenResourceError) as error:
                reason = str(error) or "it takes nothing"
                log.warning(
                    "Graphite at %s:%d: %s; %d lines wait",
                    self.host,
                    self.port,
                    reason,
                    len(self.lines),
                )
            # an unexpected error (a bad host name) may pass, too
            except Exception as error:  # noqa: BLE001
                note("graphite", error, f"{self.host}:{self.port}")
            if self.batches > batches:
                self.pause = BACKOFF[0]
            await trio.sleep(self.pause)
            self.pause = min(self.pause * 2, BACKOFF[1])

    async def _send_all(self, stream: trio.SocketStream) -> None:
        while True:
            if not self.lines:
                await self.bell.park()
            if is_readable(stream.socket.fileno()) and not await stream.receive_some(1024):
                # anything sent now would be lost
                raise trio.BrokenResourceError("it has closed the connection")
            batch = [self.lines.popleft() for _ in range(min(len(self.lines), BATCH))]
            self.sending = True
            try:
                with trio.fail_after(SEND_SECONDS):
                    await stream.send_all("".join(batch).encode("utf-8", "replace"))
            except BaseException:
                self.lines.extendleft(reversed(batch))  # a point sent twice overwrites itself
                raise
            finally:
                self.sending = False
            self.batches += 1
            self.sent.unpark_all()


@define(eq=False)
class Graphite:
    """Gathers metrics and sends each bucket when it ends. Made by `open_graphite`."""

    _nursery: trio.Nursery
    add_up: Callable[[Bucket], None] | None = field(default=None, init=False)
    """Takes what was gathered instead, if it is to be added to what other servers have."""
    _buckets: dict[tuple[Target, int], Bucket] = field(factory=dict, init=False)
    _senders: dict[tuple[str, int], _Sender] = field(factory=dict, init=False)
    _bell: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)

    def fire(self, target: Target, account: str, path: str, aggregator: str, value: float) -> None:
        """Add a value to the current bucket.

        Raises:
            TooManyMetrics: The account has too many distinct metrics.
        """
        start = int(time.time() // target.bucket * target.bucket)
        bucket = self._buckets.get((target, start))
        if bucket is None:
            bucket = self._buckets[target, start] = Bucket(target, start)
            self._bell.unpark()
        values = bucket.values.get((path, aggregator))
        if values is None:
            names = bucket.names.get(account, 0)
            if names >= NAMES_MAX:
                raise TooManyMetrics(
                    f"{NAMES_MAX} different metrics in {target.bucket:g} s are the most an "
                    "account may fire"
                )
            bucket.names[account] = names + 1
            values = bucket.values[path, aggregator] = Values()
        values.add(value)

    async def _run(self) -> None:
        while True:
            if not self._buckets:
                await self._bell.park()
            due = min(bucket.end for bucket in self._buckets.values())
            with trio.move_on_after(max(due - time.time(), 0)):
                await self._bell.park()  # a bucket that ends sooner may be opened
            self.flush(time.time())

    def flush(self, until: float) -> None:
        """Send, or have added up, what was gathered until then."""
        for key, bucket in list(self._buckets.items()):
            if bucket.end <= until:
                del self._buckets[key]
                if self.add_up is None:
                    self.put(bucket.target, bucket.lines())
                else:
                    self.add_up(bucket)

    def put(self, target: Target, lines: list[str]) -> None:
        """Send lines, as soon as the server takes them."""
        self._sender(target).put(lines)

    def _sender(self, target: Target) -> _Sender:
        sender = self._senders.get((target.host, target.port))
        if sender is None:
            sender = self._senders[target.host, target.port] = _Sender(target.host, target.port)
            self._nursery.start_soon(sender.run)
        return sender

    @property
    def dropped(self) -> int:
        """Lines dropped since the start because a Graphite did not take them."""
        return sum(sender.dropped for sender in self._senders.values())

    @property
    def waiting(self) -> int:
        """Lines that wait to be sent."""
        return sum(len(sender.lines) for sender in self._senders.values())

    async def _close(self) -> None:
        """Send everything, including buckets that have not ended."""
        self.flush(float("inf"))
        with trio.move_on_after(LAST_SECONDS, shield=True) as last:
            for sender in self._senders.values():
                while sender.lines or sender.sending:
                    await sender.sent.park()
        if last.cancelled_caught and self.waiting:
            log.error("%d metric lines could not be sent to Graphite before the end", self.waiting)


@asynccontextmanager
async def open_graphite() -> AsyncIterator[Graphite]:
    """Gather and send until the block ends, then send the rest within `LAST_SECONDS`."""
    async with trio.open_nursery() as nursery:
        graphite = Graphite(nursery)
        nursery.start_soon(keep_running, "graphite", graphite._run)  # noqa: SLF001  # our own
        try:
            yield graphite
        finally:
            await graphite._close()  # noqa: SLF001  # likewise
            nursery.cancel_scope.cancel()
