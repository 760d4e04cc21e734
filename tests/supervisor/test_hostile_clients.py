"""Clients of the gateway that do anything but what they should: each ends alone, and others are served."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from resources.fence import tally
from supervisor.service import Service

from ..gateway_client import connect
from ..service import eventually

KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
UPGRADE = b"GET /v1 HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" + KEY
HELLO = {"type": "hello", "channel": "phone", "outcomes": True}


@asynccontextmanager
async def plain(service: Service) -> AsyncIterator[trio.SocketStream]:
    """A TCP connection to the gateway."""
    stream = await trio.open_tcp_stream("127.0.0.1", service.gateway.port)
    async with stream:
        yield stream


async def all_of(stream: trio.SocketStream) -> bytes:
    """Everything until the server closes."""
    data = bytearray()
    with trio.fail_after(20):
        try:
            while piece := await stream.receive_some(65536):
                data += piece
        except trio.BrokenResourceError:
            pass
    return bytes(data)


async def assert_serves(service: Service) -> None:
    """Somebody else is answered."""
    async with connect(service.gateway_url) as client:
        assert (await client.say("still there"))[0]["outcome"] == "ok"


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.1\r\nHost: xn--1-zhc.evil.example:8430\r\n\r\n",
        b"GET /v1 HTTP/1.1\r\nHost: xn--a\r\n\r\n",
        UPGRADE + b"Host: \xff\r\n\r\n",
        UPGRADE + b"Host: a.\xf0\x9f\x98\x80\r\n\r\n",
        UPGRADE + b"Host: x\r\nSec-WebSocket-Protocol: jsbox.v1\xe9\r\n\r\n",
        UPGRADE + b"Host: x\r\nSec-WebSocket-Extensions: \x80\r\n\r\n",
        UPGRADE.replace(b"Connection: Upgrade", b"Connection: Upgrade, \xff") + b"Host: x\r\n\r\n",
        UPGRADE.replace(KEY, b"Sec-WebSocket-Key: \xff\r\n") + b"Host: x\r\nSec-WebSocket-Protocol: \xfe\r\n\r\n",
    ],
)
async def test_a_request_that_no_library_understands_is_a_bad_request(service: Service, request_head: bytes) -> None:
    """Whatever is raised over it: HTTP 400, counted, and nobody else notices."""
    before = tally["gateway"]
    async with plain(service) as stream:
        await stream.send_all(request_head)
        assert (await all_of(stream)).startswith(b"HTTP/1.1 400 ")
    assert tally["gateway"] == before + 1
    await assert_serves(service)


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00\x01\x00", b"\r\n\r\n", b"\x00" * 70_000, b"POST /v1 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /v1 HTTP/1.1\r\n" + b"a: b\r\n" * 9000],
    ids=["tls", "empty lines", "zeros", "post", "long head"],
)  # fmt: skip
async def test_what_is_no_websocket_is_closed(service: Service, data: bytes) -> None:
    """At once."""
    async with plain(service) as stream:
        with suppress(trio.BrokenResourceError):  # it may be closed before it has all
            await stream.send_all(data)
            await stream.send_eof()
        await all_of(stream)
    await assert_serves(service)
    await eventually(lambda: service.gateway.door.open == 0)


@pytest.mark.parametrize(
    "origin", [b"http://[", b"http://[::1", b"//[x]]", b"http://a]b", b"\xff", b"http://\xe2\x84\xaa"]
)
async def test_an_origin_that_makes_no_sense_is_no_page_of_this_host(service: Service, origin: bytes) -> None:
    """4401, as for any other page."""
    async with connect(service.gateway_url, headers=[(b"Origin", origin)]) as client:
        assert await client.expect_close() == 4401
    await assert_serves(service)
