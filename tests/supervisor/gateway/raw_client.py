"""A gateway client that writes its bytes and frames itself."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from supervisor.service import Service

KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
UPGRADE = (
    b"GET /v1 HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\n" + KEY
)
HELLO = {"type": "hello", "channel": "phone", "outcomes": True}
TEXT, BINARY, CLOSE, PING, PONG, MORE = 1, 2, 8, 9, 10, 0


@asynccontextmanager
async def plain(service: Service) -> AsyncIterator[trio.SocketStream]:
    """A TCP connection to the gateway."""
    stream = await trio.open_tcp_stream("127.0.0.1", service.gateway.port)
    async with stream:
        yield stream


@asynccontextmanager
async def raw(
    service: Service, *, hello: bool = True, **fields: Any
) -> AsyncIterator[trio.SocketStream]:
    """A WebSocket whose frames the test writes itself."""
    async with plain(service) as stream:
        await stream.send_all(UPGRADE + b"Host: x\r\n\r\n")
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            data += await stream.receive_some(1)
        assert data.startswith(b"HTTP/1.1 101 ")
        if hello:
            await stream.send_all(masked(TEXT, json.dumps(HELLO | fields).encode()))
            while b"welcome" not in data:
                data += await stream.receive_some(1)
            await stream.receive_some(1000)
        yield stream


def masked(opcode: int, payload: bytes = b"", *, last: bool = True) -> bytes:
    """A frame as clients send it."""
    size = len(payload)
    head = bytes((0x80 * last | opcode,))
    head += (
        bytes((0x80 | size,))
        if size < 126
        else b"\xfe" + size.to_bytes(2, "big")
        if size < 65536
        else b"\xff" + size.to_bytes(8, "big")
    )
    return head + b"\0\0\0\0" + payload


async def all_of(stream: trio.SocketStream) -> bytes:
    """Everything until the server closes."""
    data = bytearray()
    with trio.fail_after(60):
        try:
            while piece := await stream.receive_some(65536):
                data += piece
        except trio.BrokenResourceError:
            pass
    return bytes(data)


def close_code(data: bytes) -> int:
    """The code of the close frame at the end."""
    at = data.rindex(b"\x88")
    return int.from_bytes(data[at + 2 : at + 4], "big")
