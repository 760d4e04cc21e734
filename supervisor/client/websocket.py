"""A WebSocket client connection that is closed when its block ends, whoever closed the WebSocket.

trio-websocket's own `open_websocket_url` leaves the TCP socket to the garbage collector when the
server was the first to close. Here the stream is ours from the start.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast
from urllib.parse import urlsplit

import trio
from trio_websocket import WebSocketConnection, wrap_client_stream
from wsproto.utilities import LocalProtocolError

from .corked import Corked

QUEUED = 64  # messages that are read ahead
READ = 64 << 10  # bytes at a time
CLOSE_SECONDS = 2.0  # for the closing handshake
CONNECT_SECONDS = 10.0  # for the opening one


@asynccontextmanager
async def open_websocket(
    url: str,
    subprotocols: Sequence[str] = (),
    headers: Sequence[tuple[bytes, bytes]] = (),
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[WebSocketConnection]:
    """Connect to `ws://` or `wss://`. `context`: which certificates are trusted; None: those of
    this host's authorities.

    Raises:
        OSError: Nobody listens there, or its certificate is not trusted.
        trio_websocket.HandshakeError: What listens there does not speak WebSocket, or not with us.
    """
    async with open_corked(url, subprotocols, headers, context) as (socket, _):
        yield socket


@asynccontextmanager
async def open_corked(
    url: str,
    subprotocols: Sequence[str] = (),
    headers: Sequence[tuple[bytes, bytes]] = (),
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[tuple[WebSocketConnection, Corked]]:
    """As `open_websocket`, but also give the stream beneath, so that it can be corked."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    secure = parts.scheme == "wss"
    port = parts.port or (443 if secure else 80)
    plain = await trio.open_tcp_stream(host, port)
    stream = Corked(plain)
    if secure:
        stream = Corked(await _secured(plain, host, context or ssl.create_default_context()))
    failure: Exception | None = None  # of the block; it must not come out in a group
    is_over = False
    try:
        async with trio.open_nursery() as nursery:
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            socket = None
            # If the other side closes at once, it would wait for ever.
            with trio.move_on_after(CONNECT_SECONDS):
                socket = await wrap_client_stream(
                    nursery,
                    cast("trio.SocketStream", stream),  # as typed; it takes any stream
                    parts.netloc,
                    target or "/",
                    subprotocols=subprotocols,
                    extra_headers=list(headers),
                    message_queue_size=QUEUED,
                    receive_buffer_size=READ,
                )
            if socket is None:
                text = f"no WebSocket in {CONNECT_SECONDS:g} s: does {url} speak {parts.scheme}?"
                failure = TimeoutError(errno.ETIMEDOUT, text)
            else:
                try:
                    yield socket, stream
                except Exception as error:  # noqa: BLE001  # raised again below
                    failure = error
                is_over = True
                with trio.move_on_after(CLOSE_SECONDS):
                    await socket.aclose()
            nursery.cancel_scope.cancel()
    except* LocalProtocolError:
        if not is_over:
            raise
        # The server's ping crossed our close: trio-websocket still answers it, which wsproto
        # refuses.
    finally:
        await trio.aclose_forcefully(stream)
    if failure is not None:
        raise failure


async def _secured(
    plain: trio.SocketStream, host: str, context: ssl.SSLContext
) -> trio.SSLStream[trio.SocketStream]:
    """Speak TLS over a stream; close it if that fails.

    Raises:
        OSError: The other side speaks none, or its certificate is not trusted; the text says which.
    """
    stream = trio.SSLStream(plain, context, server_hostname=host, https_compatible=True)
    try:
        with trio.fail_after(CONNECT_SECONDS):
            await stream.do_handshake()
    except BaseException as error:
        await trio.aclose_forcefully(plain)
        cause = error.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            text = f"its certificate is not trusted: {cause.verify_message}"
            raise ConnectionError(errno.EPROTO, text) from error
        if isinstance(error, trio.BrokenResourceError):
            reason = (getattr(cause, "reason", None) or str(cause or error)).lower()
            raise ConnectionError(
                errno.EPROTO, f"it does not speak TLS with us: {reason}"
            ) from error
        if isinstance(error, trio.TooSlowError):
            text = f"it has not answered in TLS for {CONNECT_SECONDS:g} s"
            raise TimeoutError(errno.ETIMEDOUT, text) from error
        raise
    return stream
