"""A WebSocket client connection that is closed when its block ends, whoever closed the WebSocket.

trio-websocket's own `open_websocket_url` leaves the TCP socket to the garbage collector when the server was the first to close.
Here the stream is ours from the start.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

CLOSE_SECONDS = 2.0  # for the closing handshake


@asynccontextmanager
async def open_websocket(
    url: str, subprotocols: Sequence[str] = (), headers: Sequence[tuple[bytes, bytes]] = ()
) -> AsyncIterator[WebSocketConnection]:
    """Connect to `ws://` or `wss://`.

    Raises:
        OSError: Nobody listens there.
        trio_websocket.HandshakeError: What listens there does not speak WebSocket, or not with us.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    secure = parts.scheme == "wss"
    port = parts.port or (443 if secure else 80)
    plain = await trio.open_tcp_stream(host, port)
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = plain
    if secure:
        stream = trio.SSLStream(plain, ssl.create_default_context(), server_hostname=host, https_compatible=True)
    failure: Exception | None = None  # of the block: it comes out as it is, not in a group with nothing beside it
    try:
        async with trio.open_nursery() as nursery:
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            socket = await wrap_client_stream(
                nursery, stream, parts.netloc, target or "/", subprotocols=subprotocols, extra_headers=list(headers)
            )
            try:
                yield socket
            except Exception as error:  # noqa: BLE001
                failure = error
            with trio.move_on_after(CLOSE_SECONDS):
                await socket.aclose()
            nursery.cancel_scope.cancel()
    finally:
        await trio.aclose_forcefully(stream)
    if failure is not None:
        raise failure
