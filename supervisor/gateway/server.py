"""The gateway's port: accepts WebSockets, serves each, and says goodbye."""

from __future__ import annotations

import logging
import socket as sockets
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any

import trio
from attrs import define, field

from resources.fence import fence

from ..config import Address
from ..ports.accepting import Bounds, Door, Visit, affordable, turn_away
from ..ports.handed import HandedListener
from ..ports.http import HttpPort
from . import frames, greeting
from .connection import Connection, Refusal
from .intake import Services
from .socket import Closed, Post, ServerSocket

PATH = "/v1"
COUNTED = (frames.CODE_CHANNEL, frames.CODE_TOKEN)  # refused.py has them in the log, bounded
CLOSE_SECONDS = 2.0  # for the closing handshake

Listener = trio.SocketListener | HandedListener

log = logging.getLogger(__name__)


def _no_link(_: str) -> None:
    """Find no link: the channels are not open yet."""


@define(eq=False)
class Gateway:
    """Made by `open_gateway`."""

    services: Services
    door: Door
    _tls: ssl.SSLContext | None
    _connections: set[Connection] = field(factory=set, init=False)
    # One for each client that has not said hello yet.
    _greetings: set[trio.CancelScope] = field(factory=set, init=False)
    _is_closing: bool = field(default=False, init=False)
    _inside: int = field(default=0, init=False)  # clients from accept to the end of their goodbye
    _left: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _names: Any = field(factory=lambda: count(1), init=False)
    _accepting: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    port: int = field(default=0, init=False)
    link: Callable[[str], Any] = field(default=_no_link, init=False)
    """The link of a channel; None if its type has none."""
    _posts: HttpPort | None = field(default=None, init=False)
    _host: str = field(default="", init=False)

    @property
    def base_url(self) -> str:
        """The http URL of this port, for others."""
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{Address(self._host, self.port).reachable}"

    def connections(self, channel: str) -> int:
        """How many clients a channel has."""
        return sum(connection.channel.name == channel for connection in self._connections)

    def say_drain(self, seconds: float) -> None:
        """Tell every client that the server is going away."""
        for connection in list(self._connections):
            connection.push(frames.drain(seconds))

    def close_all(self) -> None:
        """Close every connection, and those that come from now on: the server restarts."""
        self._is_closing = True
        for connection in list(self._connections):
            connection.close(_restart())
        for scope in list(self._greetings):
            scope.cancel()
        if self._posts is not None:
            self._posts.close()

    async def all_left(self) -> None:
        """Wait until no client is left."""
        while self._inside:
            await self._left.park()

    def drop_channels(self, known: set[str]) -> None:
        """Close the connections of channels that are not `known`: a reload removed them, or gave
        them another type.
        """
        for connection in list(self._connections):
            if connection.channel.name not in known:
                detail = f"channel {connection.channel.name} is no longer configured"
                connection.close(Refusal(frames.CODE_CHANNEL, "channel", detail))

    def accept_no_more(self) -> None:
        """Stop accepting: new clients wait for the next process that listens at these sockets."""
        self._accepting.cancel()

    async def serve(
        self,
        listeners: Sequence[Listener],
        *,
        task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve clients; never returns."""
        for listener in listeners:
            listener.socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        self._host, self.port = listeners[0].socket.getsockname()[:2]
        task_status.started(self.port)
        async with trio.open_nursery() as clients:
            with self._accepting:
                async with trio.open_nursery() as nursery:
                    for listener in listeners:
                        nursery.start_soon(self.door.accept, listener, self._client, clients)
            await trio.sleep_forever()

    async def _client(self, visit: Visit) -> None:
        """One client, from its first byte."""
        stream: trio.abc.Stream = visit.stream
        if self._tls is not None:
            stream = trio.SSLStream(
                visit.stream, self._tls, server_side=True, https_compatible=True
            )
        takes_posts = any(one.type == "http" for one in self.services.channels().values())
        socket = ServerSocket(stream, takes_posts)
        refusal = None
        self._inside += 1
        try:
            with fence("gateway", visit.address) as caught:
                try:
                    await self._serve(visit, socket, stream)
                except Refusal as reason:
                    refusal = reason
                except (Closed, trio.BrokenResourceError, trio.ClosedResourceError):
                    pass  # the client has gone
            if caught.error is not None:
                refusal = Refusal(frames.CODE_INTERNAL, "internal", "internal error")
            await _say_goodbye(socket, refusal)
        finally:
            self._inside -= 1
            self._left.unpark_all()

    async def _serve(self, visit: Visit, socket: ServerSocket, stream: trio.abc.Stream) -> None:
        connection = received = None
        with trio.move_on_after(greeting.HELLO_SECONDS) as scope:
            self._greetings.add(scope)
            try:
                connection = await self._greet(visit, socket, stream)
            except Post as post:
                received = post.received
            finally:
                self._greetings.discard(scope)
        if received is not None:
            await self._serve_posts(visit, stream, received)
            return
        if self._is_closing:
            raise _restart()
        if scope.cancelled_caught:
            detail = f"no hello came in {greeting.HELLO_SECONDS:g} s"
            raise Refusal(frames.CODE_NO_HELLO, "no_hello", detail)
        if connection is not None:
            visit.become_known()
            self._connections.add(connection)
            try:
                await connection.serve()
            finally:
                self._connections.discard(connection)

    async def _serve_posts(self, visit: Visit, stream: trio.abc.Stream, received: bytes) -> None:
        """Answer requests to channels of type http."""
        if visit.is_surplus:
            turn_away(visit.stream)
            return
        if self._posts is None:
            from .junebug.posts import Posts  # only where there is such a channel

            self._posts = HttpPort(Posts(self.services, self._find), "gateway.http", self._tls)
            self._posts.is_closing = self._is_closing
        await self._posts.serve(visit, stream, received)

    def _find(self, channel: str) -> Any:
        """Find a link by what `link` is now: the channels open after this port."""
        return self.link(channel)

    async def _greet(
        self, visit: Visit, socket: ServerSocket, stream: trio.abc.Stream
    ) -> Connection | None:
        """Talk to a client up to its hello; None if it was turned away by an HTTP answer."""
        if isinstance(stream, trio.SSLStream):
            await stream.do_handshake()
        request = await socket.handshake()
        visit.has_answered = True
        if request.path.split("?")[0] != PATH:
            await socket.reject(404, f"the gateway is at {PATH}\n")
            return None
        if request.protocols and frames.SUBPROTOCOL not in request.protocols:
            await socket.reject(400, f"expected the subprotocol {frames.SUBPROTOCOL}\n")
            return None
        await socket.accept(frames.SUBPROTOCOL if request.protocols else None)
        if visit.is_surplus:
            detail = f"{self.door.bounds.most} connections are open already (gateway.connections)"
            raise Refusal(frames.CODE_OVERLOAD, "overload", detail)
        return await greeting.greet(
            socket, request, self.services, f"c{next(self._names)}", visit.address
        )


def _restart() -> Refusal:
    return Refusal(frames.CODE_RESTART, "restart", "the server restarts")


async def _say_goodbye(socket: ServerSocket, refusal: Refusal | None) -> None:
    """Close a client's WebSocket, or answer the request that did not become one. The caller closes
    the socket itself.
    """
    with trio.move_on_after(CLOSE_SECONDS, shield=True), suppress(Closed):
        if refusal is None:
            await socket.finish()
        elif socket.is_open:
            if refusal.code not in COUNTED:
                log.info("closing a gateway client with %d: %s", refusal.code, refusal)
            if refusal.code != frames.CODE_RESTART:
                socket.push(frames.error(refusal.name, str(refusal), fatal=True))
            await socket.close(refusal.code, str(refusal)[:100])
        elif refusal.code == frames.CODE_INTERNAL:
            await socket.answer("400 Bad Request")
        else:
            await socket.answer("408 Request Timeout")


@asynccontextmanager
async def open_gateway(
    services: Services, listeners: Sequence[Listener], tls: ssl.SSLContext | None = None
) -> AsyncIterator[Gateway]:
    """Serve the gateway. At the end every client has been closed with a reason, in bounded time."""
    settings = services.settings
    most = affordable("gateway.connections", settings.connections)
    door = Door("gateway", Bounds(most, settings.connections_per_address))
    for listener in listeners:
        if isinstance(listener, HandedListener):
            door.gone = listener.gone
    gateway = Gateway(services, door, tls)
    async with trio.open_nursery() as nursery:
        await nursery.start(gateway.serve, listeners)
        try:
            yield gateway
        finally:
            gateway.close_all()
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await gateway.all_left()
            nursery.cancel_scope.cancel()
