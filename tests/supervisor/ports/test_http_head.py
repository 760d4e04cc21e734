"""The parser of request heads: any bytes, in linear time."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.ports.http_head import Unacceptable, parse_head


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
