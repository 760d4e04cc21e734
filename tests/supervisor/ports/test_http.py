"""The HTTP port by its bytes: what it answers, what it bounds, and that nothing ends more than its
own connection.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trustme
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from resources import fence
from supervisor.admin.bodies import Stream
from supervisor.ports import http as http_port
from supervisor.ports import http_connection
from supervisor.ports.accepting import Bounds
from supervisor.ports.http import BOUNDS, KNOWN, open_http
from supervisor.ports.http_head import Unacceptable, parse_head

from ...lag import lag, step_bound

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


async def test_requests_of_every_form_are_answered() -> None:
    """Without and with a body, in one piece or in chunks, one after the other on one connection."""
    chunked = (
        b"POST /c%C3%A9?a=1 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nT: 1\r\n\r\n"
    )
    plain = b"\r\nPOST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nabcde"
    absolute = b"GET http://h/abs?q HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    async with port() as number:
        answer = await ask(number, GET + chunked + plain + absolute)
    bodies = [json.loads(part.split(b"}")[0] + b"}") for part in answer.split(b"\r\n\r\n")[1:]]
    assert bodies == [
        {"path": "/", "query": "", "size": 0},
        {"path": "/cé", "query": "a=1", "size": 7},
        {"path": "/p", "query": "", "size": 5},
        {"path": "/abs", "query": "q", "size": 0},
    ]
    assert answer.count(b"HTTP/1.1 200 OK") == 4


async def test_bytes_that_come_one_by_one_are_the_same_request() -> None:
    """Wherever it is cut."""
    request = (
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"3\r\nabc\r\n0\r\n\r\n"
    )
    async with port() as number, await trio.open_tcp_stream("127.0.0.1", number) as stream:
        for byte in request:
            await stream.send_all(bytes((byte,)))
            await trio.lowlevel.checkpoint()
        assert b'"size": 3' in await everything(stream)


def head_of(*lines: str) -> bytes:
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


REFUSED: list[tuple[bytes, int]] = [
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    (head_of("GET / HTTP/3.0", "Host: h"), 505),
    (head_of("GET / HTTP/1.1"), 400),
    (head_of("GET / HTTP/1.1", "Host: a", "Host: b"), 400),
    (head_of("GET /", "Host: a"), 400),
    (head_of("GET  / HTTP/1.1", "Host: a"), 400),
    (head_of("GET /\xe9 HTTP/1.1", "Host: a"), 400),
    (head_of("GET /%ff HTTP/1.1", "Host: a"), 400),
    (head_of("GET /%ed%a0%bd HTTP/1.1", "Host: a"), 400),
    (head_of("OPTIONS * HTTP/1.1", "Host: a"), 400),
    (head_of("CONNECT h:1 HTTP/1.1", "Host: a"), 400),
    (head_of("GET / HTTP/1.1", "Host: a", " folded"), 400),
    (head_of("GET / HTTP/1.1", "Host: a", "X : y"), 400),
    (head_of("GET / HTTP/1.1", "Host: a", "no colon"), 400),
    (head_of("GET / HTTP/1.1", "Host: a", "X: a\0b"), 400),
    (head_of("GET / HTTP/1.1", "Host: a", "X: a\rb"), 400),
    (head_of("GET / HTTP/1.1", "Host: a", *[f"X{n}: y" for n in range(200)]), 431),
    (b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000, 431),
    (b"G" * 20_000, 431),
    (head_of("POST / HTTP/1.1", "Host: a", "Content-Length: x"), 400),
    (head_of("POST / HTTP/1.1", "Host: a", "Content-Length: -1"), 400),
    (head_of("POST / HTTP/1.1", "Host: a", "Content-Length: 5, 5"), 400),
    (head_of("POST / HTTP/1.1", "Host: a", "Content-Length: 5", "Content-Length: 6"), 400),
    (head_of("POST / HTTP/1.1", "Host: a", "Content-Length: " + "9" * 5000), 400),
    (head_of("POST / HTTP/1.1", "Host: a", "Content-Length: 999999999999"), 413),
    (head_of("POST / HTTP/1.1", "Host: a", "Content-Length: 5", "Transfer-Encoding: chunked"), 400),
    (head_of("POST / HTTP/1.0", "Host: a", "Transfer-Encoding: chunked"), 400),
    (head_of("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: gzip, chunked"), 501),
    (head_of("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + b"xyz\r\n", 400),
    (head_of("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + b"-1\r\n", 400),
    (
        head_of("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")
        + b"fffffffffffffff\r\n",
        413,
    ),
    (
        head_of("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")
        + b"ffffffffffffffffffff\r\n",
        400,
    ),
    (
        head_of("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")
        + b"1;"
        + b"x" * 5000
        + b"\r\n",
        400,
    ),
    (head_of("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked") + b"1\r\nab\r\n", 400),
    (
        head_of("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")
        + b"0\r\n"
        + b"A: b\r\n" * 50,
        431,
    ),
]


@pytest.mark.parametrize(("request_", "code"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
async def test_what_is_no_request_is_refused(request_: bytes, code: int) -> None:
    """With a fitting 4xx or 5xx, and the connection is closed; the next client is served; no error
    is counted.
    """
    caught = fence.tally["test"]
    async with port() as number:
        answer = await ask(number, request_, close=False)
        assert status(answer) == code
        assert "error" in json.loads(answer.partition(b"\r\n\r\n")[2])
        assert status(await ask(number, GET)) == 200
    assert fence.tally["test"] == caught


@pytest.mark.parametrize(
    "lines",
    [
        ("Connection: Upgrade", "Upgrade: h2c", "HTTP2-Settings: \xff\xff!!"),
        ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
        (
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        ),
        (
            "Connection: \xff",
            "Sec-WebSocket-Extensions: \xe9",
            "Upgrade: \xff",
            "Sec-WebSocket-Protocol: \xff",
        ),
        ("Expect: \xff", "Accept: " + "\xff" * 1000),
    ],
)
async def test_an_upgrade_is_answered_as_what_it_is_without(lines: tuple[str, ...]) -> None:
    """No HTTP/2, no WebSocket, whatever the headers hold."""
    async with port() as number:
        assert status(await ask(number, head_of("GET / HTTP/1.1", "Host: \xff", *lines))) == 200


async def test_an_error_that_nobody_expected_ends_its_request_alone() -> None:
    """500 as JSON, counted once; the connection goes on. After the answer has begun: the connection
    is cut.
    """
    caught = fence.tally["test"]
    async with port() as number:
        raising = b"GET /raise HTTP/1.1\r\nHost: h\r\n\r\n"
        answer = await ask(number, raising + GET)
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b'{"error":"internal error"}' in answer
        assert answer.count(b"HTTP/1.1 200 OK") == 1
        answer = await ask(number, b"GET /header HTTP/1.1\r\nHost: h\r\n\r\n")
        assert status(answer) == 500
        assert b"\r\nb: c" not in answer
        answer = await ask(number, b"GET /late HTTP/1.1\r\nHost: h\r\n\r\n" + GET)
        # no last chunk: the client knows that it is cut off
        assert answer.endswith(b"4\r\nhalf\r\n")
        assert await ask(number, b"GET /silent HTTP/1.1\r\nHost: h\r\n\r\n") == b""
        assert status(await ask(number, GET)) == 200
    assert fence.tally["test"] == caught + 3


async def test_answers_without_a_body_have_none() -> None:
    """HEAD, and 204; the next answer on the connection is whole."""
    async with port() as number:
        answer = await ask(
            number, b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\nGET /none HTTP/1.1\r\nHost: h\r\n\r\n" + GET
        )
    heads = answer.split(b"\r\n\r\n")
    assert [head.split(b"\r\n")[0] for head in heads[:3]] == [
        b"HTTP/1.1 200 OK", b"HTTP/1.1 204 No Content", b"HTTP/1.1 200 OK",
    ]  # fmt: skip
    assert b"content-length: " in heads[0]
    assert json.loads(heads[3]) == {"path": "/", "query": "", "size": 0}


async def test_http_1_0_is_answered_and_closed() -> None:
    """Unless it asks to keep the connection."""
    async with port() as number:
        answer = await ask(number, b"GET / HTTP/1.0\r\n\r\n" + GET, close=False)
        assert answer.count(b"HTTP/1.1 200 OK") == 1
        answer = await ask(number, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + GET)
        assert answer.count(b"HTTP/1.1 200 OK") == 2


async def test_a_body_is_asked_for_where_the_client_waits_for_that() -> None:
    """Expect: 100-continue; not if the application does not want the body."""
    head = b"POST %s HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    async with port() as number:
        async with await trio.open_tcp_stream("127.0.0.1", number) as stream:
            await stream.send_all(head % b"/")
            with trio.fail_after(5):
                assert await stream.receive_some(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            await stream.send_all(b"abc")
            await stream.send_eof()
            assert b'"size": 3' in await everything(stream)
        answer = await ask(number, head % b"/unread", close=False)
        assert b"100 Continue" not in answer
        assert answer.endswith(b"unread")


async def test_a_body_nobody_reads_does_not_become_a_request() -> None:
    """A short one is read and dropped; after a long one the connection is closed."""
    inner = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
    short = b"POST /unread HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (
        len(inner),
        inner,
    )
    long = b"POST /unread HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + inner * 2000
    async with port() as number:
        answer = await ask(number, short + GET)
        assert (answer.count(b"unread"), answer.count(b"smuggled"), answer.count(b"200 OK")) == (
            1,
            0,
            2,
        )
        answer = await ask(number, long + GET)
        assert (answer.count(b"unread"), answer.count(b"smuggled"), answer.count(b"200 OK")) == (
            1,
            0,
            1,
        )


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
        with trio.fail_after(10):
            while True:
                await trio.sleep(0.05)
                try:  # what is sent to a closed connection is an error
                    await stream.send_all(b"x")
                except trio.BrokenResourceError:
                    break
    assert fence.tally["test"] == caught


async def test_a_client_that_leaves_ends_its_stream() -> None:
    """At once: the port closes without waiting for it."""
    with trio.fail_after(10):
        async with port(stop_seconds=30) as number:
            async with await trio.open_tcp_stream("127.0.0.1", number) as stream:
                await stream.send_all(b"GET /endless HTTP/1.1\r\nHost: h\r\n\r\n")
                await stream.receive_some(100)
            async with await trio.open_tcp_stream("127.0.0.1", number) as stream:
                await stream.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab")


async def test_a_port_that_closes_leaves_idle_clients_and_ends_streams() -> None:
    """Idle ones at once, streams when the time is up."""
    with trio.fail_after(10):
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
            with trio.fail_after(5):
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
            with trio.fail_after(10):
                assert (await tls.receive_some(1000)).startswith(b"HTTP/1.1 200")
    assert fence.tally["test"] == caught


LOOP_MAX = step_bound()


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
            await everything(stream, 30)
        assert status(await ask(number, GET)) == 200
    assert measured.longest < LOOP_MAX


@given(
    st.binary(max_size=300) | st.text("GETPOS/ HTP1.0:host\r\n\x00%;", max_size=200).map(str.encode)
)
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    """Never anything else."""
    try:
        head = parse_head(data + b"\r\n\r\n")
    except Unacceptable as error:
        assert 400 <= error.status < 600
    else:
        assert head.path.startswith("/")
        head.path.encode()


def test_heads_are_parsed_in_linear_time() -> None:
    """Four times the bytes take about four times as long at most."""

    def seconds(make: Callable[[int], bytes], count: int) -> float:
        took = []
        for _ in range(5):
            data = make(count)
            began = time.thread_time()
            with pytest.raises(Unacceptable):
                parse_head(data)
            took.append(time.thread_time() - began)
        return min(took)

    makers: list[Callable[[int], bytes]] = [
        lambda n: b"GET / HTTP/1.1\r\na:" + b" " * n + b"\0\r\n\r\n",
        lambda n: b"GET /" + b"%" * n + b"\xff HTTP/1.1\r\n\r\n",
        lambda n: b"GET / HTTP/1.1\r\nHost: h\r\nConnection:" + b"," * n + b"\r\nHost: i\r\n\r\n",
        lambda n: b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:" + b" ," * n + b"\r\n\r\n",
    ]
    for make in makers:
        assert seconds(make, 400_000) < 10 * seconds(make, 100_000) + 0.02
