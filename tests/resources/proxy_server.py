"""An HTTP proxy on loopback: it forwards, and it makes tunnels to this host; what it was asked is
kept.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from attrs import define, field

from .raw_server import _read_request, plain


@define
class ProxyServer:
    port: int
    requests: list[bytes] = field(factory=list)
    tunnel_answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def proxy_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[ProxyServer]:
    """Answer "forwarded" to any URL; tunnels go to their port on this host, whatever host they
    name.
    """

    async def serve(transport: trio.SocketStream) -> None:
        stream: Any = transport
        if tls is not None:
            stream = trio.SSLStream(transport, tls, server_side=True, https_compatible=True)
        try:
            while request := await _read_request(stream):
                proxy.requests.append(request)
                if not request.startswith(b"CONNECT "):
                    await stream.send_all(plain(b"forwarded"))
                    continue
                await stream.send_all(proxy.tunnel_answer)
                await _join(stream, int(request.split()[1].rpartition(b":")[2]))
                return
        except (trio.BrokenResourceError, OSError):
            pass
        finally:
            transport.socket.close()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        proxy = ProxyServer(listeners[0].socket.getsockname()[1])
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield proxy
        nursery.cancel_scope.cancel()


async def _join(stream: Any, port: int) -> None:
    async with (
        await trio.open_tcp_stream("127.0.0.1", port) as other,
        trio.open_nursery() as nursery,
    ):

        async def copy(source: Any, target: Any) -> None:
            try:
                while data := await source.receive_some(65536):
                    await target.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(copy, stream, other)
        nursery.start_soon(copy, other, stream)
