"""Redis from Trio: one task gathers the commands that are waiting and sends them as one pipeline.

While one batch is on its way, whatever else is asked for waits, and goes together in the next (benchmarks/redis_client.py has the
figures). Batches go out over the plain socket where there is one (direct.py), else, to a cluster or through TLS, by redis-py in one worker
thread. Each caller gets its own result or its own error. Commands go out in the order in which they were asked for.

Theory of failure: before a batch is sent the connection must stand, and is retried with back-off while callers wait, at most
`PATIENCE` seconds. A connection that breaks after a batch was sent leaves it unknown what was carried out: those callers are
told so (`Unavailable.sent`), and nothing is sent twice.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import redis
import trio
from attrs import define, field, frozen
from outcome import Error, Value

from .direct import Command, Direct
from .link import Link, link_to
from .scripts import Script

BATCH = 1000  # commands in one pipeline; more wait for the next
WAITING_MAX = 50_000  # commands waiting; more are refused as Unavailable
POSTED_MAX = 1000  # commands waiting; when there are more nothing is posted, and whoever asks has to wait
PATIENCE = 5.0  # seconds that a caller waits for a connection
FLUSH_SECONDS = 1.0  # that the end waits for what was posted
BACKOFF = (0.05, 1.0)  # seconds between attempts to connect: first, most

log = logging.getLogger(__name__)


class StoreError(Exception):
    """The store did not do what it was asked to. Callers catch this one, and need not know which it is.

    Attributes:
        sent: Whether the command may have been carried out.
    """

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class Unavailable(StoreError):
    """The store did not answer."""


class StoreRefused(StoreError):
    """The store answered with an error: OOM, READONLY, MISCONF, NOREPLICAS, NOPERM, BUSY, WRONGTYPE and the like.

    The text is the server's own. `sent` is False: what is refused is not carried out (a script may have begun).
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason, sent=False)


@define(eq=False)
class _Waiting:
    commands: Sequence[Command]
    since: float
    task: trio.lowlevel.Task | None  # None once the caller was cancelled or answered

    @property
    def is_wanted(self) -> bool:
        return self.task is not None

    def settle(self, result: Value[list[Any]] | Error) -> None:
        if self.task is not None:
            task, self.task = self.task, None
            trio.lowlevel.reschedule(task, result)


@frozen
class _Posted:
    commands: Sequence[Command]
    since: float
    failed: Callable[[Exception], None]
    is_wanted = True

    def settle(self, result: Value[list[Any]] | Error) -> None:
        error = result.error if isinstance(result, Error) else None
        if error is None:
            error = next((one for one in result.unwrap() if isinstance(one, Exception)), None)
        if isinstance(error, Exception):
            self.failed(error)


@frozen
class RedisStatistics:
    """How a client is doing."""

    up: bool
    waiting: int
    batches: int
    commands: int
    reconnects: int


@define(eq=False)
class Redis:
    """A client that any number of tasks may use at once. Made by `open_redis`."""

    _link: Link
    on_reconnect: list[Callable[[], None]] = field(factory=list, init=False)
    """Called when the connection stands again after it was lost: what was in flight then may or may not have happened."""
    _direct: Direct | None = field(default=None, init=False)
    _queue: deque[_Waiting | _Posted] = field(factory=deque, init=False)
    _bell: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _thread: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(1), init=False)
    _closed: bool = field(default=False, init=False)
    _up: bool = field(default=False, init=False)
    _batches: int = field(default=0, init=False)
    _commands: int = field(default=0, init=False)
    _reconnects: int = field(default=0, init=False)

    async def execute(self, *command: Any) -> Any:
        """Send one command.

        Raises:
            Unavailable: The server did not answer.
            StoreRefused: The server refused the command.

        Cancellation: the command may still be carried out.
        """
        (result,) = await self.execute_many([command])
        return result

    async def run(self, script: Script, keys: Sequence[str], *args: Any) -> Any:
        """Run a Lua script. Raises as `execute` does."""
        return await self.execute(*script.call(keys, *args))

    async def execute_many(self, commands: Sequence[Command]) -> list[Any]:
        """Send some commands together and in order; raises the first error, after all were carried out."""
        results = await self.attempt(commands)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results

    async def attempt(self, commands: Sequence[Command]) -> list[Any]:
        """Send some commands together and in order; the `StoreRefused` that the server answers one with is its result.

        Raises:
            Unavailable: The server did not answer.
        """
        # No checkpoint before the commands stand in the queue: callers rely on the order in which they ask.
        if self._closed or len(self._queue) >= WAITING_MAX:
            reason = "the client is closed" if self._closed else f"{WAITING_MAX} commands are waiting for Redis"
            raise Unavailable(reason, sent=False)
        waiting = _Waiting(commands, trio.current_time(), trio.lowlevel.current_task())
        self._queue.append(waiting)
        self._bell.unpark()

        def abort(_: Any) -> trio.lowlevel.Abort:
            waiting.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        results: list[Any] = await trio.lowlevel.wait_task_rescheduled(abort)
        return results

    @property
    def is_at_hand(self) -> bool:
        """Whether the connection stands and few commands wait."""
        return self._up and len(self._queue) < POSTED_MAX

    def post(self, commands: Sequence[Command], failed: Callable[[Exception], None]) -> bool:
        """Have some commands sent, in their turn, and do not wait for it; `failed` is called should they not be carried out.

        Whether they stand in the queue; when the client is closed or `WAITING_MAX` wait they do not.
        """
        if self._closed or len(self._queue) >= WAITING_MAX:
            return False
        self._queue.append(_Posted(commands, trio.current_time(), failed))
        self._bell.unpark()
        return True

    async def flush(self) -> None:
        """Wait until what was posted is carried out, where the server can be reached."""
        if self._up:
            with suppress(Unavailable):
                await self.execute("PING")

    def statistics(self) -> RedisStatistics:
        """A snapshot."""
        return RedisStatistics(self._up, len(self._queue), self._batches, self._commands, self._reconnects)

    async def _pump(self) -> None:
        while True:
            if not self._queue:
                await self._bell.park()
            await self._connect()
            batch = self._take_batch()
            if batch:
                await self._send(batch)

    def _take_batch(self) -> list[_Waiting | _Posted]:
        batch, size = list[_Waiting | _Posted](), 0
        while self._queue and size < BATCH:
            waiting = self._queue.popleft()
            if waiting.is_wanted:  # else it was cancelled before it was sent
                batch.append(waiting)
                size += len(waiting.commands)
        return batch

    async def _send(self, batch: list[_Waiting | _Posted]) -> None:
        commands = [command for waiting in batch for command in waiting.commands]
        try:
            if self._direct is not None:
                results = await self._direct.exchange(commands)
            else:
                results = await trio.to_thread.run_sync(self._link.exchange, commands, limiter=self._thread)
        except (redis.RedisError, OSError) as error:
            log.warning("lost Redis with %d commands in flight: %s", len(commands), error)
            self._lost()
            for waiting in batch:
                waiting.settle(Error(Unavailable(f"Redis did not answer: {error}", sent=True)))
            return
        self._batches += 1
        self._commands += len(commands)
        start = 0
        for waiting in batch:
            end = start + len(waiting.commands)
            waiting.settle(Value([_typed(result) for result in results[start:end]]))
            start = end

    async def _connect(self) -> None:
        """Connect, however long it takes; callers whose patience ends meanwhile are told."""
        pause = BACKOFF[0]
        while not self._up:
            try:
                await trio.to_thread.run_sync(self._link.connect, limiter=self._thread)
            except (redis.RedisError, OSError) as error:
                self._link.close()
                log.warning("cannot reach Redis: %s; next attempt in %.2f s", error, pause)
                self._tell_impatient(f"Redis cannot be reached: {error}")
                await trio.sleep(pause)
                pause = min(pause * 2, BACKOFF[1])
            else:
                self._direct = self._link.direct()
                self._up = True
                self._reconnects += 1
                if self._reconnects > 1:
                    for call in self.on_reconnect:
                        call()

    def _tell_impatient(self, reason: str) -> None:
        latest = trio.current_time() - PATIENCE
        while self._queue and self._queue[0].since <= latest:
            self._queue.popleft().settle(Error(Unavailable(reason, sent=False)))

    def _lost(self) -> None:
        self._disconnect()
        self._up = False

    def _disconnect(self) -> None:
        if self._direct is not None:
            self._direct.close()
            self._direct = None
        self._link.close()

    def _close(self) -> None:
        self._closed = True
        self._disconnect()
        while self._queue:
            self._queue.popleft().settle(Error(Unavailable("the client is closed", sent=False)))


def _typed(result: Any) -> Any:
    return StoreRefused(str(result)) if isinstance(result, Exception) else result


@asynccontextmanager
async def open_redis(url: str) -> AsyncIterator[Redis]:
    """A client for `redis://`, `rediss://`, `unix://` or `redis+cluster://`; connects when first used."""
    client = Redis(link_to(url))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client._pump)  # noqa: SLF001
            try:
                yield client
            finally:
                with trio.move_on_after(FLUSH_SECONDS, shield=True):
                    await client.flush()
                nursery.cancel_scope.cancel()
    finally:
        client._close()  # noqa: SLF001  # only now is no thread using the connection
