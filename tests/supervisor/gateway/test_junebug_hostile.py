"""A Junebug that answers for ever: each post ends, and the loop is not held meanwhile."""

from __future__ import annotations

import pytest
import trio

from resources.stores.egress import open_egress
from supervisor.gateway.junebug.poster import Failed, Poster, Taken, Verdict

from ...lag import lag

HELD_MAX = 0.05  # seconds of CPU: as long as anything from outside may hold the loop
CHUNKED = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "part", "verdict"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2000, Failed),
        (b"HTTP/1.1 201 Created\r\n", b"A: b\r\n" * 10_000, Failed),
        (b"HTTP/1.1 201 Created\r\nA: ", b"x" * 60_000, Failed),
        (b"", b"\r\n" * 30_000, Failed),
        (CHUNKED, b"1\r\nx\r\n" * 10_000, Taken),
        (CHUNKED, b"1;" + b"y" * 60_000, Taken),
        (CHUNKED, b"ffff\r\n" + b"[" * 0xFFFF + b"\r\n", Taken),
        (b"HTTP/1.1 201 Created\r\nContent-Encoding: gzip\r\n\r\n", b"\x1f\x8b\x08" * 9000, Taken),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 99999999999\r\n\r\n", b"x" * 60_000, Taken),
    ],
)
async def test_an_endless_answer(head: bytes, part: bytes, verdict: type[Verdict]) -> None:
    """What came of its head says what became of the message."""

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        try:
            await stream.send_all(head)
            while True:
                await stream.send_all(part)
        except trio.BrokenResourceError:
            await stream.aclose()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/channels/x"
    async with trio.open_nursery() as nursery, open_egress() as egress:
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        async with lag() as measured:
            found = await Poster.of(egress, "menu", url).post({"content": "x"})
        assert isinstance(found, verdict), found
        assert measured.longest < HELD_MAX
        nursery.cancel_scope.cancel()
