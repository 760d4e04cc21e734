"""The HTTP port by its bytes: what it answers, and what it refuses."""

from __future__ import annotations

import json

import pytest
import trio
import trio.lowlevel

from resources import fence

from .http_rig import GET, ask, everything, head_of, port, status


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
            with trio.fail_after(60):
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
