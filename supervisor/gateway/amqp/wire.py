"""A connection to a broker: pika's protocol engine on a Trio stream.

pika brings the protocol, and adapters to several event loops. This is one more of them, made like
its own for Twisted: what the engine wants to send is queued, what arrives is fed to it, its timers
are tasks. Its callbacks run in the task that reads. Whatever goes wrong, and whatever the broker
does, ends the `async with` with `Lost`.
"""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, NoReturn

import pika
import trio
from attrs import define, field
from pika import exceptions as errors
from pika.channel import Channel as RawChannel
from pika.connection import Connection as RawConnection

from resources.fence import cause_of, first_leaf

from ...config.document import one_line
from ...runs.jobs import nothing

HEARTBEAT = 10  # seconds; a broker that says nothing for two of them, and a bit, is gone
CONNECT_SECONDS = 10.0  # for TCP, TLS and AMQP together
ANSWER_SECONDS = 30.0  # for the answer to one method
WRITE_SECONDS = 30.0  # for one write; less than what a blocked connection may take
CLOSE_SECONDS = 2.0  # for the closing handshake
CHUNK = 16 << 10  # bytes read at a time: parsing the worst of them takes 20 ms
FRAME_MAX = 128 << 10  # bytes
HEAD = 7  # bytes before a frame's payload
MESSAGE_MAX = 130 << 20  # bytes of one message; RabbitMQ's own bound is 128 MiB
HEARTBEAT_FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"

# What goes wrong is reported by the channel, once; pika logs a dozen lines for each.
logging.getLogger("pika").setLevel(logging.CRITICAL + 1)


class Lost(Exception):
    """There is no connection to the broker, or no longer; the text says why."""


@define(eq=False)
class Wire:
    """An open connection. Made by `open_wire`; to be used in the task that opened it and its
    children.

    Attributes:
        blocked: Why the broker takes no messages for now; None if it does.
        on_change: Called when `blocked` has changed.
        reason: Why the connection was lost; empty while it is open.
        completed: Messages received completely; whoever receives one increments it.
        writing: Around the present write; a blocked broker may take its time for it.
    """

    _scope: trio.CancelScope
    raw: _Adapter = field(init=False)
    blocked: str | None = None
    on_change: Callable[[], None] = nothing
    reason: str = ""
    completed: int = 0
    writing: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    _is_closing: bool = field(default=False, init=False)
    _closed: trio.Event = field(factory=trio.Event, init=False)

    @property
    def queued(self) -> int:
        """Bytes that wait to be sent."""
        return self.raw.queued

    @property
    def is_over(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._is_closing or bool(self.reason)

    def fail(self, reason: str) -> None:
        """Give the connection up: what its body does is cancelled. If called several times, the
        first reason counts.
        """
        if not self._is_closing:
            self.reason = self.reason or one_line(reason)
            self._scope.cancel()

    async def give_up(self, reason: str) -> NoReturn:
        """As `fail`, from the body itself."""
        self.fail(reason)
        await trio.sleep_forever()
        raise AssertionError

    def end(self, reason: str) -> None:
        """The stream has ended; use the engine's reason if it has one."""
        try:
            self.raw.end(errors.StreamLostError(reason))
        except Exception as error:  # noqa: BLE001  # it has ended anyway
            reason = cause_of(error)
        self.fail(reason)

    def closed(self, error: object) -> None:
        """The engine says that the connection is closed."""
        self._closed.set()
        self.fail(_text_of(error))

    def block(self, _: Any, frame: Any) -> None:
        """The broker takes no messages for now."""
        self.blocked = one_line(str(frame.method.reason)) or "no reason given"
        self.writing.deadline = math.inf
        self.on_change()

    def unblock(self, *_: Any) -> None:
        """The broker takes messages again."""
        self.blocked = None
        self.writing.deadline = trio.current_time() + WRITE_SECONDS
        self.on_change()

    async def say_goodbye(self) -> None:
        """Close the connection if it is open; what was acknowledged is sent before."""
        is_lost = bool(self.reason)
        self._is_closing = True
        if is_lost or not self.raw.is_open:
            return
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            with suppress(errors.AMQPError):
                self.raw.close()
            await self._closed.wait()

    async def channel(self) -> RawChannel:
        """Open an AMQP channel. If the broker closes it, the connection is given up."""
        raw: RawChannel = await self.ask(
            "a channel", lambda done: self.raw.channel(on_open_callback=done)
        )
        raw.add_on_close_callback(lambda _, error: self.fail(_text_of(error)))
        return raw

    async def ask(self, what: str, method: Callable[[Callable[[Any], None]], Any]) -> Any:
        """Call a method with a callback for the broker's answer, and return the answer. If there is
        none in time, the connection is given up.
        """
        answered, answers = trio.Event(), list[Any]()

        def done(answer: Any) -> None:
            answers.append(answer)
            answered.set()

        try:
            method(done)
        except errors.AMQPError as error:
            await self.give_up(_text_of(error))
        with trio.move_on_after(ANSWER_SECONDS):
            await answered.wait()
            return answers[0]
        return await self.give_up(f"the broker did not answer in {ANSWER_SECONDS:g} s: {what}")


class _Adapter(RawConnection):
    """pika's engine: what it sends is queued here."""

    def __init__(
        self,
        parameters: pika.ConnectionParameters,
        nursery: trio.Nursery,
        wire: Wire,
        opened: Callable[[Any], None],
    ) -> None:
        self.queued = 0
        self._timers = nursery
        self._wire = wire
        self._waiting: list[bytes] = []
        self._bell = trio.lowlevel.ParkingLot()
        closed: Any = lambda _, error: wire.closed(error)  # noqa: E731
        super().__init__(parameters, opened, closed, closed, internal_connection_workflow=False)

    async def take(self) -> bytes:
        """Wait for something to send, and take all of it."""
        while not self._waiting:
            await self._bell.park()
        data, self._waiting, self.queued = b"".join(self._waiting), [], 0
        return data

    def feed(self, data: bytes) -> None:
        """Let the engine read what came. Raises whatever it finds wrong."""
        self._on_data_available(data)
        rest = self._frame_buffer  # the beginning of a frame: type, channel, size
        if len(rest) >= HEAD and int.from_bytes(rest[3:HEAD], "big") > FRAME_MAX:
            raise ValueError(f"a frame of more than {FRAME_MAX} bytes")

    def begin(self) -> None:
        """Speak first, as AMQP wants."""
        self._on_stream_connected()

    def end(self, error: Exception | None) -> None:
        """Tell the engine that there is no stream any more; None if it wanted that."""
        if not self.is_closed:
            self._on_stream_terminated(error)

    def _adapter_emit_data(self, data: bytes) -> None:
        self._waiting.append(data)
        self.queued += len(data)
        self._bell.unpark()

    def _adapter_call_later(self, delay: float, callback: Callable[[], Any]) -> object:
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await trio.sleep(delay)
                self._guarded(callback)

        self._timers.start_soon(run)
        return scope

    def _adapter_remove_timeout(self, timeout_id: object) -> None:
        assert isinstance(timeout_id, trio.CancelScope)
        timeout_id.cancel()

    def _adapter_disconnect_stream(self) -> None:
        """The engine is done with the stream: report the end of the stream to it, but later."""

        async def end() -> None:  # a task, since the engine is in the middle of this call
            self._guarded(partial(self.end, None))

        self._timers.start_soon(end)

    def _guarded(self, step: Callable[[], Any]) -> None:
        try:
            step()
        # an error of the engine's ends this connection alone
        except Exception as error:  # noqa: BLE001
            self._wire.fail(cause_of(error))

    def _adapter_add_callback_threadsafe(self, callback: Callable[..., Any]) -> None:
        raise NotImplementedError

    def _adapter_connect_stream(self) -> None:
        raise NotImplementedError


@asynccontextmanager
async def open_wire(url: str, name: str) -> AsyncIterator[Wire]:
    """Connect to a broker, under a name that its operator sees. A cancelled body has
    `CLOSE_SECONDS` for the goodbye.

    Raises:
        Lost: It cannot be reached or does not let us in; or, cancelling the body, the connection
            was lost.
    """
    parameters = _parameters(url, name)
    with trio.move_on_after(CONNECT_SECONDS) as connecting:
        stream = await _connect(parameters, url)
    if connecting.cancelled_caught:
        raise Lost(f"no connection in {CONNECT_SECONDS:g} s")
    opened = trio.Event()
    with trio.CancelScope() as scope:
        async with stream, trio.open_nursery() as nursery:
            wire = Wire(scope)
            raw = _Adapter(parameters, nursery, wire, lambda _: opened.set())
            wire.raw = raw
            raw.add_on_connection_blocked_callback(wire.block)
            raw.add_on_connection_unblocked_callback(wire.unblock)
            # They go on while the goodbye is said, whatever else is cancelled.
            reading, writing = trio.CancelScope(shield=True), trio.CancelScope(shield=True)
            nursery.start_soon(_within, reading, partial(_read, wire, raw, stream))
            nursery.start_soon(_within, writing, partial(_write, wire, raw, stream))
            try:
                raw.begin()
                with trio.move_on_after(CONNECT_SECONDS):
                    await opened.wait()
                if not opened.is_set():
                    await wire.give_up(f"the broker did not let us in in {CONNECT_SECONDS:g} s")
                yield wire
            finally:
                await wire.say_goodbye()
                reading.cancel()
                writing.cancel()
            scope.cancel()
    if wire.reason:
        raise Lost(wire.reason)


def _parameters(url: str, name: str) -> pika.ConnectionParameters:
    parameters = pika.URLParameters(url)
    parameters.heartbeat = HEARTBEAT
    parameters.frame_max = FRAME_MAX
    parameters.client_properties = {"connection_name": name, "product": "jsbox"}
    return parameters


async def _connect(parameters: pika.ConnectionParameters, url: str) -> trio.abc.Stream:
    try:
        tcp = await trio.open_tcp_stream(parameters.host, parameters.port)
        if not url.startswith("amqps:"):
            return tcp
        context = ssl.create_default_context()
        stream = trio.SSLStream(tcp, context, server_hostname=parameters.host)
        try:
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
    except (OSError, trio.BrokenResourceError) as error:
        raise Lost(_text_of(error.__cause__ or error)) from error
    return stream


async def _within(scope: trio.CancelScope, task: Callable[[], Awaitable[None]]) -> None:
    with scope:
        await task()


async def _read(wire: Wire, raw: _Adapter, stream: trio.abc.Stream) -> None:
    """Feed the engine until the connection is lost."""
    size = 0  # bytes since something was complete
    while True:
        try:
            data = await stream.receive_some(CHUNK)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            wire.end(_text_of(error.__cause__ or error))
            return
        if not data:
            wire.end("the broker closed the connection")
            return
        before = wire.completed
        try:
            raw.feed(bytes(data))
        # the engine raises what it likes at what is no AMQP
        except Exception as error:  # noqa: BLE001
            wire.fail(f"the broker sent what is not AMQP: {cause_of(error)}")
            return
        size = 0 if wire.completed != before or data == HEARTBEAT_FRAME else size + len(data)
        if size > MESSAGE_MAX:
            wire.fail(f"the broker sent a message of more than {MESSAGE_MAX} bytes")
            return


async def _write(wire: Wire, raw: _Adapter, stream: trio.abc.Stream) -> None:
    while True:
        data = await raw.take()
        wire.writing = trio.CancelScope(
            deadline=math.inf if wire.blocked else trio.current_time() + WRITE_SECONDS
        )
        try:
            with wire.writing:
                await stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            wire.end(_text_of(error.__cause__ or error))
            return
        if wire.writing.cancelled_caught:
            wire.fail(f"the broker read nothing for {WRITE_SECONDS:g} s")
            return


def _text_of(error: object) -> str:
    """What went wrong, for a person: without the words of the engine where that is possible."""
    code, text = getattr(error, "reply_code", None), getattr(error, "reply_text", None)
    if code is not None:
        return f"{code} {text}"
    if isinstance(error, ExceptionGroup):  # of one attempt for each address of a host
        error = first_leaf(error)
    for kind, text_of in _TEXTS.items():
        if isinstance(error, kind):
            return str(text_of(error))
    return str(error) or type(error).__name__


def _words(error: Exception) -> str:
    """The broker's own words, which the engine wraps, if it had any."""
    kind, _, words = str(error.args[0] if error.args else "").partition(": ")
    return f" ({words[:300]})" if kind == "ConnectionClosedByBroker" else ""


_TEXTS: dict[type, Callable[[Any], Any]] = {
    ssl.SSLError: lambda one: f"TLS: {getattr(one, 'verify_message', '') or one.reason or one}",
    OSError: lambda one: one.strerror or one,
    errors.ProbableAuthenticationError: lambda one: (
        f"it closed the connection: it may not know this user, or not this password{_words(one)}"
    ),
    errors.ProbableAccessDeniedError: lambda one: (
        f"it closed the connection: this user may not use the vhost{_words(one)}"
    ),
    errors.AMQPHeartbeatTimeout: lambda _: f"it has sent nothing for more than {2 * HEARTBEAT} s",
    errors.StreamLostError: lambda one: one.args[0] if one.args else "lost",
}
