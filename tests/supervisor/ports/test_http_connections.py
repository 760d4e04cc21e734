"""Connections to the HTTP port: silent, slow, too many, reset. None ends or holds up more than
itself.
"""

from __future__ import annotations

import socket
import ssl
import struct
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trustme

from resources import fence
from supervisor.ports import http as http_port
from supervisor.ports import http_connection
from supervisor.ports.accepting import Bounds
from supervisor.ports.http import open_http

from ...lag import lag, step_bound
from .http_rig import GET, application, ask, everything, head_of, port, status

LOOP_MAX = step_bound()


async def test_a_silent_client_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that sends nothing, one that does not end its head, one that asks no more; a body that
    does not come is 408.
    """
    monkeypatch.setattr(http_connection, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(http_connection, "BODY_SECONDS", 0.2)
    async with port() as number:
        assert await ask(number, b"", close=False) == b""
        assert status(await ask(number, b"GET / HT", close=False)) == 408
        assert (await ask(number, GET, close=False)).count(b"200 OK") == 1
        assert (
            status(
                await ask(
                    number,
                    b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab",
                    close=False,
                )
            )
            == 408
        )


async def test_a_client_that_does_not_read_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stream ends, and nothing is counted as an error."""
    monkeypatch.setattr(http_connection, "WRITE_SECONDS", 0.2)
    caught = fence.tally["test"]
    async with port() as number, await trio.open_tcp_stream("127.0.0.1", number) as stream:
        await stream.send_all(b"GET /endless HTTP/1.1\r\nHost: h\r\n\r\n")
        with trio.fail_after(60):
            while True:
                await trio.sleep(0.05)
                try:  # what is sent to a closed connection is an error
                    await stream.send_all(b"x")
                except trio.BrokenResourceError:
                    break
    assert fence.tally["test"] == caught


async def test_a_client_that_leaves_ends_its_stream() -> None:
    """At once: the port closes without waiting for it."""
    with trio.fail_after(60):
        async with port(stop_seconds=30) as number:
            async with await trio.open_tcp_stream("127.0.0.1", number) as stream:
                await stream.send_all(b"GET /endless HTTP/1.1\r\nHost: h\r\n\r\n")
                await stream.receive_some(100)
            async with await trio.open_tcp_stream("127.0.0.1", number) as stream:
                await stream.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab")


async def test_a_port_that_closes_leaves_idle_clients_and_ends_streams() -> None:
    """Idle ones at once, streams when the time is up."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            answers: list[bytes] = []

            async def stay(number: int, request: bytes) -> None:
                answers.append(await ask(number, request, close=False))

            async with port(stop_seconds=0.2) as number:
                nursery.start_soon(stay, number, GET)
                nursery.start_soon(stay, number, b"GET /endless HTTP/1.1\r\nHost: h\r\n\r\n")
                await trio.sleep(0.1)
    assert sorted(status(answer) for answer in answers) == [200, 200]


async def test_connections_are_counted_at_accept() -> None:
    """When the port is full of known clients, others get a 503; an unknown one makes way."""
    async with port(Bounds(4, 4)) as number:
        async with trio.open_nursery() as nursery:
            streams = [await trio.open_tcp_stream("127.0.0.1", number) for _ in range(4)]
            for stream in streams:
                await stream.send_all(b"GET /known HTTP/1.1\r\nHost: h\r\n\r\n")
                assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 200 OK")
            assert status(await ask(number, GET, close=False)) == 503
            await streams.pop().aclose()
            with trio.fail_after(60):
                while status(await ask(number, GET)) != 200:
                    await trio.sleep(0.01)
            for stream in streams:
                await stream.aclose()
            nursery.cancel_scope.cancel()


async def test_clients_that_reset_their_connection_are_no_error() -> None:
    """Right after their request, and in the middle of an answer."""
    caught = fence.tally["test"]
    async with port() as number:
        for request in (
            GET,
            b"GET /endless HTTP/1.1\r\nHost: h\r\n\r\n",
            GET[:10],
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n",
        ):
            for reads in (False, True):
                stream = await trio.open_tcp_stream("127.0.0.1", number)
                await stream.send_all(request)
                if reads and request.endswith(b"\r\n\r\n") and b"Length" not in request:
                    await stream.receive_some(10)
                linger = struct.pack("ii", 1, 0)  # close sends RST
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                await stream.aclose()
        assert status(await ask(number, GET)) == 200
    assert fence.tally["test"] == caught


async def test_what_is_no_tls_ends_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain HTTP, garbage, silence, and half of a handshake, on a port that speaks TLS; the next
    client is served.
    """
    monkeypatch.setattr(http_port, "HEAD_SECONDS", 0.3)
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    caught = fence.tally["test"]
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with open_http(application, listeners, "test", 0.0, context) as number:
        for data in (GET, b"\xff" * 1000, b"", b"\x16\x03\x01\x02\x00\x01"):
            async with await trio.open_tcp_stream("127.0.0.1", number) as stream:
                await stream.send_all(data)
                assert b"HTTP/" not in await everything(stream)
        async with await trio.open_ssl_over_tcp_stream(
            "localhost", number, https_compatible=True, ssl_context=trusting
        ) as tls:
            await tls.send_all(GET)
            with trio.fail_after(60):
                assert (await tls.receive_some(1000)).startswith(b"HTTP/1.1 200")
    assert fence.tally["test"] == caught


@pytest.mark.parametrize(
    "request_",
    [
        head_of("POST / HTTP/1.1", "Host: h", "Transfer-Encoding: chunked")
        + b"1\r\na\r\n" * 100_000
        + b"0\r\n\r\n",
        head_of("POST / HTTP/1.1", "Host: h", f"Content-Length: {16 << 20}") + b"x" * (16 << 20),
        b"GET / HTTP/1.1\r\nHost: h\r\n" + b"a:" + b" " * 16_000 + b"\0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n" + b"a:" + b"\t" * 16_000 + b"x\r\n\r\n",
        GET * 5000,
        b"\r\n" * 500_000 + GET,
        b"GET /" + b"%" * 15_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;"
        + b";" * 1000
        + b"\r\n",
    ],
    ids=["chunks", "large", "spaces", "tabs", "pipelined", "empty lines", "percent", "extension"],
)
async def test_no_request_holds_up_others(request_: bytes) -> None:
    """The loop's own time between two turns stays below 50 ms of CPU, whatever one client sends."""

    async def client(stream: trio.SocketStream) -> None:
        try:
            await stream.send_all(request_)
            await stream.send_eof()
        except trio.BrokenResourceError:
            pass

    async with port() as number, trio.open_nursery() as nursery, lag() as measured:
        async with await trio.open_tcp_stream("127.0.0.1", number) as stream:
            nursery.start_soon(client, stream)
            await everything(stream, 120)
        assert status(await ask(number, GET)) == 200
    assert measured.longest < LOOP_MAX
