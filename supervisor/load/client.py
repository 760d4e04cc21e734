"""The harness's end of the gateway: sends what users say, hands each reply to its conversation,
and reconnects when the connection is lost.
"""

from __future__ import annotations

import logging
import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Protocol
from uuid import uuid4

import msgspec
import trio
from attrs import define, field
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection

from ..client.corked import Corked
from ..client.websocket import open_corked
from ..errors import CannotStart

SUBPROTOCOL = "jsbox.v1"
RECONNECT_SECONDS = 0.5
HELLO_SECONDS = 10.0
WRITE_SIZE = 32 << 10  # bytes that are sent together
SEEN_MAX = 100_000  # message_ids of replies kept to recognise one that is delivered again

log = logging.getLogger(__name__)


class Outbound(msgspec.Struct, frozen=True):
    """The parts of a message that the harness looks at."""

    message_id: str = ""
    in_reply_to: str | None = None
    content: str | None = None
    session_event: str | None = None


class _Frame(msgspec.Struct, frozen=True):
    """Any frame of the server's."""

    type: str
    id: str | None = None
    message_id: str | None = None
    outcome: str | None = None
    delivery: int = 0
    msg: Outbound | None = None
    code: str | None = None
    detail: str | None = None
    inbound: int = 0
    credit: int = 0


_decode = msgspec.json.Decoder(_Frame).decode
_encode = msgspec.json.Encoder().encode


@define(eq=False)
class Exchange:
    """One message and what came back: at most one reply, and how its run ended."""

    message_id: str
    frame: bytes
    sent: float | None = None
    content: str | None = None
    is_end: bool = False
    replied: float | None = None
    outcome: str | None = None
    rejected: str | None = None
    has_reply: trio.Event = field(factory=trio.Event, init=False)
    _news: trio.Event = field(factory=trio.Event, init=False)

    async def answered(self) -> None:
        """Wait for the reply, or for the end of a run that has none, or for a refusal."""
        await self._news.wait()

    def tell(self) -> None:
        """Wake whoever waits in `answered`."""
        self._news.set()


@define(eq=False)
class Replies:
    """The messages whose replies are awaited, over all connections: a reply that is delivered again
    may come over another one.

    Attributes:
        open: By message_id.
        seen: message_ids of replies received.
    """

    open: dict[str, Exchange] = field(factory=dict)
    seen: dict[str, None] = field(factory=dict)

    def note(self, message: Outbound) -> bool:
        """Hand a reply to its conversation; return whether it has come before."""
        if message.message_id in self.seen:
            return True
        self.seen[message.message_id] = None
        if len(self.seen) > SEEN_MAX:
            del self.seen[next(iter(self.seen))]
        exchange = self.open.get(message.in_reply_to or "")
        if exchange is not None and exchange.replied is None:
            exchange.replied = trio.current_time()
            exchange.content, exchange.is_end = message.content, message.session_event == "close"
            exchange.has_reply.set()
            exchange.tell()
        return False


class Speaker(Protocol):
    """A connection over which users talk, made again whenever it is lost."""

    reconnects: int
    redelivered: int

    def send(self, **message: Any) -> Exchange:
        """Send a user's message; never waits."""

    def forget(self, exchange: Exchange) -> None:
        """Stop waiting for its reply."""

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands."""

    async def connected(self) -> None:
        """Wait until the connection stands."""

    async def drop(self) -> None:
        """Lose the connection, as a network does."""


@define(eq=False)
class Client:
    """A connection to one channel, made again whenever it is lost. Made by `open_clients`."""

    url: str
    channel: str
    token: str | None
    window: int
    _replies: Replies
    _context: ssl.SSLContext | None = None
    reconnects: int = field(default=0, init=False)
    redelivered: int = field(default=0, init=False)
    _ids: Any = field(factory=count, init=False)
    _prefix: str = field(factory=lambda: f"load-{uuid4().hex[:12]}", init=False)
    _waiting: deque[Exchange] = field(factory=deque, init=False)  # to be sent
    _unaccepted: dict[str, Exchange] = field(factory=dict, init=False)  # sent
    _acks: deque[int] = field(factory=deque, init=False)
    _credit: int = field(default=0, init=False)
    _bell: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _stream: Corked | None = field(default=None, init=False)
    _stands: trio.Event = field(factory=trio.Event, init=False)

    def send(self, **message: Any) -> Exchange:
        """Send a user's message; never waits."""
        message_id = f"{self._prefix}-{next(self._ids)}"
        frame = _encode(
            {"type": "inbound", "id": message_id, "msg": {"message_id": message_id, **message}}
        )
        exchange = Exchange(message_id, frame)
        self._replies.open[message_id] = exchange
        self._waiting.append(exchange)
        self._bell.unpark_all()
        return exchange

    def forget(self, exchange: Exchange) -> None:
        """Stop waiting for its reply."""
        self._replies.open.pop(exchange.message_id, None)

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands."""
        return self._stream is not None

    async def connected(self) -> None:
        """Wait until the connection stands."""
        await self._stands.wait()

    async def drop(self) -> None:
        """Lose the connection, as a network does."""
        if self._stream is not None:
            await self._stream.aclose()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a connection; never returns. Raises CannotStart if the first attempt fails."""
        is_first = True
        while True:
            try:
                async with self._connected() as socket:
                    if is_first:
                        is_first = False
                        task_status.started()
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._write, socket)
                        await self._read(socket)
                        nursery.cancel_scope.cancel()
            except* (
                OSError,
                HandshakeError,
                ConnectionClosed,
                trio.BrokenResourceError,
                trio.ClosedResourceError,
                trio.TooSlowError,
            ) as lost:
                if is_first:
                    raise CannotStart(f"no gateway at {self.url}: {_first(lost)}") from None
            self.reconnects += 1
            await trio.sleep(RECONNECT_SECONDS)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[WebSocketConnection]:
        async with open_corked(self.url, [SUBPROTOCOL], context=self._context) as (socket, stream):
            hello = {
                "type": "hello",
                "channel": self.channel,
                "window": self.window,
                "outcomes": True,
            }
            if self.token is not None:
                hello["token"] = self.token
            await socket.send_message(_encode(hello).decode())
            with trio.fail_after(HELLO_SECONDS):
                frame = _decode(await socket.get_message())
            if frame.type != "welcome":
                reason = frame.detail or frame.type
                raise CannotStart(
                    f"the gateway at {self.url} refuses channel {self.channel!r}: {reason}"
                )
            self._credit = frame.credit
            # Sent but not accepted: send it again. The server recognises a message it already has.
            self._waiting.extendleft(reversed(self._unaccepted.values()))
            self._unaccepted.clear()
            self._stream = stream
            self._stands.set()
            try:
                yield socket
            finally:
                self._stream = None
                self._stands = trio.Event()

    async def _write(self, socket: WebSocketConnection) -> None:
        assert self._stream is not None
        while True:
            while not self._acks and not (self._waiting and self._credit > 0):
                await self._bell.park()
            self._stream.cork()
            size = 0
            try:
                while self._acks and size < WRITE_SIZE:
                    size += 40
                    await socket.send_message(f'{{"type":"ack","delivery":{self._acks.popleft()}}}')
                while self._waiting and self._credit > 0 and size < WRITE_SIZE:
                    exchange = self._waiting.popleft()
                    self._credit -= 1
                    size += len(exchange.frame)
                    self._unaccepted[exchange.message_id] = exchange
                    exchange.sent = exchange.sent or trio.current_time()
                    await socket.send_message(exchange.frame.decode())
            finally:
                self._stream.uncork()
            await self._stream.send_all(b"")

    async def _read(self, socket: WebSocketConnection) -> None:
        while True:
            frame = _decode(await socket.get_message())
            match frame.type:
                case "outbound" if frame.msg is not None:
                    self._acks.append(frame.delivery)
                    self._bell.unpark_all()
                    self.redelivered += self._replies.note(frame.msg)
                case "outcome":
                    exchange = self._replies.open.get(frame.message_id or "")
                    if exchange is not None:
                        exchange.outcome = frame.outcome
                        exchange.tell()
                case "accepted":
                    self._unaccepted.pop(frame.id or "", None)
                case "rejected":
                    self._rejected(frame)
                case "credit":
                    self._credit += frame.inbound
                    self._bell.unpark_all()
                case "error":
                    log.warning("the gateway says: %s", frame.detail)

    def _rejected(self, frame: _Frame) -> None:
        exchange = self._unaccepted.pop(frame.id or "", None)
        if exchange is None:
            return
        exchange.rejected = frame.code or "rejected"
        exchange.tell()


def _first(group: BaseException) -> str:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return str(group) or type(group).__name__


@asynccontextmanager
async def open_clients(
    url: str,
    channel: str,
    token: str | None,
    window: int,
    connections: int,
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[list[Client]]:
    """Open `connections` connections; all of them stand when the block begins. `context` as in
    `open_websocket`.

    Raises:
        CannotStart: The gateway cannot be reached, or refuses the channel.
    """
    async with trio.open_nursery() as nursery:
        replies = Replies()
        clients = [
            Client(url, channel, token, window, replies, context) for _ in range(connections)
        ]
        for client in clients:
            await nursery.start(client.run)
        yield clients
        nursery.cancel_scope.cancel()
