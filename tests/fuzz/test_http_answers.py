"""Web servers that answer anything: an app gets text or a reason, no pass of the loop is long, and
nothing is left over.
"""

from __future__ import annotations

import gzip
import zlib

import hypothesis.strategies as st
import trio
from hypothesis import example, given

from resources.stores.egress import EgressError, open_egress
from resources.text import is_clean

from ..examples import examples
from ..lag import lag, step_bound
from ..resources.raw_server import Reply, get, is_idle, plain, raw_server

ODD = st.sampled_from(
    [b"", b"\0", b"\xff", b"\xc3\xa9", b" " * 300, b"\t", b"\r", b"\n", b"-1", b"+5", b"0x5",
        b"5, 5", b"9" * 400, b"a" * 9000, b'"', b";"]
) | st.binary(max_size=8)  # fmt: skip
CHARSETS = st.sampled_from(
    [b"utf-8", b"latin-1", b"utf-16", b"utf-7", b"punycode", b"idna", b"unicode_escape", b"gb18030",
        b"zlib", b"rot13", b"\xff", b"x" * 900]
) | ODD  # fmt: skip
HEADERS = st.one_of(
    st.tuples(st.just(b"Content-Type: text/plain; charset="), CHARSETS).map(b"".join),
    st.tuples(st.just(b"Content-Length: "),
        st.sampled_from([b"0", b"3", b"131072", b"131073"]) | ODD).map(b"".join),
    st.tuples(st.just(b"Transfer-Encoding: "),
        st.sampled_from([b"chunked", b"chunked, chunked", b"gzip, chunked"]) | ODD).map(b"".join),
    st.tuples(st.just(b"Content-Encoding: "),
        st.sampled_from([b"gzip", b"deflate", b"gzip, gzip", b"br",
        b"identity"]) | ODD).map(b"".join),
    st.tuples(st.just(b"Location: "),
        st.sampled_from([b"/", b"//[", b"http://[::1", b"http://127.0.0.1:1/",
        b"file:///etc/passwd"]) | ODD).map(b"".join),
    st.sampled_from([b"Connection: close", b"Connection: keep-alive", b"a: b", b"a:", b":",
        b" folded"]),
    ODD,
)  # fmt: skip
BODIES = st.one_of(
    st.binary(max_size=300),
    st.tuples(st.binary(min_size=1, max_size=6),
        st.integers(1, 20_000)).map(lambda parts: (parts[0] * parts[1])[:140_000]),
    st.binary(max_size=300).map(gzip.compress),
    st.integers(1, 400_000).map(lambda size: gzip.compress(bytes(size))),
    st.integers(1, 400_000).map(lambda size: zlib.compress(bytes(size))),
    st.integers(1, 3000).map(lambda count: gzip.compress(b"") * count),
)  # fmt: skip
STATUS = (
    st.sampled_from(
        [
            b"200 OK",
            b"200",
            b"100 x",
            b"101 x",
            b"204 x",
            b"302 x",
            b"304 x",
            b"999 x",
            b"20",
            b"-1 x",
        ]
    )
    | ODD
)
VERSION = (
    st.sampled_from([b"HTTP/1.1 ", b"HTTP/1.1 ", b"HTTP/1.1 ", b"HTTP/1.0 ", b"HTTP/2 ", b"ICY "])
    | ODD
)


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    """A body in pieces, with sizes that may be wrong."""
    data = bytearray()
    for body in draw(st.lists(BODIES, max_size=4)):
        size = draw(st.just(b"%x" % len(body)) | ODD)
        data += (
            size
            + draw(st.sampled_from([b"\r\n", b"\r\n", b";x=y\r\n", b"\n"]))
            + body
            + draw(st.sampled_from([b"\r\n", b"\r\n", b""]))
        )
    return bytes(data) + draw(st.sampled_from([b"0\r\n\r\n", b"0\r\na: b\r\n\r\n", b"0\r\n", b""]))


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """One or more answers that are nearly right."""
    data = bytearray()
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 5]))):
        lines = [draw(VERSION) + draw(STATUS), *draw(st.lists(HEADERS, max_size=5))]
        data += b"\r\n".join(lines) + draw(
            st.sampled_from([b"\r\n\r\n", b"\r\n\r\n", b"\n\n", b"\r\n"])
        )
        data += draw(BODIES | chunks())
    return bytes(data)


@examples(60, 6000)
@given(answers(), st.sampled_from(["close", "close", "keep", "reset"]))
@example(plain(b"9" * 131_072, b"Content-Type: text/plain; charset=punycode"), "keep")
@example(b"HTTP/1.1 100\r\n\r\n" * 5000, "close")
@example(
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 131_072, "close"
)
def test_any_answer(data: bytes, then: str) -> None:
    """The same connection may be kept or not; the next request, to another server, is well."""

    async def main() -> None:
        async with (
            raw_server(Reply(data, then)) as server,
            raw_server(plain(b"well")) as other,
            open_egress() as egress,
        ):
            async with lag(clean=False) as measured:
                # a server that keeps the connection may leave us waiting
                with trio.move_on_after(0.5):
                    try:
                        assert is_clean((await get(egress, server.url)).body)
                    except EgressError as error:
                        assert is_clean(str(error))
                        assert 0 < len(str(error)) < 1000
            assert (await get(egress, other.url)).body == "well"
            assert is_idle(egress)
            assert measured.longest < step_bound()

    trio.run(main)
