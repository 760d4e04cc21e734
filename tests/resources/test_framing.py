"""Where bodies end: lengths, chunks and what servers put about them; and heads."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.stores.egress.errors import EgressError
from resources.stores.egress.framing import framing_of
from resources.stores.egress.head import HEAD_MAX, Head, Length, _parse

from .raw_server import spread, step_bound


def read(length: int | Length, data: bytes, cuts: list[int] | None = None) -> tuple[bytes, bytes]:
    """The body and what is left, however the data comes."""
    framing, buffer, body = framing_of(length), bytearray(), b""
    for part in spread(data, cuts or []):
        buffer += part
        if not framing.done:
            body += b"".join(framing.feed(buffer))
    if not framing.done:
        framing.end()
    return body, bytes(buffer)


CHUNKED = b"5\r\nhello\r\n1;name=value\r\n \r\n0005 \t\r\nworld\r\n00\r\nX-Trailer: 1\r\nY: 2\r\n\r\nrest"


@given(st.lists(st.integers(0, len(CHUNKED)), max_size=8))
def test_chunks_are_read_however_they_come(cuts: list[int]) -> None:
    """Sizes, extensions, trailers; what follows is left."""
    assert read(Length.CHUNKED, CHUNKED, cuts) == (b"hello world", b"rest")


def test_chunks_are_read_byte_by_byte() -> None:
    """Every cut at once."""
    assert read(Length.CHUNKED, CHUNKED, list(range(len(CHUNKED)))) == (b"hello world", b"rest")


@given(st.lists(st.integers(1, 70_000), max_size=5), st.lists(st.integers(0, 200_000), max_size=5))
def test_chunks_of_any_size(sizes: list[int], cuts: list[int]) -> None:
    """Also larger than a piece, and cut anywhere."""
    data = b"".join(b"%x\r\n%s\r\n" % (size, b"x" * size) for size in sizes) + b"0\r\n\r\n"
    assert read(Length.CHUNKED, data, cuts) == (b"x" * sum(sizes), b"")


def test_a_body_cut_off_is_a_failure() -> None:
    """Wherever it is cut, with the reason."""
    for length in range(CHUNKED.index(b"rest")):
        with pytest.raises(EgressError, match="cut off"):
            read(Length.CHUNKED, CHUNKED[:length])
    for length in range(5):
        with pytest.raises(EgressError, match=f"cut off: {length} of 5 bytes came"):
            read(5, b"hello"[:length])
    assert read(5, b"hello!") == (b"hello", b"!")
    assert read(Length.UNTIL_CLOSE, b"hello") == (b"hello", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"x\r\n", b"\r\n", b"-1\r\nx", b"+1\r\nx\r\n", b"1_0\r\n", b"0x1\r\nx\r\n", b" 1\r\nx\r\n", b"1 x\r\n", b"1\nx\r\n", b"1\rx\r\n", b"1\r\nxx\r\n",
        b"1\r\nx\n0\r\n", b"1" * 17 + b"\r\n", b"\xd9\xa1\r\n", b"1;a\rb\r\nx\r\n", b"1;\nx\r\n", b"1\0\r\nx\r\n",
    ],
)  # fmt: skip
def test_what_is_no_chunk(data: bytes) -> None:
    """Refused, not guessed at: what one program takes for a chunk, another takes for a body."""
    with pytest.raises(EgressError, match="no valid HTTP"):
        read(Length.CHUNKED, data + b"\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"1;" + b"e" * 5000 + b"\r\nx\r\n", "4096 bytes or more about it"),
        (b"1;" + b"e" * 50_000, "4096 bytes or more about it"),
        ((b"1;" + b"e" * 3000 + b"\r\nx\r\n") * 20, "more about its chunks than in them"),
        (b"1\r\nx\r\n0\r\n" + b"a:\r\n" * 20_000, "16384 bytes after its body"),
        (b"1\r\nx\r\n0\r\nA: " + b"a" * 200_000, "16384 bytes after its body"),
    ],
)
def test_what_stands_about_chunks_has_a_bound(data: bytes, reason: str) -> None:
    """Extensions and trailers: no body is behind them."""
    with pytest.raises(EgressError, match=reason):
        read(Length.CHUNKED, data)


def test_many_small_chunks_are_read_in_small_steps() -> None:
    """Those of four bytes are allowed in any number, smaller ones in a bounded one; each step is short."""
    buffer, framing, longest = bytearray(b"4\r\nabcd\r\n" * 25_000 + b"0\r\n\r\n"), framing_of(Length.CHUNKED), 0.0
    last, body = time.thread_time(), 0
    for piece in framing.feed(buffer):
        now = time.thread_time()
        longest, last, body = max(longest, now - last), now, body + len(piece)
    assert (body, framing.done) == (100_000, True)
    assert longest < step_bound()
    assert read(Length.CHUNKED, b"1\r\nx\r\n" * 16_000 + b"0\r\n\r\n") == (b"x" * 16_000, b"")
    with pytest.raises(EgressError, match="more than 16384 chunks of a few bytes"):
        read(Length.CHUNKED, b"1\r\nx\r\n" * 17_000 + b"0\r\n\r\n")


def parsed(head: bytes) -> Head:
    return _parse(head.replace(b"\n", b"\r\n"))


def test_heads_of_real_servers() -> None:
    """No reason, bytes that are not ASCII, line ends of LF alone, folded lines, empty values, spaces round them."""
    head = parsed(b"HTTP/1.0 200\nA:1\nb:  two \t\nC:\nD: one\n  two\n\tthree\nE: Zo\xeb\n\n")
    assert (head.version, head.status) == (b"1.0", 200)
    assert head.headers == [(b"a", b"1"), (b"b", b"two"), (b"c", b""), (b"d", b"one two three"), (b"e", b"Zo\xeb")]
    assert _parse(b"HTTP/1.1 404 Not \xff Found\nA: 1\n\n").headers == [(b"a", b"1")]


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1\n\n", b"HTTP/1.1 20\n\n", b"HTTP/1.1 2000\n\n", b"HTTP/1.1 099 x\n\n", b"HTTP/1.1 200x\n\n", b"HTTP/11 200\n\n", b"HTTP/1.1  200\n\n",
        b"HTTP/1.1 200\nX : 1\n\n", b"HTTP/1.1 200\n: 1\n\n", b"HTTP/1.1 200\nX\n\n", b"HTTP/1.1 200\n X: 1\n\n", b"HTTP/1.1 200\nX: a\0b\n\n",
        b"HTTP/1.1 200\nX: a\rb\n\n", b"HTTP/1.1 200\n\xffX: 1\n\n", b"HTTP/1.1 \xd9\xa2\xd9\xa0\xd9\xa0 x\n\n",
    ],
)  # fmt: skip
def test_what_is_no_head(head: bytes) -> None:
    """Refused, in words."""
    with pytest.raises(EgressError, match="no valid HTTP"):
        parsed(head)


@pytest.mark.parametrize(
    ("headers", "method", "length"),
    [
        ([], "GET", Length.UNTIL_CLOSE),
        ([("content-length", "5")], "GET", 5),
        ([("content-length", "5")], "HEAD", 0),
        ([("content-length", "5"), ("content-length", "5")], "GET", 5),
        ([("content-length", "5, 5")], "GET", 5),
        ([("transfer-encoding", "Chunked")], "GET", Length.CHUNKED),
        ([("transfer-encoding", "identity"), ("content-length", "5")], "GET", 5),
        ([("transfer-encoding", "chunked"), ("content-length", "5")], "GET", Length.CHUNKED),
        ([("content-length", "")], "GET", Length.UNTIL_CLOSE),
    ],
)
def test_lengths(headers: list[tuple[str, str]], method: str, length: int | Length) -> None:
    """As the standard has it; chunks win over a number, and then the connection is not kept."""
    head = Head(b"1.1", 200, [(name.encode(), value.encode()) for name, value in headers])
    assert head.length(method) == length
    assert head.keeps_alive() is not ({name for name, _ in headers} >= {"transfer-encoding", "content-length"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("content-length", "5, 6"), ("content-length", "-1"), ("content-length", "+5"), ("content-length", "5_0"), ("content-length", "0x5"),
        ("content-length", "9" * 5000), ("content-length", "\u0665"), ("content-length", "5 5"), ("transfer-encoding", "gzip, chunked"),
        ("transfer-encoding", "chunked, chunked"), ("transfer-encoding", "x" * 50_000),
    ],
)  # fmt: skip
def test_what_is_no_length(name: str, value: str) -> None:
    """Refused, in words, of a sensible length."""
    with pytest.raises(EgressError, match="no valid HTTP") as raised:
        Head(b"1.1", 200, [(name.encode(), value.encode())]).length("GET")
    assert len(str(raised.value)) < 400


HOSTILE_LINES = [
    b"a:" + b" " * 100_000 + b"\0", b"a:" + b"\t " * 50_000 + b"\0", b"a:b" + b" " * 100_000 + b"\0", b"a:" + b"b " * 50_000 + b"\0", b"a" * 100_000 + b"\0",
    b"a:b" + b"\n c" * 450, b"a:" + b" " * 100_000, b"connection:" + b"," * 100_000, b"content-encoding:" + b" ," * 50_000,
    b"content-length:" + b"5," * 50_000, b"transfer-encoding:" + b"chunked," * 12_000, b"\n".join([b"a:"] * 450),
]  # fmt: skip


@pytest.mark.parametrize("line", HOSTILE_LINES, ids=lambda line: repr(line[:20]))
def test_no_head_takes_long(line: bytes) -> None:
    """Of the largest size there is, with everything that is asked of it."""
    began = time.thread_time()
    try:
        head = parsed(b"HTTP/1.1 200 OK\n" + line[:HEAD_MAX] + b"\n\n")
        head.keeps_alive()
        head.items(b"content-encoding")
        head.length("GET")
    except EgressError:
        pass
    assert time.thread_time() - began < step_bound()
