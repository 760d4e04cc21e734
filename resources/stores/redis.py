"""Redis from Trio: one task gathers the commands that are waiting and sends them as one pipeline.

While one batch is in flight, new commands wait and go out together in the next
(benchmarks/redis_client.py has the figures). Batches use the plain socket if there is one
(direct.py); to a cluster, or over TLS, one worker thread sends them. Each caller gets its own
result or its own error. Commands go out in the order in which they were queued.

How failures are handled:
- A command is encoded before it is queued: one that cannot be sent is an error of its caller.
- A batch is sent only on a connection that stands. If there is none, it is made with back-off
  (reconnecting.py) while callers wait, at most `PATIENCE` seconds.
- If the connection breaks after a batch was sent, nobody knows what was carried out: its callers
  learn that (`StoreError.sent`), and nothing is sent twice. An answer that is not RESP breaks it.
- A command that the server refuses raises `StoreRefused`, with the server's own words. If the
  server has become a replica, or is loading, the client reconnects: the address may lead to another
  server by now.
- Whatever happens to a batch, all its callers are settled, and the next one follows.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import redis
import trio
from attrs import define, field
from outcome import Error

from ..clock import clock
from ..fence import note
from ..forever import keep_running
from .condition import Condition, RedisStatistics
from .errors import NotEncodable, StoreError, StoreRefused, Unavailable
from .fencing import call_for_run
from .gate import Gate, OpenGate, boot_time
from .link import words_of
from .links import link_to
from .reconnecting import Reconnecting
from .resp import Command, NotSent, pack
from .scripts import Script
from .waiting import Line, Posted, Waiting, settle_all

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
WAITING_BYTES = 64 << 20  # of commands waiting; beyond it, the next is refused
POSTED_MAX = 1000  # commands waiting; beyond it, `is_at_hand` is False and callers wait instead
PATIENCE = 5.0  # seconds that a caller waits for a connection
FLUSH_SECONDS = 1.0  # that closing waits for what was posted
TICK = 1.0  # seconds between two checks of the connection, and of standing refusals
REPLICAS_SECONDS = 1.0  # that a batch waits for replicas
GATE_PAUSE = 0.25  # seconds until a closed gate is asked again

PROBE: Command = ("SET", "jsbox:probe", "1", "PX", 1000)  # refused whenever other writes are

log = logging.getLogger(__name__)


@define(eq=False)
class Redis:
    """A client that any number of tasks may use at once. Made by `open_redis`."""

    _connection: Reconnecting
    _gate: Gate = field(factory=OpenGate)
    _replicas: int = 0
    on_reconnect: list[Callable[[], None]] = field(init=False)
    """What to call when the connection stands again after it was lost: what was in flight then may
    or may not have been carried out."""
    on_fenced: list[Callable[[], None]] = field(factory=list, init=False)
    """What to call when a write was refused because another server owns the partition."""
    _line: Line = field(factory=Line, init=False)
    _bell: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _is_closed: bool = field(default=False, init=False)
    _is_busy: bool = field(default=False, init=False)  # a batch is on its way
    _condition: Condition = field(factory=Condition, init=False)
    _now: Callable[[], float] = field(factory=clock, init=False)
    _batches: int = field(default=0, init=False)
    _commands: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.on_reconnect = self._connection.on_reconnect

    async def execute(self, *command: Any) -> Any:
        """Send one command.

        Raises:
            Unavailable: The server did not answer.
            StoreRefused: The server refused the command.
            NotEncodable: It cannot be encoded.

        Cancellation: the command may still be carried out.
        """
        (result,) = await self.attempt((command,))
        if isinstance(result, Exception):
            raise result
        return result

    async def run(self, script: Script, keys: Sequence[str], *args: Any) -> Any:
        """Run a Lua script, fenced if it is for a run of a partition. Raises as `execute` does."""
        return await self.execute(*call_for_run(script, keys, args))

    async def execute_many(self, commands: Sequence[Command]) -> list[Any]:
        """Send some commands together and in order. Raises the first error, after all have run."""
        results = await self.attempt(commands)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results

    async def attempt(
        self, commands: Sequence[Command], *, is_replicated: bool = False
    ) -> list[Any]:
        """Send some commands together and in order; return the result of each. A command that
        failed has its `StoreError` as result: `StoreRefused`, or `Unavailable` if its node of the
        cluster is lost. With `is_replicated` as many replicas have them as the client asks for.

        Raises:
            Unavailable: The server did not answer, or too few replicas have the commands.
            NotEncodable: One of the commands cannot be encoded; none was sent.
        """
        # No checkpoint before the commands are queued: callers rely on the order of their calls.
        packed = pack(commands)
        if not packed:
            await trio.lowlevel.checkpoint()
            return []
        if self._is_full():
            raise Unavailable(self._why_full(), sent=False)
        waiting = Waiting(commands, packed, self._now(), trio.lowlevel.current_task())
        waiting.is_replicated = is_replicated and self._replicas > 0
        self._line.put(waiting)
        self._ring()

        def abort(_: Any) -> trio.lowlevel.Abort:
            waiting.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        results: list[Any] = await trio.lowlevel.wait_task_rescheduled(abort)
        return results

    @property
    def connection(self) -> int:
        """How often the connection was made."""
        return self._connection.count

    @property
    def is_at_hand(self) -> bool:
        """Whether the connection stands and few commands wait."""
        return self._connection.is_up and not self._why_shut and len(self._line.queue) < POSTED_MAX

    def is_usable(self, key: str) -> bool:
        """Whether writes to a key have a chance, as far as known: the connection stands, and the
        server, or the node that has the key, does not refuse them all. True before first use.
        """
        if not self._connection.count:
            return True
        if not self._connection.is_up or self._why_shut:
            return False
        if (of_node := self._connection.can_write(key)) is not None:
            return of_node
        return not self._condition.refuses_writes

    async def try_out(self, key: str) -> None:
        """Write to a key to which writes had no chance, so that `is_usable` knows whether they have
        by now; it lasts a second. Raises as `execute` does.
        """
        if self._connection.is_up and not self._why_shut and not self.is_usable(key):
            await self.execute("SET", key, *PROBE[2:])
            self._condition.proved()

    def post(self, commands: Sequence[Command], failed: Callable[[Exception], None]) -> bool:
        """Queue some commands without waiting for them; `failed` is called with the first error.

        Returns:
            False, queueing nothing, if the client is closed or the queue is full.

        Raises:
            NotEncodable: One of the commands cannot be encoded; none is queued.
        """
        packed = pack(commands)
        if self._is_full():
            return False
        if packed:
            self._line.put(Posted(commands, packed, self._now(), failed))
            self._ring()
        return True

    def _ring(self) -> None:
        if self._bell:  # else the pump is at work: it looks before it rests
            self._bell.unpark()

    async def flush(self) -> None:
        """Wait until everything posted so far has run; return at once if there is no connection."""
        if self._connection.is_up and not self._why_shut:
            with suppress(StoreError):
                await self.execute("PING")

    def statistics(self) -> RedisStatistics:
        """A snapshot."""
        now = time.monotonic()
        general = self._connection.why_away
        if self._connection.is_up:
            general = self._condition.problem(now, of_all=True) or self._why_shut
        return RedisStatistics(
            up=self._connection.is_up,
            waiting=len(self._line.queue),
            batches=self._batches,
            commands=self._commands,
            reconnects=self._connection.count,
            problem=general or self._condition.problem(now, of_all=False),
            concerns_all=bool(general),
            refused=self._condition.refusals(),
        )

    def _is_full(self) -> bool:
        line = self._line
        return self._is_closed or len(line.queue) >= WAITING_MAX or line.size > WAITING_BYTES

    def _why_full(self) -> str:
        return (
            "the client is closed"
            if self._is_closed
            else f"{len(self._line.queue)} commands are waiting for Redis"
        )

    @property
    def _why_shut(self) -> str:
        """Why nothing may be sent at the moment; "" if it may."""
        return "" if self._gate.is_open(self._connection.count) else self._gate.problem

    async def _work(self, scope: trio.CancelScope) -> None:
        """Keep sending and watching, until the scope is cancelled."""
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_running, "store", self._pump)
                nursery.start_soon(keep_running, "store", self._watch)
                nursery.start_soon(keep_running, "store", self._end_overdue)

    async def _pump(self) -> None:
        while True:
            # Once it was used, a lost connection is made again even with nothing to send, and a
            # closed gate is asked: others look at whether commands can be sent.
            is_fit = self._connection.is_up and not self._why_shut
            if not self._line.queue and (is_fit or not self._connection.count):
                await self._bell.park()
            await self._connection.connect(self._tell_impatient)
            if not self._gate.is_open(self._connection.count):
                await self._ask_gate()
                continue
            batch = self._line.take(BATCH, BATCH_BYTES)
            if batch:
                await self._send(batch)

    async def _ask_gate(self) -> None:
        """Ask the store whether the gate may open; if it stays closed, pause."""
        question, connection, reason = self._gate.question(), self._connection.count, ""
        if question:
            self._is_busy, asked, reason = True, boot_time(), "the client was closed"
            try:
                answers = await self._connection.exchange(question, pack(question))
                self._gate.answered(connection, asked, answers)
                reason = ""
            except (redis.RedisError, OSError) as error:
                reason = words_of(error)
            except Exception as error:  # noqa: BLE001  # as for a batch
                note("store", error, "asking whether the store may be used")
                reason = words_of(error)
            finally:
                self._is_busy = False
                if reason:
                    self._connection.lose(reason)
        if not self._gate.is_open(connection):
            self._tell_impatient()
            await trio.sleep(GATE_PAUSE)

    async def _send(self, batch: deque[Waiting | Posted]) -> None:
        """Exchange a batch, and settle all its callers, whatever happens."""
        commands = [command for waiting in batch for command in waiting.commands]
        packed = b"".join([waiting.packed for waiting in batch])
        awaited = self._replicas > 0 and any(waiting.is_replicated for waiting in batch)
        if awaited:  # the write, since WAIT is about what this connection has written
            awaiting = (PROBE, ("WAIT", self._replicas, int(REPLICAS_SECONDS * 1000)))
            commands, packed = [*commands, *awaiting], packed + pack(awaiting)
        self._is_busy = True
        reason = "the client was closed"  # before the answers came
        try:
            results = await self._connection.exchange(commands, packed)
            if len(results) != len(commands):
                text = f"{len(results)} answers to {len(commands)} commands"
                raise RuntimeError(text)  # noqa: TRY301  # as any other bug
            self._batches += 1
            self._commands += len(commands)
            self._look_at(commands, results)
            lacking = None
            if awaited:
                now = time.monotonic()
                lacking = self._condition.replicated(results[-1], self._replicas, now)
            settle_all(batch, results, lacking)
            if lacking is not None:
                self._connection.announce()
        except NotSent as error:
            self._put_back(batch, words_of(error))
            await self._connection.pause_if_new()
        except (redis.RedisError, OSError) as error:
            log.warning("lost Redis with %d commands in flight: %s", len(commands), words_of(error))
            reason = f"Redis did not answer: {words_of(error)}"
        # callers must not wait for ever, and the next batch may succeed
        except Exception as error:  # noqa: BLE001
            note("store", error, f"a batch of {len(commands)} commands")
            reason = f"the client of Redis failed: {words_of(error)}"
        finally:
            self._is_busy = False
            if batch:
                self._connection.lose(reason)
            while batch:
                batch.popleft().settle(Error(Unavailable(reason, sent=True)))

    def _look_at(self, commands: Sequence[Command], results: list[Any]) -> None:
        """Replace errors among the answers by ours, and do what they ask for."""
        found = self._condition.look_at(commands, results, time.monotonic())
        if found is None:
            return
        if found.is_fenced:
            for call in self.on_fenced:
                call()
        if found.moves_on:
            self._connection.move_on(found.moves_on)
        if found.is_unknown:
            self._connection.announce()

    def _put_back(self, batch: deque[Waiting | Posted], reason: str) -> None:
        """Requeue a batch of which nothing was sent: it waits for the next connection."""
        self._connection.lose(reason)
        self._line.put_back(batch)
        self._tell_impatient()

    def _tell_impatient(self) -> None:
        reason = self._why_shut if self._connection.is_up else self._connection.why_away
        self._line.dismiss(reason, trio.current_time() - PATIENCE)

    async def _watch(self) -> None:
        """Notice an idle connection that was closed, release callers that have waited long enough,
        and notice when a refusal is over.
        """
        while True:
            await trio.sleep(TICK)
            if not self._connection.is_up or self._why_shut:
                self._tell_impatient()
            elif not self._is_busy and not self._line.queue and self._connection.is_stale:
                self._connection.lose("the server closed the connection")
                self._bell.unpark()
            elif self._condition.can_be_proved:
                with trio.move_on_after(PATIENCE), suppress(StoreError):
                    await self.execute(*PROBE)
                    self._condition.proved()

    async def _end_overdue(self) -> None:
        """End exchanges that wait too long, for ever."""
        while True:
            await trio.sleep(TICK)
            self._connection.end_overdue()

    def _close(self) -> None:
        """Refuse new commands, and release whoever waits for a server."""
        self._is_closed = True
        self._connection.abandon()

    def _settle_all(self) -> None:
        """The end: no task works on the queue any more."""
        self._connection.close()
        self._line.dismiss("the client is closed")


@asynccontextmanager
async def open_redis(url: str, gate: Gate | None = None, replicas: int = 0) -> AsyncIterator[Redis]:
    """Open a client for a URL; it connects when first used, and sends nothing while `gate` is
    closed. `replicas`: how many replicas must confirm batches that are sent with
    `is_replicated`.
    """
    client = Redis(Reconnecting(link_to(url)), gate or OpenGate(), replicas)
    working = trio.CancelScope(shield=True)  # until the end, also if we are cancelled
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client._work, working)  # noqa: SLF001  # made here
            try:
                yield client
            finally:
                with trio.move_on_after(FLUSH_SECONDS, shield=True):
                    await client.flush()
                client._close()  # noqa: SLF001  # of this file
                working.cancel()
    finally:
        client._settle_all()  # noqa: SLF001  # as above
