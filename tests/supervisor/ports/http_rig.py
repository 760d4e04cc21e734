"""An HTTP port with an application that echoes, and a client that writes its bytes itself."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.lowlevel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from supervisor.admin.bodies import Stream
from supervisor.ports.accepting import Bounds
from supervisor.ports.http import BOUNDS, KNOWN, open_http

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def endless() -> AsyncGenerator[bytes, None]:
    while True:
        yield b"x" * 65536
        await trio.lowlevel.checkpoint()


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Echoes bodies; some paths do odd things."""
    request = Request(scope, receive)
    match scope["path"]:
        case "/raise":
            raise RuntimeError("nobody expected this")
        case "/late":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise RuntimeError("nobody expected this either")
        case "/header":
            await Response("x", headers={"x": "a\r\nb: c"})(scope, receive, send)
        case "/endless":
            scope[KNOWN]()
            await Stream(endless(), "text/plain")(scope, receive, send)
        case "/known":
            scope[KNOWN]()
            await Response("known")(scope, receive, send)
        case "/none":
            await Response(status_code=204)(scope, receive, send)
        case "/unread":
            await Response("unread")(scope, receive, send)
        case "/silent":
            return
        case _:
            body = await request.body()
            shown = {
                "path": scope["path"],
                "query": scope["query_string"].decode(),
                "size": len(body),
            }
            await Response(json.dumps(shown))(scope, receive, send)


@asynccontextmanager
async def port(bounds: Bounds = BOUNDS, stop_seconds: float = 0.0) -> AsyncIterator[int]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with open_http(application, listeners, "test", stop_seconds, bounds=bounds) as number:
        yield number


async def everything(stream: trio.SocketStream, seconds: float = 10.0) -> bytes:
    """What comes until the server closes."""
    data = b""
    with trio.fail_after(seconds):
        try:
            while more := await stream.receive_some(65536):
                data += more
        except trio.BrokenResourceError:
            pass
    return data


async def ask(number: int, request: bytes, *, close: bool = True) -> bytes:
    async with await trio.open_tcp_stream("127.0.0.1", number) as stream:
        await stream.send_all(request)
        if close:
            await stream.send_eof()
        return await everything(stream)


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:100]
    return int(answer.split(b" ")[1])


def head_of(*lines: str) -> bytes:
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
