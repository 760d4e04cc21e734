"""The gateway's port: accepts WebSockets, serves each, and says goodbye."""

from __future__ import annotations

import logging
import socket as sockets
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any

import trio
from attrs import define, field
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, WebSocketRequest, wrap_server_stream

from ..corked import Corked
from . import frames
from .connection import Connection, Refusal, Services, greet

PATH = "/v1"
CONNECT_SECONDS = 10.0  # for the opening handshake
CLOSE_SECONDS = 2.0  # for the closing handshake
READ = 64 << 10
QUEUED = 16  # frames of a client that are read ahead
TOO_BIG_READ = 1 << 20  # bytes: a frame larger than max_frame is read up to here, to be refused with our own code

log = logging.getLogger(__name__)


@define(eq=False)
class Gateway:
    """Made by `open_gateway`."""

    services: Services
    _tls: ssl.SSLContext | None
    _connections: set[Connection] = field(factory=set, init=False)
    _open: int = field(default=0, init=False)
    _left: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _names: Any = field(factory=lambda: count(1), init=False)
    _accepting: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    port: int = field(default=0, init=False)

    def connections(self, channel: str) -> int:
        """Clients of a channel."""
        return sum(connection.channel.name == channel for connection in self._connections)

    def say_drain(self, seconds: float) -> None:
        """Tell every client that the server is going away."""
        for connection in self._connections:
            connection.push(frames.drain(seconds))

    def close_all(self) -> None:
        """Close every connection: the server restarts."""
        for connection in list(self._connections):
            connection.close(Refusal(frames.CODE_RESTART, "restart", "the server restarts"))

    def drop_channels(self, known: set[str]) -> None:
        """After a reload: close the connections of channels that are no more."""
        for connection in list(self._connections):
            if connection.channel.name not in known:
                detail = f"channel {connection.channel.name} is no longer configured"
                connection.close(Refusal(frames.CODE_CHANNEL, "channel", detail))

    async def _handle(self, request: WebSocketRequest, stream: Corked) -> None:
        if request.path.split("?")[0] != PATH:
            await request.reject(404, body=f"the gateway is at {PATH}\n".encode())
            return
        offered = request.proposed_subprotocols
        if offered and frames.SUBPROTOCOL not in offered:
            await request.reject(400, body=f"expected the subprotocol {frames.SUBPROTOCOL}\n".encode())
            return
        socket = await request.accept(subprotocol=frames.SUBPROTOCOL if offered else None)
        self._open += 1
        try:
            await self._serve(socket, request, stream)
        finally:
            self._open -= 1
            self._left.unpark_all()

    async def _serve(self, socket: WebSocketConnection, request: WebSocketRequest, stream: Corked) -> None:
        name = f"c{next(self._names)}"
        try:
            self._check_room()
            connection = await greet(socket, self.services, name, stream, request.headers)
            self._connections.add(connection)
            try:
                await connection.serve()
            finally:
                self._connections.discard(connection)
        except ConnectionClosed:
            return
        except Refusal as refusal:
            await _refuse(socket, refusal)

    def _check_room(self) -> None:
        most = self.services.settings.connections
        if self._open > most:
            detail = f"{most} connections are open already (gateway.connections)"
            raise Refusal(frames.CODE_OVERLOAD, "overload", detail)

    def accept_no_more(self) -> None:
        """Clients that connect from now on wait for whoever listens at the same socket next."""
        self._accepting.cancel()

    async def serve(
        self, listeners: Sequence[trio.SocketListener], *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen; never returns."""
        for listener in listeners:
            listener.socket.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started(self.port)
        async with trio.open_nursery() as clients:
            with self._accepting:
                await trio.serve_listeners(self._client, list(listeners), handler_nursery=clients)
            await trio.sleep_forever()

    async def _client(self, plain: trio.SocketStream) -> None:
        """One client, from its first byte. What goes wrong with it must not take the listener down."""
        secure = None
        if self._tls is not None:
            secure = trio.SSLStream(plain, self._tls, server_side=True, https_compatible=True)
        stream = Corked(secure or plain)
        async with trio.open_nursery() as nursery:
            with suppress(ConnectionClosed, HandshakeError, trio.BrokenResourceError, trio.ClosedResourceError):
                request = None
                with trio.move_on_after(CONNECT_SECONDS):
                    if secure is not None:
                        await secure.do_handshake()
                    request = await wrap_server_stream(nursery, stream, QUEUED, TOO_BIG_READ, READ)
                if request is not None:
                    await self._handle(request, stream)
            nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(plain)


async def _refuse(socket: WebSocketConnection, refusal: Refusal) -> None:
    log.info("a gateway client is closed with %d: %s", refusal.code, refusal)
    with suppress(ConnectionClosed), trio.move_on_after(CLOSE_SECONDS, shield=True):
        if refusal.code != frames.CODE_RESTART:
            await socket.send_message(frames.error(refusal.name, str(refusal), fatal=True).decode())
        await socket.aclose(code=refusal.code, reason=str(refusal)[:100])


@asynccontextmanager
async def open_gateway(
    services: Services, listeners: Sequence[trio.SocketListener], tls: ssl.SSLContext | None = None
) -> AsyncIterator[Gateway]:
    """Listen; at the end every client has been told."""
    gateway = Gateway(services, tls)
    async with trio.open_nursery() as nursery:
        await nursery.start(gateway.serve, listeners)
        try:
            yield gateway
        finally:
            gateway.close_all()
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                while gateway._open:  # noqa: SLF001
                    await gateway._left.park()  # noqa: SLF001
            nursery.cancel_scope.cancel()
