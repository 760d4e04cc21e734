"""The server's end of a WebSocket: wsproto on a Trio stream.

One task receives, one writes. A message over its bound is given up before it is read whole, and
nothing is read while too much waits to be written. So a client can make us hold `READ` bytes, one
message, and what is in the queue.
"""

from __future__ import annotations

import os
from collections import deque
from time import perf_counter

import trio
import wsproto
from attrs import define, field, frozen
from wsproto import events
from wsproto.connection import ConnectionState
from wsproto.utilities import RemoteProtocolError

from .frames import CODE_PROTOCOL

READ = 64 << 10  # bytes read at a time
READ_FIRST = 4 << 10  # bytes read at a time from a client that has not said hello
WRITE = 32 << 10  # bytes of frames that are written together
TURN_SECONDS = 0.005  # of work on what one client sent, until other tasks run
STUFFED = 1 << 20  # bytes that wait to be written; while there are more, nothing is read

CHANNELS = b"/channels/"
METHOD_MAX = 32  # characters

_ANSWER = b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Post(Exception):
    """The client does not ask for a WebSocket: it is one that posts to a channel.

    Attributes:
        received: The first bytes of its request.
    """

    def __init__(self, received: bytes) -> None:
        super().__init__("a request to a channel")
        self.received = received


class Closed(Exception):
    """The client closed the connection, or is gone."""


class TooBig(Exception):
    """A message has more bytes than are allowed."""


class Violation(Exception):
    """The client does not speak WebSocket. Attributes: code, for the close."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@frozen
class Request:
    """The opening handshake."""

    path: str
    protocols: tuple[str, ...]
    headers: tuple[tuple[bytes, bytes], ...]


@define(eq=False)
class ServerSocket:
    """A client's connection. Everything that awaits may raise `Closed`. `takes_posts`: requests to
    channels are told from those for a WebSocket.
    """

    _stream: trio.abc.Stream
    _takes_posts: bool = False
    _protocol: wsproto.WSConnection = field(
        factory=lambda: wsproto.WSConnection(wsproto.ConnectionType.SERVER), init=False
    )
    queued: int = field(default=0, init=False)
    """Bytes that wait to be written."""
    # of a stream that is nothing but a socket: it is used without the stream's passes through the
    # event loop
    _plain: trio.socket.SocketType | None = field(default=None, init=False)
    received: int = field(default=0, init=False)
    """Bytes received in total."""
    silent_since: float | None = field(default=None, init=False)
    """When we began to wait for the client to send something; None while we do not wait."""
    _queue: deque[bytes] = field(factory=deque, init=False)
    _fuller: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _emptier: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _text: bytearray = field(factory=bytearray, init=False)  # of a message that is not whole yet
    _is_torn: bool = field(default=False, init=False)  # a write is unfinished: no frame can follow
    _since: float = field(factory=perf_counter, init=False)

    def __attrs_post_init__(self) -> None:
        if isinstance(self._stream, trio.SocketStream):
            self._plain = self._stream.socket

    @property
    def is_open(self) -> bool:
        """Whether the opening handshake is over, and nobody has begun to close."""
        return self._protocol.state is ConnectionState.OPEN

    async def handshake(self) -> Request:
        """Wait for the request. wsproto may raise any exception for odd bytes in it.

        Raises:
            Post: It is for a path below `CHANNELS`.
        """
        data = await self._receive(READ_FIRST)
        while self._takes_posts and (is_post := _is_post(data)) is not False:
            if is_post:
                raise Post(data)
            data += await self._receive(READ_FIRST)
        while True:
            try:
                self._protocol.receive_data(data)
            except RemoteProtocolError as error:
                hint = error.event_hint
                if isinstance(hint, events.RejectConnection):
                    await self._send(self._protocol.send(hint))
                raise Closed(str(error)) from None
            for event in self._protocol.events():
                if isinstance(event, events.Request):
                    return Request(
                        event.target, tuple(event.subprotocols), tuple(event.extra_headers)
                    )
            data = await self._receive(READ_FIRST)

    async def accept(self, protocol: str | None) -> None:
        """Become a WebSocket."""
        await self._send(self._protocol.send(events.AcceptConnection(subprotocol=protocol)))

    async def reject(self, status: int, text: str) -> None:
        """Answer the request with an HTTP error."""
        body = text.encode()
        headers = [
            (b"content-type", b"text/plain"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        rejection = events.RejectConnection(status_code=status, headers=headers, has_body=True)
        data = self._protocol.send(rejection) + self._protocol.send(events.RejectData(data=body))
        await self._send(data)

    async def answer(self, status: str) -> None:
        """Answer with a bare HTTP status if no request has come."""
        if self._protocol.state is ConnectionState.CONNECTING:
            await self._send(_ANSWER % status.encode())

    def push(self, text: bytes) -> None:
        """Queue a text message; never waits."""
        size = len(text)
        if size < 126:  # noqa: PLR2004  # RFC 6455, section 5.2
            head = bytes((0x81, size))
        elif size < 1 << 16:
            head = b"\x81\x7e" + size.to_bytes(2, "big")
        else:
            head = b"\x81\x7f" + size.to_bytes(8, "big")
        self._push(head + text)

    def ping(self) -> None:
        """Queue a ping, if the connection is open."""
        if self.is_open:
            self._push(self._protocol.send(events.Ping()))

    def _push(self, data: bytes) -> None:
        self._queue.append(data)
        self.queued += len(data)
        if self._fuller:
            self._fuller.unpark()

    async def wait_queued(self) -> None:
        """Wait until something is to be written."""
        if not self._queue:
            await self._fuller.park()

    def write_now(self) -> bool:
        """Write what is queued if that takes one call and no waiting; return whether nothing is
        left. Errors are left to `write`.
        """
        if self._plain is None or self._is_torn or self.queued > WRITE:
            return not self._queue
        data = b"".join(self._queue)
        try:
            written = os.write(self._plain.fileno(), data)
        except OSError:
            written = 0
        self._queue.clear()
        self.queued -= written
        if written < len(data):
            self._queue.append(data[written:])
            return False
        if self._emptier:
            self._emptier.unpark_all()
        return True

    async def write(self) -> None:
        """Write some of what is queued."""
        parts, size = [], 0
        for data in self._queue:
            parts.append(data)
            size += len(data)
            if size >= WRITE:
                break
        await self._send(b"".join(parts))
        for _ in parts:
            self._queue.popleft()
        self.queued -= size
        self._emptier.unpark_all()

    async def receive(self, most: int, budget: int | None = None) -> bytes:
        """Wait for the next text message. `budget`: bytes that the client may have sent in total
        by then.

        Raises:
            Closed: The client closed the connection, or is gone.
            TooBig: The message has more than `most` bytes, or the budget is spent.
            Violation: The client broke the protocol, or sent a binary message.
        """
        await self._breathe()  # one read may hold a thousand messages
        while True:
            for event in self._protocol.events():
                message = self._take(event, most)
                if message is not None:
                    return message
                await self._breathe()
            while self.queued > STUFFED:
                await self._emptier.park()
            if budget is not None and self.received > budget:
                raise TooBig
            await self._breathe()
            self._protocol.receive_data(await self._receive(READ if budget is None else READ_FIRST))

    def _take(self, event: events.Event, most: int) -> bytes | None:
        match event:
            case events.TextMessage():
                return self._gather(event.data, is_last=event.message_finished, most=most)
            case events.BytesMessage():
                raise Violation(CODE_PROTOCOL, "expected a text frame, got a binary one")
            case events.Ping():
                self._push(self._protocol.send(event.response()))
            case events.CloseConnection():
                if self.is_open:  # wsproto's answer to bytes that are not a frame
                    raise Violation(event.code, event.reason or "the frame is malformed")
                self._push(self._protocol.send(event.response()))
                raise Closed(f"{event.code} {event.reason or ''}")
        return None

    def _gather(self, piece: str, *, is_last: bool, most: int) -> bytes | None:
        data = piece.encode()
        if len(self._text) + len(data) > most:
            raise TooBig
        if is_last and not self._text:
            return data
        self._text += data
        if not is_last:
            return None
        whole, self._text = bytes(self._text), bytearray()
        return whole

    async def close(self, code: int, reason: str) -> None:
        """Begin to close, write what is queued, and wait until the client closes too. The caller
        bounds the time.
        """
        self._push(self._protocol.send(events.CloseConnection(code=code, reason=reason)))
        await self.finish()
        while self._protocol.state is ConnectionState.LOCAL_CLOSING:
            self._protocol.receive_data(await self._receive(READ))
            for event in self._protocol.events():
                if isinstance(event, events.CloseConnection):
                    return
                await self._breathe()

    async def finish(self) -> None:
        """Write what is queued, unless nobody has begun to close or a write is unfinished."""
        while self._queue and not self._is_torn and not self.is_open:
            await self.write()

    async def _breathe(self) -> None:
        """Let other tasks run, once this client has used up TURN_SECONDS."""
        if perf_counter() - self._since > TURN_SECONDS:
            await trio.lowlevel.checkpoint()
            self._since = perf_counter()

    async def _receive(self, most: int) -> bytes:
        self.silent_since = trio.current_time()
        try:
            data = await self._read(most)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Closed(str(error)) from None
        finally:
            self.silent_since = None
            self._since = perf_counter()
        if not data:
            raise Closed("the client has gone")
        self.received += len(data)
        return data

    async def _read(self, most: int) -> bytes:
        if self._plain is None:
            return bytes(await self._stream.receive_some(most))
        # As the stream does it, but without first trying to read when nothing is there yet.
        while True:
            await trio.lowlevel.wait_readable(self._plain)
            try:
                return os.read(self._plain.fileno(), most)
            except BlockingIOError:
                continue

    async def _send(self, data: bytes) -> None:
        if self._is_torn:
            raise Closed("a write was not finished")
        await trio.lowlevel.checkpoint_if_cancelled()  # from here on part of it may have been sent
        self._is_torn = True
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Closed(str(error)) from None
        self._is_torn = False


def _is_post(data: bytes) -> bool | None:
    """Whether the beginning of a request names a path below `CHANNELS`; None if more is needed."""
    method, space, rest = data.partition(b" ")
    if not space:
        return None if len(data) <= METHOD_MAX and b"\n" not in data else False
    if len(rest) < len(CHANNELS) and CHANNELS.startswith(rest):
        return None
    return len(method) <= METHOD_MAX and rest.startswith(CHANNELS)
