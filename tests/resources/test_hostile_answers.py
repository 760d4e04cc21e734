"""Answers made to hold up or to end everybody else, from real servers: each has an end, a reason,
and short steps.
"""

from __future__ import annotations

import gzip
from typing import Any

import httpx2
import pytest
import trio
import trio.lowlevel
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.stores.egress import Egress, EgressError, open_egress
from resources.text import is_clean

from ..lag import lag, step_bound
from .raw_server import (
    CHUNKED,
    LOCAL,
    OK,
    Reply,
    _send,
    get,
    is_idle,
    no_socket_left,
    plain,
    policy,
    raw_server,
)

EMPTY_MEMBER = gzip.compress(b"")

TEXT = b"Content-Type: text/plain; charset="

# By name: what the server sends, and what comes of it: the length of the body, or a reason.
HOSTILE: dict[str, tuple[bytes | Reply, int | str]] = {
    "charset punycode": (plain(b"9" * 131072, TEXT + b"punycode"), 131072),
    "charset utf-7, half a pair": (plain(b"+2D0-", TEXT + b"utf-7"), 5),
    "charset unicode_escape": (plain(b"\\ud83d", TEXT + b"unicode_escape"), 6),
    "charset utf-16, halves of pairs": (plain(b"\0\xd8" * 65536, TEXT + b"utf-16"), 65536),
    "charset with a hole": (plain(b"\xd2" * 131072, TEXT + b"windows-1253"), 131072),
    "a charset's name of 60 KB": (plain(b"ok", TEXT + b"x" * 60_000), 2),
    "one-byte chunks": (CHUNKED + b"1\r\nx\r\n" * 131072 + b"0\r\n\r\n",
        "more than 4096 chunks of a few bytes"),
    "four-byte chunks": (CHUNKED + b"4\r\nabcd\r\n" * 32768 + b"0\r\n\r\n",
        "more than 4096 chunks"),
    "chunks of 32 bytes": (CHUNKED + (b"20\r\n" + b"x" * 32 + b"\r\n") * 4096 + b"0\r\n\r\n",
        131072),
    "one-byte chunks for ever": (Reply(b"1\r\nx\r\n" * 10_000, "endless"), "not valid HTTP"),
    "chunks without end": (Reply(CHUNKED + (b"40\r\n" + b"x" * 64 + b"\r\n") * 5_000, "wait"),
        "maximum of 131072 bytes"),
    "extensions of chunks": (CHUNKED + (b"1;" + b"e" * 4000 + b"\r\nx\r\n") * 100,
        "1024 bytes about a chunk"),
    "an extension without end": (Reply(CHUNKED + b"1;" + b"e" * 131072, "wait"),
        "1024 bytes about a chunk"),
    "extensions, each short": (CHUNKED + (b"1;" + b"e" * 900 + b"\r\nx\r\n") * 100,
        "more about its chunks than in them"),
    "trailers": (CHUNKED + b"1\r\nx\r\n0\r\n" + b"a:\r\n" * 20_000 + b"\r\n",
        "1024 bytes about a chunk"),
    "100 Continue for ever": (Reply(b"HTTP/1.1 100\r\n\r\n" * 10_000, "endless"),
        "more than 32 informational"),
    "103 with many headers": (Reply((b"HTTP/1.1 103 x\r\n" + b"a:b\r\n" * 400 + b"\r\n") * 10,
        "endless"), "more than 500 header lines"),
    "a status that is none": (b"HTTP/1.1 2xx Odd\r\n\r\n",
        "not valid HTTP: illegal status line: 'HTTP/1.1 2xx Odd'"),
    "a status below 100": (b"HTTP/1.1 099 Odd\r\n\r\n", "not valid HTTP: the status is 99"),
    "a header without a colon": (OK + b"it's\r\n\r\n",
        "not valid HTTP: illegal header line: 'it's'"),
    "a header without end": (Reply(b"x" * 131072, "endless"), "not valid HTTP"),
    "headers without end": (Reply(OK + b"a: b\r\n" * 50_000, "wait"), "more than 102400 bytes"),
    "one endless line": (Reply(OK + b"a: " + b"b" * 1_000_000, "wait"), "more than 102400 bytes"),
    "20,000 header lines": (OK + b"a:\r\n" * 20_000 + b"Content-Length: 2\r\n\r\nok",
        "more than 500 header lines"),
    "spaces and a NUL in a header": (OK + b"a:" + b" " * 100_000 + b"\0\r\n\r\n",
        "256 spaces in a row"),
    "a length of 5,000 digits": (OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        "Content-Length"),
    "empty gzip members": (plain(EMPTY_MEMBER * 6000, b"Content-Encoding: gzip"), 0),
    "more empty gzip members": (OK + b"Content-Encoding: gzip\r\n\r\n" + EMPTY_MEMBER * 15_000,
        "more than 10000 members"),
    "empty blocks": (OK + b"Content-Encoding: gzip\r\n\r\n" + EMPTY_MEMBER[:10]
        + b"\0\0\0\xff\xff" * 200_000, "and little in them"),
    "members in a member": (plain(gzip.compress(EMPTY_MEMBER * 100_000),
        b"Content-Encoding: gzip, gzip"), "little in them|members"),
    "a bomb": (plain(gzip.compress(b"\0" * 30_000_000), b"Content-Encoding: gzip"),
        "maximum of 131072 bytes"),
    "a bomb in a bomb": (plain(gzip.compress(gzip.compress(b"\0" * 30_000_000)),
        b"Content-Encoding: gzip, gzip"), "maximum of 131072"),
    "a long Location": (b"HTTP/1.1 302 x\r\nLocation: /" + b"\xe9" * 90_000 + b"\r\n\r\n",
        "which is not a URL"),
    "a Location that grows": (b"HTTP/1.1 302 x\r\nLocation: /" + "é".encode() * 5000
        + b"\r\nContent-Length: 0\r\n\r\n", "more than 20 redirects"),
    "a Location of dots": (b"HTTP/1.1 302 x\r\nLocation: /" + b"a/../" * 6000
        + b"\r\nContent-Length: 0\r\n\r\n", "more than 20 redirects"),
    "a Location with many users": (b"HTTP/1.1 302 x\r\nLocation: //" + b"@" * 30_000
        + b"h/\r\n\r\n", "which is not a URL"),
    "no HTTP": (Reply(b"SSH-2.0-OpenSSH_9.2\r\n", "wait"), "begins with 'SSH-2.0-OpenSSH_9.2"),
    "another protocol": (Reply(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n", "wait"),
        "101"),
    "nothing": (Reply(b"", "close"), "without an answer"),
    "a reset": (Reply(b"", "reset"), "Connection reset by peer|without an answer"),
    "a head cut off": (Reply(OK + b"Content-", "close"), "cut off in its headers"),
    "a body cut off": (Reply(plain(b"x" * 1000)[:-1], "close"), "cut off"),
    "chunks cut off": (Reply(CHUNKED + b"5\r\nhello\r\n", "close"), "cut off"),
    "gzip cut off": (plain(gzip.compress(bytes(range(256)))[:100], b"Content-Encoding: gzip"),
        "gzip body was cut off"),
    "an unknown encoding": (plain(b"x", b"Content-Encoding: br"), "gzip and deflate can be read"),
}  # fmt: skip


@pytest.fixture(scope="module")
def big() -> dict[str, bytes]:
    """Bodies for apps whose operator allows megabytes."""
    size = 2 << 20
    return {
        "plain": plain(b"x" * size),
        "gzip": plain(gzip.compress(b"x" * size), b"Content-Encoding: gzip"),
        "utf-16": plain(b"\0\xd8" * (size // 2), b"Content-Type: text/plain; charset=utf-16"),
        "gb18030": plain(
            b"\x81\x30\x81\x30" * (size // 4), b"Content-Type: text/plain; charset=gb18030"
        ),
        "small chunks": CHUNKED + b"20\r\n%s\r\n" % (b"x" * 32) * (size // 32) + b"0\r\n\r\n",
    }


async def outcome(egress: Egress, url: str, **fields: Any) -> int | str:
    """The length of the body, or the reason."""
    try:
        body = (await get(egress, url, **fields)).body
    except EgressError as error:
        reason = str(error)
        assert is_clean(reason)
        assert 0 < len(reason) < 700
        return reason
    assert is_clean(body)
    return len(body)


@pytest.mark.parametrize("name", HOSTILE)
async def test_no_answer_holds_up_the_loop(name: str) -> None:
    """It ends with a body or a reason; no pass of the loop is long; nothing is left over; the next
    request is well.
    """
    reply, expected = HOSTILE[name]
    with no_socket_left():
        async with (
            raw_server(reply) as server,
            raw_server(plain(b"well")) as other,
            open_egress() as egress,
        ):
            async with lag() as measured:
                found = await outcome(egress, server.url)
            if isinstance(expected, int):
                assert found == expected
            else:
                assert any(part in str(found) for part in expected.split("|")), found
            assert measured.longest < step_bound()
            assert await outcome(egress, other.url) == 4
            assert is_idle(egress)
    assert is_idle(egress, kept=0)


@pytest.mark.parametrize("name", ["plain", "gzip", "utf-16", "gb18030", "small chunks"])
async def test_large_bodies_are_read_in_short_steps(name: str, big: dict[str, bytes]) -> None:
    """Of the size that the operator allows."""
    async with raw_server(big[name]) as server, open_egress() as egress:
        async with lag() as measured:
            assert (
                await outcome(egress, server.url, rules=policy("127.0.0.0/8", response_max=4 << 20))
                > 500_000
            )
        assert measured.longest < step_bound()


@pytest.mark.parametrize(
    "name", ["chunks of 32 bytes", "charset utf-16, halves of pairs", "empty gzip members"]
)
async def test_many_such_answers_at_once_leave_others_their_time(name: str) -> None:
    """Ten of one app: between two passes there is work on one of them, and another app's request is
    soon answered.
    """
    reply, _ = HOSTILE[name]
    async with (
        raw_server(reply) as server,
        raw_server(plain(b"x" * 131072)) as other,
        open_egress() as egress,
    ):
        await get(egress, other.url, app="neighbour")
        async with lag() as quiet:
            await get(egress, other.url, app="neighbour")
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(outcome, egress, server.url)
            while len(server.requests) < 10:
                await trio.lowlevel.checkpoint()
            async with lag() as measured:
                await get(egress, other.url, app="neighbour")
            assert len(nursery.child_tasks) > 4  # it did not wait for them
            assert measured.longest < step_bound()
            assert measured.passes < 50 * quiet.passes
        assert is_idle(egress)


async def test_each_app_has_its_turn() -> None:
    """Work that takes long: one heavy answer of a second app is not behind six of a first."""
    done: list[str] = []

    async def ask(app: str) -> None:
        await get(egress, server.url, app=app)
        done.append(app)

    async with raw_server(HOSTILE["chunks of 32 bytes"][0]) as server, open_egress() as egress:
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(ask, "first")
            while len(server.requests) < 6:
                await trio.lowlevel.checkpoint()
            nursery.start_soon(ask, "second")
        assert done.index("second") < 5


HELLO = bytes.fromhex("160303004a02000046030300")  # the beginning of a server's first message


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"HTTP/1.1 400 Bad Request\r\n\r\n", "close"), Reply(b"", "close"),
        Reply(b"", "reset"), Reply(HELLO, "close"),
        Reply(b"\x15\x03\x03\x00\x02\x02\x28", "wait"),
        Reply(b"\x16\x03\x03\xff\xff" + b"x" * 70_000, "endless"),
        Reply(b"\x16\x03\x03\x00\x00" * 20_000, "endless"),
        Reply(b"\x16\x03\x03\x00\x04\x00\x00\x00\x00" * 10_000, "endless"),
        Reply(b"\x17\x03\x03\x00\x01x" * 10_000, "endless"),
    ],
)  # fmt: skip
async def test_what_is_no_tls_is_a_reason(reply: Reply) -> None:
    """Also without end; and no pass of the loop is long."""

    async def serve(stream: trio.SocketStream) -> None:
        try:
            await stream.receive_some(65536)
            await _send(stream, reply)
            if reply.then == "wait":
                await trio.sleep_forever()
        except trio.BrokenResourceError:
            pass
        finally:
            stream.socket.close()

    with no_socket_left():
        async with trio.open_nursery() as nursery, open_egress() as egress:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, serve, listeners)
            url = f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
            for verify in (True, False):
                async with lag() as measured:
                    reason = await outcome(egress, url, verify=verify)
                assert "TLS failed" in str(reason) or "reset" in str(reason), reason
                assert "Error(" not in str(reason)
                assert measured.longest < step_bound()
            assert is_idle(egress, kept=0)
            nursery.cancel_scope.cancel()


@settings(max_examples=150)
@given(st.lists(st.sampled_from([b"HTTP/1.1 ", b"200 OK\r\n", b"100\r\n\r\n",
    b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Content-Encoding: gzip\r\n", b"\r\n", b"\n", b"3\r\nabc\r\n", b"0\r\n\r\n", b"\0", b" ", b":",
    b"\xff\xfe", gzip.compress(b"abc"),
    b"Content-Type: a; charset=utf-7\r\n", b"Location: //[\r\n",
    b"302 x\r\n"]) | st.binary(max_size=8), max_size=12), st.booleans())  # fmt: skip
def test_any_bytes_are_an_answer_or_a_failure(parts: list[bytes], begun: bool) -> None:
    """Whatever a server sends before it closes: text, or a reason, and nothing else."""

    async def main() -> None:
        data = (OK if begun else b"") + b"".join(parts)
        async with raw_server(Reply(data, "close")) as server, open_egress() as egress:
            await outcome(egress, server.url)
            assert is_idle(egress)

    trio.run(main)


async def test_a_slow_answer_is_bounded_by_whoever_asks() -> None:
    """Cut off in the middle of anything, nothing is left."""
    for data in (
        b"",
        b"HTTP/1.1 2",
        OK,
        OK + b"Content-Length: 9\r\n\r\n123",
        CHUNKED + b"5\r\nab",
    ):
        with no_socket_left():
            async with raw_server(Reply(data, "wait")) as server, open_egress() as egress:
                with trio.move_on_after(0.05) as scope:
                    await egress.fetch("app", httpx2.Request("GET", server.url), LOCAL, verify=True)
                assert scope.cancelled_caught
                assert is_idle(egress, kept=0)
