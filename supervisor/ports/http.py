"""A port that speaks HTTP/1.1: an ASGI application, served on Trio.

Each connection is in a fence from its first byte, and each request in one of its own: an error ends
that request or that connection, and no more. There is no HTTP/2 and no WebSocket; a request to
upgrade is answered as if it had not asked.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from email.utils import formatdate
from http import HTTPStatus

import msgspec
import trio
from attrs import define, field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Scope

from resources.fence import fence

from .accepting import Bounds, Door, Visit, affordable, turn_away
from .http_connection import HEAD_SECONDS, Body, Gone, HttpConnection
from .http_head import Head, Unacceptable

BOUNDS = Bounds(256, 64, part=1 / 4)  # the gateway may take half of the descriptors
# Bytes of a body that the application left unread, and that are read so that the connection can be
# used again.
LEFT_MAX = 64 << 10
PATH_SHOWN = 100  # characters of a path in the log
KNOWN = "jsbox.known"  # in the ASGI scope: call it when the client has shown that it may be here

_NO_BODY = frozenset({204, 304})
_NEVER = re.compile(rb"[\r\n\x00]")


@define(eq=False)
class _Exchange:
    """One request and its answer, as ASGI sees them."""

    connection: HttpConnection
    head: Head
    has_begun: bool = field(default=False, init=False)
    is_refused: bool = field(default=False, init=False)  # for what its body turned out to be
    _body: Body = field(init=False)
    _keeps_alive: bool = field(init=False)
    _has_body: bool = field(default=False, init=False)  # the application has the whole body
    _is_over: bool = field(default=False, init=False)
    _head: bytes = field(default=b"", init=False)  # the answer's; sent with the first body part
    _is_bare: bool = field(default=False, init=False)  # the answer has no body
    _is_chunked: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._body = Body(self.connection, self.head)
        self._keeps_alive = self.head.keeps_alive

    async def receive(self) -> Message:
        """Wait for a part of the request's body, or until the client has gone."""
        try:
            if not self._has_body:
                part = await self._body.part()
                self._has_body = self._body.is_read
                return {"type": "http.request", "body": part, "more_body": not self._body.is_read}
            await self.connection.wait_gone()
        except Unacceptable as error:
            self._keeps_alive, self.is_refused = False, True
            raise HTTPException(error.status, str(error)) from error
        except Gone:
            self._keeps_alive = False
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Send a part of the answer. Raises Gone."""
        if message["type"] == "http.response.start":
            self._head = self._begin(message["status"], list(message.get("headers", ())))
            self.has_begun = True
        elif not self._is_over:
            self._is_over = not message.get("more_body", False)
            answer, self._head = self._head + self._framed(message.get("body", b"")), b""
            await self.connection.send(answer)

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        is_without = status in _NO_BODY
        self._is_bare = is_without or self.head.method == "HEAD"
        has_length = any(name.lower() == b"content-length" for name, _ in headers)
        self._is_chunked = not has_length and not is_without and self.head.version != "1.0"
        self._keeps_alive = self._keeps_alive and (has_length or is_without or self._is_chunked)
        headers.append((b"date", formatdate(usegmt=True).encode()))
        if self._is_chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        if not self._keeps_alive or self.head.version == "1.0":
            headers.append((b"connection", b"keep-alive" if self._keeps_alive else b"close"))
        for name, value in headers:
            if _NEVER.search(name + value):
                raise ValueError(
                    f"the header {name!r} of an answer has a line break or a NUL in it"
                )
        lines = [
            f"HTTP/1.1 {status} {_phrase(status)}".encode(),
            *(b"%s: %s" % header for header in headers),
        ]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _framed(self, data: bytes) -> bytes:
        if self._is_bare:
            return b""
        if not self._is_chunked:
            return data
        chunk = b"%x\r\n%s\r\n" % (len(data), data) if data else b""
        return chunk + b"0\r\n\r\n" if self._is_over else chunk

    async def can_go_on(self) -> bool:
        """Read what the application left of the body; return whether another request may follow.
        None may if the end of the body was not found.
        """
        try:
            return self._is_over and self._keeps_alive and await self._body.read_away(LEFT_MAX)
        except Unacceptable:
            return False


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


@define(eq=False)
class HttpPort:
    """Serves an application to every client. `where`: the name of its fences."""

    app: ASGIApp
    where: str
    tls: ssl.SSLContext | None
    is_closing: bool = field(default=False, init=False)
    _idle: set[trio.CancelScope] = field(factory=set, init=False)

    async def client(self, visit: Visit) -> None:
        """Serve one connection, from its first byte."""
        if visit.is_surplus:
            turn_away(visit.stream)
            return
        stream: trio.abc.Stream = visit.stream
        if self.tls is not None:
            stream = trio.SSLStream(visit.stream, self.tls, server_side=True, https_compatible=True)
        with suppress(trio.BrokenResourceError, Gone):
            await self._handshake(stream)
            await self.serve(visit, stream)

    async def serve(self, visit: Visit, stream: trio.abc.Stream, received: bytes = b"") -> None:
        """Answer the requests of a connection, of which some bytes were received already."""
        connection = HttpConnection(stream, received)
        try:
            with suppress(trio.BrokenResourceError, Gone):
                while await self._request(visit, connection):
                    pass
        finally:
            visit.has_answered = connection.has_answered
        await connection.linger()

    async def _handshake(self, stream: trio.abc.Stream) -> None:
        if isinstance(stream, trio.SSLStream):
            with trio.move_on_after(HEAD_SECONDS) as scope:
                await stream.do_handshake()
            if scope.cancelled_caught:
                raise Gone("the client did not finish the TLS handshake")

    async def _request(self, visit: Visit, connection: HttpConnection) -> bool:
        """Answer the next request; return whether another may follow."""
        try:
            with visit.at_rest():
                head = await self._head(connection)
            if visit.scope.cancel_called:  # it made way, just as it asked
                return False
        except Unacceptable as error:
            await connection.send(_bare_answer(error))
            return False
        if head is None:
            return False
        exchange = _Exchange(connection, head)
        await self._answer(visit, exchange)
        visit.has_answered = connection.has_answered
        return not self.is_closing and await exchange.can_go_on()

    async def _head(self, connection: HttpConnection) -> Head | None:
        if self.is_closing:
            return None
        with trio.CancelScope() as scope:
            self._idle.add(scope)
            try:
                return await connection.head()
            finally:
                self._idle.discard(scope)
        return None

    async def _answer(self, visit: Visit, exchange: _Exchange) -> None:
        head = exchange.head
        with fence(
            self.where, f"{head.method} {head.path[:PATH_SHOWN]!r} of {visit.address}"
        ) as caught:
            try:
                await self.app(self._scope(visit, head), exchange.receive, exchange.send)
            except (Gone, ClientDisconnect):
                return  # nobody is left to read the rest, and no other request follows
            except HTTPException as error:
                if not exchange.has_begun:
                    await _send(exchange, {"error": error.detail}, error.status_code)
            except RuntimeError as error:  # Starlette's, for a refusal after the answer began
                if not (exchange.is_refused and isinstance(error.__cause__, HTTPException)):
                    raise
        if caught.error is not None and not exchange.has_begun:
            await _send(exchange, {"error": "internal error"}, 500)

    def _scope(self, visit: Visit, head: Head) -> Scope:
        return {
            "type": "http",
            # With 2.4, Starlette would not notice clients that leave.
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.version,
            "method": head.method,
            "scheme": "http" if self.tls is None else "https",
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "root_path": "",
            "headers": head.headers,
            "client": (visit.address, 0),
            "server": None,
            KNOWN: visit.become_known,
        }

    def close(self) -> None:
        """Finish what is in progress; take no further request."""
        self.is_closing = True
        for scope in list(self._idle):
            scope.cancel()


async def _send(exchange: _Exchange, body: dict[str, str], status: int) -> None:
    """Answer in the application's place."""
    data = msgspec.json.encode(body)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await exchange.send({"type": "http.response.start", "status": status, "headers": headers})
    await exchange.send({"type": "http.response.body", "body": data})


def _bare_answer(error: Unacceptable) -> bytes:
    """The answer to what is not a request that an application could see."""
    data = msgspec.json.encode({"error": str(error)})
    head = (
        f"HTTP/1.1 {error.status} {_phrase(error.status)}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def door_of(where: str, bounds: Bounds = BOUNDS) -> Door:
    """The door of a port, for as many connections as we have descriptors for."""
    most = affordable(f"the connections of port {where}", bounds.most, bounds.part)
    return Door(where, Bounds(most, bounds.per_address))


@asynccontextmanager
async def open_http(
    app: ASGIApp,
    listeners: Sequence[trio.SocketListener],
    where: str,
    stop_seconds: float,
    tls: ssl.SSLContext | None = None,
    bounds: Bounds = BOUNDS,
    door: Door | None = None,
) -> AsyncIterator[int]:
    """Serve an application; gives the port number. At the end, answers in progress have
    `stop_seconds` to finish. `where`: as in `fence`. `door`: counts the connections; by default one
    with these `bounds`.
    """
    port = HttpPort(app, where, tls)
    door = door or door_of(where, bounds)
    async with trio.open_nursery() as clients, trio.open_nursery() as accepting:
        for listener in listeners:
            accepting.start_soon(door.accept, listener, port.client, clients)
        try:
            yield int(listeners[0].socket.getsockname()[1])
        finally:
            port.close()
            accepting.cancel_scope.cancel()
            clients.cancel_scope.deadline = trio.current_time() + stop_seconds
