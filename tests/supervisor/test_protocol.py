"""The wire protocol: every chunking, every size, every malformed line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import ProtocolViolation
from supervisor.protocol import (
    ConsoleLine,
    Done,
    Failed,
    LineReader,
    Ready,
    Request,
    encode_delivery,
    encode_reply,
    parse,
)

COMMAND = b'{"cmd":"kv.get","cmd_id":"1","reply":false,"run":"r1","key":"a"}'


@given(st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line)), st.data())
def test_lines_come_out_whatever_the_chunks(lines: list[bytes], data: st.DataObject) -> None:
    """However the bytes are cut, the same lines come out."""
    stream = b"".join(line + b"\n" for line in lines)
    reader, found, at = LineReader(40), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, 50))
        found += reader.feed(stream[at : at + size])
        at += size
    assert found == lines


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_a_line_may_be_as_long_as_the_limit_and_no_longer(chunk: int) -> None:
    """The limit holds for whole lines and for lines that never end, byte by byte or at once."""
    reader = LineReader(10)
    assert reader.feed(b"x" * 10 + b"\n") == [b"x" * 10]
    with pytest.raises(ProtocolViolation, match=r"limits.line = 10 bytes"):
        for start in range(0, 1000, chunk):
            reader.feed(b"y" * min(chunk, 1000 - start))


def test_many_lines_in_one_chunk_may_be_more_than_one_line_is_allowed() -> None:
    """The limit is a line's, not the buffer's."""
    assert LineReader(10).feed(b"1234567\n" * 100) == [b"1234567"] * 100


def test_a_command_is_parsed() -> None:
    """The envelope is taken off; what is left are the command's fields."""
    assert parse(COMMAND, "r1", 64) == Request("kv.get", "1", {"key": "a"})


def test_the_harness_has_frames_of_its_own() -> None:
    """js.* lines are what the harness says of itself."""

    def line(**fields: object) -> bytes:
        return json.dumps({"cmd_id": "h", "reply": False, "run": "r1"} | fields).encode()

    assert parse(line(cmd="js.done"), "r1", 64) == Done()
    assert parse(line(cmd="js.ready", run=None), None, 64) == Ready()
    assert parse(line(cmd="js.console", level="warning", msg="m"), "r1", 64) == ConsoleLine(30, "m")
    stack = "Error: x\n    at app.js:1:2"
    assert parse(line(cmd="js.error", kind="throw", message="Error: x", stack=stack), "r1", 64) == Failed(
        "throw", stack
    )
    assert parse(line(cmd="js.error", kind="throw", message="made up", stack="lies"), "r1", 64) == Failed(
        "throw", "made up\nlies"
    )


@pytest.mark.parametrize(
    "line",
    [
        b"", b"   ", b"hello", b"[]", b"null", b"5", b'"text"', b"{}", b'{"cmd":"kv.get"}', b"\xff\xfe",
        b'{"cmd":5,"cmd_id":"1","reply":false,"run":"r1"}',
        b'{"cmd":["kv.get"],"cmd_id":"1","reply":false,"run":"r1"}',
        b'{"cmd":"kv.get","cmd_id":1,"reply":false,"run":"r1"}',
        b'{"cmd":"kv.get","cmd_id":null,"reply":false,"run":"r1"}',
        b'{"cmd":"kv.get","cmd_id":"1","reply":true,"run":"r1"}',
        b'{"cmd":"kv.get","cmd_id":"1","reply":0,"run":"r1"}',
        b'{"cmd":"kv.get","cmd_id":"1","run":"r1"}',
        b'{"cmd":"kv.get","cmd_id":"1","reply":false,"run":"r0"}',
        b'{"cmd":"kv.get","cmd_id":"1","reply":false,"run":null}',
        b'{"cmd":"kv.get","cmd_id":"1","reply":false}',
        b'{"cmd":"js.evil","cmd_id":"1","reply":false,"run":"r1"}',
        b'{"cmd":"kv.get","cmd_id":"1","reply":false,"run":"r1","x":NaN}',
        b'{"cmd":"kv.get","cmd_id":"1","reply":false,"run":"r1","x":1e999}',
        b'{"cmd":"kv.get","cmd_id":"1","reply":false,"run":"r1","x":"\\ud800"}',
        COMMAND + b"{}", COMMAND[:-1], b'{"cmd":"' + b"k" * 300 + b'","cmd_id":"1","reply":false,"run":"r1"}',
        b'{"cmd":"kv.get","cmd_id":"' + b"1" * 100 + b'","reply":false,"run":"r1"}',
    ],
)  # fmt: skip
def test_what_is_no_command_of_this_run_is_a_violation(line: bytes) -> None:
    """One policy for every malformed line."""
    with pytest.raises(ProtocolViolation):
        parse(line, "r1", 64)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(line: bytes) -> None:
    """Whatever comes is a frame or a violation."""
    try:
        parse(line, "r1", 64)
    except ProtocolViolation:
        pass


def _nested(depth: int) -> bytes:
    """A command whose deepest value is `depth` levels down; the command itself is the first."""
    return COMMAND[:-1] + b',"x":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_depth_counts_brackets_outside_strings() -> None:
    """A command may be nested as deep as the limit; brackets in its strings do not count."""
    assert isinstance(parse(_nested(64), "r1", 64), Request)
    with pytest.raises(ProtocolViolation, match="json_depth = 64"):
        parse(_nested(65), "r1", 64)
    with pytest.raises(ProtocolViolation, match="json_depth"):
        parse(_nested(100_000), "r1", 64)
    text = json.dumps(
        {"cmd": "a.b", "cmd_id": "1", "reply": False, "run": "r1", "x": '["\\' * 500, "y": [{}] * 100}
    ).encode()
    assert isinstance(parse(text, "r1", 3), Request)


def test_replies_begin_with_the_mark_that_the_harness_sorts_by() -> None:
    """The harness tells replies from messages by the first bytes of the line."""
    reply = encode_reply("r1", Request("kv.get", "7", {}), {"success": True, "value": None})
    assert reply.startswith(b'{"reply":true,')
    assert json.loads(reply) == {
        "reply": True,
        "cmd": "kv.get",
        "cmd_id": "7",
        "run": "r1",
        "success": True,
        "value": None,
    }
    delivery = encode_delivery("r1", "message", {"content": "é"})
    assert delivery.startswith(b'{"reply":false,')
    assert delivery.endswith(b"\n")
    assert delivery.count(b"\n") == 1
