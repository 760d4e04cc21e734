"""A request's body turns out to be malformed after its answer has begun."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resources.fence import tally
from supervisor.admin.bodies import Stream
from supervisor.ports.http import open_http

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
NO_CHUNK = b"no chunk\r\n"


async def endless() -> AsyncGenerator[bytes, None]:
    yield b"first"
    await trio.sleep_forever()


async def answer(_: Request) -> Response:
    return Stream(endless(), "text/plain")


@pytest.mark.parametrize("is_late", [False, True])
async def test_it_ends_the_answer_and_is_no_error_of_ours(*, is_late: bool) -> None:
    """Whether the body is there as the answer begins, or comes later."""
    before = tally["late"]
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with open_http(Starlette(routes=[Route("/", answer)]), listeners, "late", 0) as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as client:
            await client.send_all(HEAD if is_late else HEAD + NO_CHUNK)
            received = b""
            while is_late and b"first" not in received:
                received += await client.receive_some()
            await client.send_all(NO_CHUNK)
            with trio.fail_after(60):
                while await client.receive_some():
                    pass
    assert received.startswith(b"HTTP/1.1 200 ") or not is_late
    assert tally["late"] == before
