"""Clients whose requests or frames make no sense: each is closed alone, and others are served."""

from __future__ import annotations

import json
from contextlib import suppress

import trio

from resources.fence import tally
from supervisor.service import Service

from ...gateway_client import connect
from ...in_turn import in_turn
from ...service import eventually
from .inside import assert_serves
from .raw_client import (
    BINARY,
    CLOSE,
    KEY,
    MORE,
    PING,
    PONG,
    TEXT,
    UPGRADE,
    all_of,
    close_code,
    masked,
    plain,
    raw,
)


@in_turn(
    "request_head",
    [
        b"GET / HTTP/1.1\r\nHost: xn--1-zhc.evil.example:8430\r\n\r\n",
        b"GET /v1 HTTP/1.1\r\nHost: xn--a\r\n\r\n",
        UPGRADE + b"Host: \xff\r\n\r\n",
        UPGRADE + b"Host: a.\xf0\x9f\x98\x80\r\n\r\n",
        UPGRADE + b"Host: x\r\nSec-WebSocket-Protocol: jsbox.v1\xe9\r\n\r\n",
        UPGRADE + b"Host: x\r\nSec-WebSocket-Extensions: \x80\r\n\r\n",
        UPGRADE.replace(b"Connection: Upgrade", b"Connection: Upgrade, \xff") + b"Host: x\r\n\r\n",
        UPGRADE.replace(KEY, b"Sec-WebSocket-Key: \xff\r\n")
        + b"Host: x\r\nSec-WebSocket-Protocol: \xfe\r\n\r\n",
    ],
)
async def test_a_request_that_no_library_understands_is_a_bad_request(
    service: Service, request_head: bytes
) -> None:
    """Whatever exception it raises: HTTP 400, counted, and nobody else notices."""
    before = tally["gateway"]
    async with plain(service) as stream:
        await stream.send_all(request_head)
        assert (await all_of(stream)).startswith(b"HTTP/1.1 400 ")
    assert tally["gateway"] == before + 1
    await assert_serves(service)


@in_turn(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\r\n\r\n",
        b"\x00" * 70_000,
        b"POST /v1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1 HTTP/1.1\r\n" + b"a: b\r\n" * 9000,
    ],
)
async def test_what_is_no_websocket_is_closed(service: Service, data: bytes) -> None:
    """At once."""
    async with plain(service) as stream:
        with suppress(trio.BrokenResourceError):  # it may be closed before it has all
            await stream.send_all(data)
            await stream.send_eof()
        await all_of(stream)
    await assert_serves(service)
    await eventually(lambda: service.gateway.door.open == 0)


@in_turn(
    "origin",
    [b"http://[", b"http://[::1", b"//[x]]", b"http://a]b", b"\xff", b"http://\xe2\x84\xaa"],
)
async def test_an_origin_that_makes_no_sense_is_no_page_of_this_host(
    service: Service, origin: bytes
) -> None:
    """4401, as for any other web page."""
    async with connect(service.gateway_url, headers=[(b"Origin", origin)]) as client:
        assert await client.expect_close() == 4401
    await assert_serves(service)


async def test_messages_come_in_any_pieces(service: Service) -> None:
    """Fragments, also empty; pings between them; several frames in a packet, a frame in several."""
    text = json.dumps({"type": "event", "id": "é" * 20, "event": {}}, ensure_ascii=False).encode()
    cut = text.index("é".encode()) + 1  # in the middle of a character
    pieces = (
        masked(TEXT, text[:cut], last=False)
        + masked(PING, b"here?")
        + masked(MORE, b"", last=False)
    )
    whole = pieces + masked(MORE, text[cut:-1], last=False) + masked(PONG) + masked(MORE, text[-1:])
    async with raw(service) as stream:
        await stream.send_all(whole + whole)
        for byte in whole:
            await stream.send_all(bytes((byte,)))
        data = b""
        with trio.fail_after(60):
            while data.count(b"rejected") < 3 or data.count(b"\x8a\x05here?") < 3:
                data += await stream.receive_some(4096)
        await stream.send_all(masked(CLOSE, b"\x03\xe8"))
        assert close_code(await all_of(stream)) == 1000


@in_turn(
    ("data", "code"),
    [
        (b"\x81\x05hello", 1002),  # not masked
        (masked(3, b"x"), 1002),
        (masked(MORE, b"x"), 1002),
        (masked(TEXT, b"a", last=False) + masked(TEXT, b"b"), 1002),
        (masked(PING, b"x" * 126), 1002),
        (masked(PING, b"", last=False), 1002),
        (b"\xc1\x80\0\0\0\0", 1002),  # a reserved bit
        (masked(TEXT, b"\xff"), 1007),
        (masked(TEXT, b"\xed\xa0\xbd"), 1007),  # half a surrogate pair
        (masked(CLOSE, b"x"), 1002),
        (masked(BINARY, b"{}"), 4400),
        (masked(TEXT, b"x" * 9000), 4413),
        (masked(TEXT, b"x" * 3_000_000), 4413),
        (masked(TEXT, b"x" * 5000, last=False) + masked(MORE, b"x" * 5000), 4413),
    ],
)  # fmt: skip
async def test_frames_that_break_the_protocol_close_the_connection(
    service: Service, data: bytes, code: int
) -> None:
    """With the right close code, and an error frame before it; nobody else notices."""
    async with raw(service) as stream, trio.open_nursery() as nursery:
        got: list[bytes] = []

        async def read() -> None:
            got.append(await all_of(stream))
            nursery.cancel_scope.cancel()

        nursery.start_soon(read)
        with suppress(trio.BrokenResourceError):
            await stream.send_all(data)
            await trio.sleep_forever()
    assert close_code(got[0]) == code
    assert b'"type":"error"' in got[0]
    await eventually(lambda: service.gateway.door.open == 0)


async def test_who_has_not_said_hello_has_a_small_budget(service: Service) -> None:
    """An endless message, endless pings, a long head: closed long before they cost anything."""
    async with raw(service, hello=False) as stream:
        with suppress(trio.BrokenResourceError):
            for _ in range(1000):
                await stream.send_all(masked(MORE if _ else TEXT, b"x" * 1000, last=False))
        assert close_code(await all_of(stream)) == 4413
    async with raw(service, hello=False) as stream:
        with suppress(trio.BrokenResourceError):
            for _ in range(10_000):
                await stream.send_all(masked(PING, b"x" * 100))
        data = await all_of(stream)
        assert not data or close_code(data) == 4413
