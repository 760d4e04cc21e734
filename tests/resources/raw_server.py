"""HTTP servers that send any bytes."""

from __future__ import annotations

import itertools
import os
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx2
import trio
from attrs import define, field, frozen

from resources.stores.allow import AllowList
from resources.stores.egress import Answer, Egress, Policy

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def plain(body: bytes, *headers: bytes) -> bytes:
    """An ordinary answer with a Content-Length."""
    return b"\r\n".join([OK.strip(), *headers, b"Content-Length: %d" % len(body), b"", body])


@frozen
class Reply:
    """What a server does with one request: what it sends, and then (keep, close, reset, wait or
    endless).
    """

    data: bytes = b""
    then: str = "keep"


Script = Callable[[int, int], Reply]
"""From the number of the connection and of the request on it, from 0, to the reply."""


@define
class RawServer:
    port: int
    connections: int = 0
    requests: list[bytes] = field(factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def raw_server(
    script: Script | Reply | bytes, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawServer]:
    """A server on loopback that replies as the script says, whatever it is asked."""
    if isinstance(script, bytes):
        script = Reply(script)
    reply_to: Script = (lambda *_: script) if isinstance(script, Reply) else script

    async def serve(transport: trio.SocketStream) -> None:
        number = server.connections
        server.connections += 1
        stream: Any = transport
        if tls is not None:
            stream = trio.SSLStream(transport, tls, server_side=True, https_compatible=True)
        try:
            for index in range(1000):
                request = await _read_request(stream)
                if not request:
                    break
                server.requests.append(request)
                reply = reply_to(number, index)
                await _send(stream, reply)
                if reply.then == "reset":
                    transport.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                if reply.then == "wait":
                    await trio.sleep_forever()
                if reply.then in ("close", "reset"):
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has had enough
        finally:
            transport.socket.close()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server = RawServer(listeners[0].socket.getsockname()[1])
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield server
        nursery.cancel_scope.cancel()


async def _read_request(stream: Any) -> bytes:
    data = b""
    while True:
        head, end, body = data.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if end and len(body) >= (int(length[1]) if length else 0):
            return data
        more = await stream.receive_some(65536)
        if not more:
            return data
        data += more


async def _send(stream: Any, reply: Reply) -> None:
    while True:
        for at in range(0, len(reply.data), 65536):
            await stream.send_all(reply.data[at : at + 65536])
        if reply.then != "endless":
            return


def policy(*allow: str, **fields: Any) -> Policy:
    """A policy with the defaults of the config."""
    options = {"connect_to": {}, "proxy": "", "redirects": 20, "response_max": 131072} | fields
    return Policy(AllowList.parse(allow), **options)


LOCAL = policy("127.0.0.0/8", "::1")


async def get(
    egress: Egress,
    url: str,
    rules: Policy = LOCAL,
    *,
    method: str = "GET",
    app: str = "app",
    verify: bool = True,
    **fields: Any,
) -> Answer:
    """One request, that ends."""
    with trio.fail_after(60):
        return await egress.fetch(app, httpx2.Request(method, url, **fields), rules, verify=verify)


def open_sockets() -> int:
    """How many sockets this process has open."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:
            pass  # the descriptor of the folder itself
    return count


@contextmanager
def no_socket_left() -> Iterator[None]:
    """Assert that the block leaves as many sockets as there were."""
    before = open_sockets()
    yield
    assert open_sockets() == before


def is_idle(egress: Egress, kept: int | None = None) -> bool:
    """Whether nothing is in use any more: no connection, no slice of work, no thread; and whether
    `kept` connections are kept.
    """
    pace, lookups = egress._pace, egress._connector._lookups
    return (
        not egress._places
        and not pace._taken
        and not pace._waiting
        and not lookups._running
        and not lookups._waiting
        and kept in (None, len(egress._kept))
    )


def spread(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Data cut at these places."""
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]
