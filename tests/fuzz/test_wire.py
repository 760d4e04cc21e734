"""Lines from a sandbox: whatever its process writes is a frame or a `ProtocolViolation`, in a time
that follows from its length.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress

import hypothesis.strategies as st
from hypothesis import example, given

from supervisor.errors import ProtocolViolation
from supervisor.host.lines import LineReader
from supervisor.sandboxes.protocol import Request, encode_reply, parse, parse_named

from ..examples import examples
from ..lag import step_bound

LINE_MAX = 256 << 10  # bytes: limits.line
DEPTH_MAX = 64  # limits.json_depth

PIECES = st.sampled_from(
    [b"{", b"}", b"[", b"]", b'"', b"\\", b'\\"', b"\\u", b"\\ud83d", b"\\u0000", b":", b",", b" ",
        b"\t", b"\r", b"null",
     b"true", b"0", b"-", b"1e400", b"9" * 400, b"0." + b"1" * 400, b"1E-5000", b'"cmd":',
     b'"cmd_id":', b'"run":',
     b'"reply":', b'"js.done"', b'"heap":', b"\xf0\x9f\x98\x80", b"\xed\xa0\xbd", b"\xc0\x80",
     b"\xff", b"\0", b"a" * 300]
)  # fmt: skip
SOUP = st.lists(PIECES | st.binary(max_size=4), max_size=24).map(b"".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "cmd": st.sampled_from(["kv.get", "js.done", "js.error", "js.console", "js.turn",
            "js.ready", "js.no", ""]) | VALUES,
        "cmd_id": st.sampled_from(["1", "x" * 65]) | VALUES,
        "run": st.sampled_from(["r1", "r2"]) | VALUES,
        "reply": st.booleans() | st.none() | VALUES,
        **dict.fromkeys(("kind", "message", "stack", "level", "msg", "heap"), VALUES),
    },
)  # fmt: skip


@st.composite
def near_frames(draw: st.DrawFn) -> bytes:
    """What a harness could write, with a few bytes replaced."""
    line = json.dumps(draw(FIELDS)).encode()
    at, more, less = draw(
        st.tuples(st.integers(0, len(line)), PIECES | st.just(b""), st.integers(0, 4))
    )
    return line[:at] + more + line[at + less :]


@examples(300, 30_000)
@given(SOUP | near_frames())
@example(b"[" * 65 + b'"' + b'\\"' * 2000)
@example(b'{"cmd":"kv.get","cmd_id":"1","run":"r1","x":"\\ud83d"}')
def test_a_line_is_a_frame_or_a_violation(line: bytes) -> None:
    """Nothing else is raised, what is said of it can be logged, and what was asked can be answered,
    in one line.
    """
    try:
        named, frame = parse_named(line, DEPTH_MAX)
    except ProtocolViolation as violation:
        str(violation).encode()
        assert len(str(violation)) < 2000
        return
    if isinstance(frame, Request):
        answer = encode_reply("r1", frame, {"success": True, "seen": frame.fields})
        assert answer.count(b"\n") == 1
        assert json.loads(answer)["cmd_id"] == frame.id
    try:
        assert parse(line, "r1", DEPTH_MAX) == frame
    except ProtocolViolation as violation:
        assert named != "r1"
        str(violation).encode()


@examples(200, 20_000)
@given(
    st.binary(max_size=400) | SOUP.map(lambda data: data + b"\n" + data),
    st.lists(st.integers(1, 50), min_size=1),
    st.integers(1, 120),
)
def test_lines_are_cut_at_their_ends(data: bytes, sizes: list[int], line_max: int) -> None:
    """Whatever the pieces are that they come in; a line that is too long is a violation, and only
    that.
    """
    reader, lines, at, is_refused = LineReader(line_max), list[bytes](), 0, False
    while at < len(data) and not is_refused:
        size = sizes[at % len(sizes)]
        try:
            lines += reader.feed(data[at : at + size])
        except ProtocolViolation:
            is_refused = True
        at += size
    expected = data.split(b"\n")
    assert is_refused == (max(map(len, expected)) > line_max)
    if not is_refused:
        assert lines == expected[:-1]
        assert reader.has_rest == bool(expected[-1])


@examples(60, 3000)
@given(
    st.lists(PIECES | st.binary(min_size=1, max_size=4), max_size=6).map(b"".join),
    st.lists(PIECES, min_size=1, max_size=4).map(b"".join),
)
def test_a_line_costs_what_its_length_costs(beginning: bytes, repeated: bytes) -> None:
    """The longest line that may be, made of anything again and again."""
    line = (beginning + repeated * (LINE_MAX // len(repeated)))[:LINE_MAX]
    assert min(cost(line) for _ in range(3)) < step_bound()


def cost(line: bytes) -> float:
    """Seconds of CPU."""
    began = time.thread_time()
    with suppress(ProtocolViolation):
        parse_named(line, DEPTH_MAX)
    return time.thread_time() - began
