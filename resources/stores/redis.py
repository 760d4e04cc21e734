"""Redis from Trio: one task gathers the commands that are waiting and sends them as one pipeline.

While one batch is on its way, whatever else is asked for waits, and goes together in the next
(benchmarks/redis_client.py has the figures). Batches go out over the plain socket if there is one
(direct.py), else, to a cluster or through TLS, by one worker thread. Each caller gets its own
result or its own error. Commands go out in the order in which they were asked for.

Theory of failure:
- A command is encoded before it is queued: what cannot be sent is an error of its caller.
- Before a batch is sent the connection must stand, and is retried with back-off while callers wait,
  at most `PATIENCE` seconds.
- A connection that breaks after a batch was sent leaves it unknown what was carried out: those
  callers are told so (`StoreError.sent`), and nothing is sent twice. An answer that is no RESP
  breaks it.
- A command that the server refuses is `StoreRefused`, with the server's own words. Of a server that
  has become a replica, or is loading, the connection is made anew: its address may lead to another
  one.
- Whatever happens in a batch, all who wait for it are settled, and the next one follows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import redis
import trio
from attrs import define, field, frozen
from outcome import Error, Value

from ..fence import keep_running, note
from .condition import Condition
from .direct import Command, Direct, ErrorAnswer, Lost, NotSent, pack
from .errors import NotEncodable, StoreError, StoreRefused, Unavailable
from .link import Link, link_to, words_of
from .scripts import Script
from .waiting import Line, Posted, Waiting

__all__ = [
    "NotEncodable",
    "Redis",
    "RedisStatistics",
    "StoreError",
    "StoreRefused",
    "Unavailable",
    "open_redis",
]

BATCH = 1000  # commands in one pipeline; more wait for the next
BATCH_BYTES = 4 << 20  # the same; one command may be larger
WAITING_MAX = 50_000  # commands waiting; more are refused as Unavailable
WAITING_BYTES = 64 << 20  # of commands waiting; when there are more, the next is refused
# commands waiting; when there are more nothing is posted, and whoever asks has to wait
POSTED_MAX = 1000
PATIENCE = 5.0  # seconds that a caller waits for a connection
FLUSH_SECONDS = 1.0  # that the end waits for what was posted
BACKOFF = (0.05, 1.0)  # seconds between attempts to connect: first, most
AGAIN = (1.0, 30.0)  # seconds between new connections to a server that refuses all: first, most
AGAIN_SETTLED = 60.0  # seconds without such a refusal, after which it begins with the first again
# seconds between two looks at a connection that is not used, and at what stands in the store's way
TICK = 1.0
REMIND = 60.0  # seconds between two log lines about a server that stays away

MOVE_ON = frozenset({"READONLY", "LOADING", "MASTERDOWN", "NOAUTH", "WRONGPASS"})
"""Codes that another connection may not meet: the address may lead to another server by now."""

PROBE: Command = ("SET", "jsbox:probe", "1", "PX", 1000)
"""Writes, and leaves nothing: refused as other writing commands are."""

log = logging.getLogger(__name__)


@frozen
class RedisStatistics:
    """How a client is doing.

    Attributes:
        up: Whether the connection stands.
        problem: Why the connection does not stand, or what the store refuses commands with, in its
            own words; "" when well.
        concerns_all: Whether that is about every command, or all that write; else one kind of
            command met it lately.
        refused: How many commands were refused, by the store's code.
    """

    up: bool
    waiting: int
    batches: int
    commands: int
    reconnects: int
    problem: str = ""
    concerns_all: bool = False
    refused: Mapping[str, int] = field(factory=dict)


@define(eq=False)
class Redis:
    """A client that any number of tasks may use at once. Made by `open_redis`."""

    _link: Link
    on_reconnect: list[Callable[[], None]] = field(factory=list, init=False)
    """Called when the connection stands again after it was lost: what was in flight then may or may not have happened."""
    _direct: Direct | None = field(default=None, init=False)
    _line: Line = field(factory=Line, init=False)
    _bell: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _thread: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(1), init=False)
    _ending: threading.Lock = field(factory=threading.Lock, init=False)
    # in a thread that closes the link itself, should we be closed
    _connecting: bool = field(default=False, init=False)
    _closed: bool = field(default=False, init=False)
    _up: bool = field(default=False, init=False)
    # why it is not up
    _away: str = field(default="Redis was not asked for anything yet", init=False)
    _busy: bool = field(default=False, init=False)  # a batch is on its way
    _connected_at: float = field(default=0.0, init=False)
    _reminded_at: float = field(default=-REMIND, init=False)
    # when a server that refuses all may be left again
    _again_at: float = field(default=0.0, init=False)
    _again_pause: float = field(default=AGAIN[0], init=False)
    _condition: Condition = field(factory=Condition, init=False)
    _batches: int = field(default=0, init=False)
    _commands: int = field(default=0, init=False)
    _reconnects: int = field(default=0, init=False)

    async def execute(self, *command: Any) -> Any:
        """Send one command.

        Raises:
            Unavailable: The server did not answer.
            StoreRefused: The server refused the command.
            NotEncodable: It holds what cannot be sent.

        Cancellation: the command may still be carried out.
        """
        (result,) = await self.attempt((command,))
        if isinstance(result, Exception):
            raise result
        return result

    async def run(self, script: Script, keys: Sequence[str], *args: Any) -> Any:
        """Run a Lua script. Raises as `execute` does."""
        return await self.execute(*script.call(keys, *args))

    async def execute_many(self, commands: Sequence[Command]) -> list[Any]:
        """Send some commands together and in order; raises the first error, after all were carried
        out.
        """
        results = await self.attempt(commands)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results

    async def attempt(self, commands: Sequence[Command]) -> list[Any]:
        """Send some commands together and in order. The `StoreError` that one of them meets is its
        result: `StoreRefused`, or of a cluster that has lost a node, `Unavailable`.

        Raises:
            Unavailable: The server did not answer.
            NotEncodable: One of the commands holds what cannot be sent; none was.
        """
        # No checkpoint before the commands stand in the queue: callers rely on the order in which
        # they ask.
        packed = pack(commands)
        if not packed:
            await trio.lowlevel.checkpoint()
            return []
        if self._is_full():
            raise Unavailable(self._why_full(), sent=False)
        waiting = Waiting(commands, packed, trio.current_time(), trio.lowlevel.current_task())
        self._line.put(waiting)
        self._bell.unpark()

        def abort(_: Any) -> trio.lowlevel.Abort:
            waiting.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        results: list[Any] = await trio.lowlevel.wait_task_rescheduled(abort)
        return results

    @property
    def is_at_hand(self) -> bool:
        """Whether the connection stands and few commands wait."""
        return self._up and len(self._line.queue) < POSTED_MAX

    def post(self, commands: Sequence[Command], failed: Callable[[Exception], None]) -> bool:
        """Have some commands sent, in their turn, and do not wait for it; `failed` is called should
        they not be carried out.

        Returns False, queueing nothing, if the client is closed or as much waits as may.

        Raises:
            NotEncodable: One of the commands holds what cannot be sent.
        """
        packed = pack(commands)
        if self._is_full():
            return False
        if packed:
            self._line.put(Posted(commands, packed, trio.current_time(), failed))
            self._bell.unpark()
        return True

    async def flush(self) -> None:
        """Wait until what was posted is carried out, if the server can be reached."""
        if self._up:
            with suppress(StoreError):
                await self.execute("PING")

    def statistics(self) -> RedisStatistics:
        """A snapshot."""
        now = time.monotonic()
        general = self._condition.problem(now, of_all=True) if self._up else self._away
        return RedisStatistics(
            up=self._up,
            waiting=len(self._line.queue),
            batches=self._batches,
            commands=self._commands,
            reconnects=self._reconnects,
            problem=general or self._condition.problem(now, of_all=False),
            concerns_all=bool(general),
            refused=self._condition.refusals(),
        )

    def _is_full(self) -> bool:
        line = self._line
        return self._closed or len(line.queue) >= WAITING_MAX or line.size > WAITING_BYTES

    def _why_full(self) -> str:
        return (
            "the client is closed"
            if self._closed
            else f"{len(self._line.queue)} commands are waiting for Redis"
        )

    async def _pump(self) -> None:
        while True:
            # Once used, the connection is made anew without being asked for: others look whether it
            # stands.
            if not self._line.queue and (self._up or not self._reconnects):
                await self._bell.park()
            await self._connect()
            batch = self._line.take(BATCH, BATCH_BYTES)
            if batch:
                await self._send(batch)

    async def _send(self, batch: deque[Waiting | Posted]) -> None:
        """Exchange a batch, and settle all who wait for it, whatever comes."""
        commands = [command for waiting in batch for command in waiting.commands]
        packed = b"".join([waiting.packed for waiting in batch])
        self._busy = True
        reason = "the client was closed"  # before the answers came
        try:
            results = await self._exchange(commands, packed)
            if len(results) != len(commands):
                raise RuntimeError(f"{len(results)} answers to {len(commands)} commands")  # noqa: TRY301  # as any other bug
            self._batches += 1
            self._commands += len(commands)
            self._look_at(commands, results)
            start = 0
            while batch:
                waiting = batch.popleft()
                end = start + len(waiting.commands)
                waiting.settle(Value(results[start:end]))
                start = end
        except NotSent as error:
            self._put_back(batch, words_of(error))
            if trio.current_time() - self._connected_at < BACKOFF[1]:
                await trio.sleep(BACKOFF[0])
        except (redis.RedisError, OSError) as error:
            log.warning("lost Redis with %d commands in flight: %s", len(commands), words_of(error))
            reason = f"Redis did not answer: {words_of(error)}"
        except Exception as error:  # noqa: BLE001  # whoever waits must not wait for ever, and the next batch is well
            note("store", error, f"a batch of {len(commands)} commands")
            reason = f"the client of Redis failed: {words_of(error)}"
        finally:
            self._busy = False
            if batch:
                self._lost(reason)
            while batch:
                batch.popleft().settle(Error(Unavailable(reason, sent=True)))

    async def _exchange(self, commands: Sequence[Command], packed: bytes) -> list[Any]:
        if self._direct is not None:
            return await self._direct.exchange(commands, packed)
        return await trio.to_thread.run_sync(
            self._link.exchange, commands, packed, limiter=self._thread
        )

    def _look_at(self, commands: Sequence[Command], results: list[Any]) -> None:
        """Put our own errors in the place of those among the answers, and note what they say about
        the store.
        """
        bad = [n for n, result in enumerate(results) if isinstance(result, Exception)]
        if not self._condition.is_well:
            refused = set(bad)
            self._condition.succeeded(
                command for n, command in enumerate(commands) if n not in refused
            )
        moves_on, is_unknown = "", False
        now = time.monotonic()
        for n in bad:
            error = results[n]
            if isinstance(error, ErrorAnswer):
                refusal = results[n] = StoreRefused(str(error))
                self._condition.refused(commands[n], refusal, now)
                if refusal.code in MOVE_ON:
                    moves_on = refusal.plain
            else:
                sent = error.sent if isinstance(error, Lost) else True
                results[n] = Unavailable(words_of(error), sent=sent)
                self._condition.unreachable(words_of(error), now)
                is_unknown |= sent
        if moves_on:
            self._move_on(moves_on)
        if is_unknown:
            self._tell_reconnected()

    def _move_on(self, reason: str) -> None:
        """Connect anew, now and then: the address may lead to a server that does not refuse."""
        now = trio.current_time()
        if now >= self._again_at:
            if now > self._again_at + AGAIN_SETTLED:
                self._again_pause = AGAIN[0]
            self._again_at = now + self._again_pause
            self._again_pause = min(self._again_pause * 2, AGAIN[1])
            log.warning("connecting to Redis anew, since it refuses: %s", reason)
            self._lost(reason)

    def _put_back(self, batch: deque[Waiting | Posted], reason: str) -> None:
        """Nothing of a batch was sent: it waits for the next connection."""
        self._lost(reason)
        self._line.put_back(batch)
        self._tell_impatient(self._away)

    async def _connect(self) -> None:
        """Connect, however long it takes; callers whose patience ends meanwhile are told."""
        pause = BACKOFF[0]
        while not self._up:
            try:
                self._connecting = True
                await trio.to_thread.run_sync(
                    self._connect_link, limiter=self._thread, abandon_on_cancel=True
                )
                self._direct = self._link.direct()
            except Exception as error:  # noqa: BLE001  # whatever it is, it may be over at the next attempt
                self._disconnect()
                self._away = f"Redis cannot be reached: {words_of(error)}"
                self._remind(pause)
                self._tell_impatient(self._away)
                await trio.sleep(pause)
                pause = min(pause * 2, BACKOFF[1])
            else:
                self._up = True
                self._connected_at = trio.current_time()
                self._reminded_at = self._connected_at - REMIND
                self._reconnects += 1
                if self._reconnects > 1:
                    self._tell_reconnected()

    def _connect_link(self) -> None:
        """In a thread, which nobody waits for should the client be closed meanwhile."""
        try:
            self._link.connect()
        finally:
            with self._ending:
                self._connecting = False
                if self._closed:
                    self._link.close()

    def _remind(self, pause: float) -> None:
        now = trio.current_time()
        if now - self._reminded_at >= REMIND:
            self._reminded_at = now
            log.warning("%s; next attempt in %.2f s", self._away, pause)

    def _tell_reconnected(self) -> None:
        for call in self.on_reconnect:
            try:
                call()
            except Exception as error:  # noqa: BLE001  # the others are to be told, too
                note("store", error, "telling of a new connection")

    def _tell_impatient(self, reason: str) -> None:
        self._line.dismiss(reason, trio.current_time() - PATIENCE)

    async def _watch(self) -> None:
        """See that a connection is gone which nobody uses, that callers have waited enough, and
        that a refusal is over.
        """
        while True:
            await trio.sleep(TICK)
            if not self._up:
                self._tell_impatient(self._away)
            elif (
                self._direct is not None
                and not self._busy
                and not self._line.queue
                and self._direct.is_stale
            ):
                self._lost("the server closed the connection")
                self._bell.unpark()
            elif self._condition.can_be_proved:
                with trio.move_on_after(PATIENCE), suppress(StoreError):
                    await self.execute(*PROBE)
                    self._condition.proved()

    def _lost(self, reason: str) -> None:
        self._disconnect()
        if self._up:
            self._up = False
            self._away = f"the connection to Redis is lost: {reason}"

    def _disconnect(self) -> None:
        if self._direct is not None:
            self._direct.close()
            self._direct = None
        self._link.close()

    def _close(self) -> None:
        """Nothing is taken any more, and whoever waits for a server, or for a thread that does, is
        let go.
        """
        with self._ending:
            self._closed = True
            self._link.abandon()

    def _settle_all(self) -> None:
        """The end: nobody works on the queue any more."""
        if self._direct is not None:
            self._direct.close()
            self._direct = None
        with self._ending:
            if not self._connecting:
                self._link.close()
        self._up = False
        self._line.dismiss("the client is closed")


@asynccontextmanager
async def open_redis(url: str) -> AsyncIterator[Redis]:
    """A client for `redis://`, `rediss://`, `unix://` or `redis+cluster://`; connects when first
    used.
    """
    client = Redis(link_to(url))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_running, "store", client._pump)  # noqa: SLF001  # made here
            nursery.start_soon(keep_running, "store", client._watch)  # noqa: SLF001
            try:
                yield client
            finally:
                with trio.move_on_after(FLUSH_SECONDS, shield=True):
                    await client.flush()
                client._close()  # noqa: SLF001
                nursery.cancel_scope.cancel()
    finally:
        client._settle_all()  # noqa: SLF001
