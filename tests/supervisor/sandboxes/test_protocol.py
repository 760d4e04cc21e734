"""The wire protocol: every chunking, every size, every malformed line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import ProtocolViolation
from supervisor.host.lines import LineReader
from supervisor.sandboxes.protocol import (
    ConsoleLine,
    Done,
    Failed,
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
    assert parse(
        line(cmd="js.error", kind="throw", message="Error: x", stack=stack), "r1", 64
    ) == Failed("throw", stack)
    assert parse(
        line(cmd="js.error", kind="throw", message="made up", stack="lies"), "r1", 64
    ) == Failed("throw", "made up\nlies")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"   ",
        b"hello",
        b"[]",
        b"null",
        b"5",
        b'"text"',
        b"{}",
        b'{"cmd":"kv.get"}',
        b"\xff\xfe",
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
        COMMAND + b"{}",
        COMMAND[:-1],
        b'{"cmd":"kv.get","cmd_id":"' + b"1" * 100 + b'","reply":false,"run":"r1"}',
    ],
)
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
        {
            "cmd": "a.b",
            "cmd_id": "1",
            "reply": False,
            "run": "r1",
            "x": '["\\' * 500,
            "y": [{}] * 100,
        }
    ).encode()
    assert isinstance(parse(text, "r1", 3), Request)


_JSON = st.recursive(
    st.text('[]{}"\\\\x', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text('{"\\\\', max_size=3), inner, max_size=3)
    ),
    max_leaves=30,
)


def _depth(value: object) -> int:
    if isinstance(value, dict | list):
        return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)
    return 0


@given(_JSON)
def test_the_depth_is_that_of_the_json_whatever_its_strings_look_like(value: object) -> None:
    """Quotes, backslashes and brackets within strings do not count; each level outside does."""
    frame = {"cmd": "a.b", "cmd_id": "1", "reply": False, "run": "r1", "x": value}
    line, depth = json.dumps(frame).encode(), 1 + _depth(value)
    assert isinstance(parse(line, "r1", depth), Request)
    if depth > 1:
        with pytest.raises(ProtocolViolation, match="json_depth"):
            parse(line, "r1", depth - 1)


@pytest.mark.parametrize("length", [201, 5000, 250_000])
def test_a_command_may_have_a_name_of_any_length(length: int) -> None:
    """Nothing answers it; its beginning is all that is kept."""
    line = json.dumps({"cmd": "k" * length, "cmd_id": "1", "reply": False, "run": "r1"}).encode()
    assert parse(line, "r1", 64) == Request("k" * 200 + "...", "1", {})


@pytest.mark.parametrize(
    "value",
    ["[" + "[]," * 50_000 + "1]", "9" * 4000, '"' + "\\u00e9" * 40_000 + '"', "1.5", "true"],
)
@pytest.mark.parametrize("name", ["message", "stack", "kind", "msg", "level", "run", "heap"])
def test_what_the_harness_would_not_send_is_not_shown_at_length(name: str, value: str) -> None:
    """Values of other types in lines of the harness's, and names of runs, are cut or named by their
    type.
    """
    for command in ("js.error", "js.console", "js.done", "a.b"):
        run = "" if name == "run" else ',"run":"r1"'
        line = f'{{"cmd":"{command}","cmd_id":"1","reply":false{run},"{name}":{value}}}'.encode()
        try:
            frame = parse(line, "r1", 64)
        except ProtocolViolation as violation:
            assert len(violation.detail) < 1000
        else:
            texts = [frame.kind, frame.text] if isinstance(frame, Failed) else []
            texts += [frame.text] if isinstance(frame, ConsoleLine) and name != "msg" else []
            assert all(len(text) < 17_000 for text in texts)


LINE = 256 << 10


def _command(
    value: Callable[[int], str], name: str = "x", command: str = "a.b"
) -> Callable[[int], bytes]:
    """A command of `size` bytes, filled up by its value."""

    def make(size: int) -> bytes:
        head = f'{{"cmd":"{command}","cmd_id":"1","reply":false,"run":"r1","{name}":'
        return f"{head}{value(size - len(head) - 1)}}}".encode()

    return make


def _list(of: str) -> Callable[[int], str]:
    return lambda size: "[" + ",".join([of] * ((size - 2) // (len(of) + 1))) + "]"


ORDINARY = _command(
    lambda size: "[" + ",".join(f'{{"name":"u{n}","n":{n}}}' for n in range(size // 26)) + "]"
)
HOSTILE = {
    "digits": _command(lambda size: "9" * size),
    "a long fraction": _command(lambda size: "0." + "9" * (size - 2)),
    "an exponent of digits": _command(lambda size: "1e" + "9" * (size - 2)),
    "an exponent of zeros": _command(lambda size: "1e" + "0" * (size - 3) + "1"),
    "digits, as many places up": _command(lambda size: "1" * (size - 9) + f"e-{size - 9}"),
    "between two doubles": _command(lambda size: "0.5" + "0" * (size - 4) + "1"),
    "integers of 4,299 digits": _command(_list("9" * 4299)),
    "integers of 20 digits": _command(_list("9" * 20)),
    "numbers that are hard to round": _command(_list("2.2250738585072011e-308")),
    "one name": _command(lambda size: "{" + ",".join(['"a":1'] * (size // 6 - 1)) + "}"),
    "many names": _command(
        lambda size: "{" + ",".join(f'"{n:x}":1' for n in range(size // 11)) + "}"
    ),
    "many fields": _command(lambda size: "1," + ",".join(f'"{n:x}":1' for n in range(size // 11))),
    "lists": _command(_list("[]")),
    "objects": _command(_list("{}")),
    "lists 60 deep": _command(_list("[" * 60 + "]" * 60)),
    "brackets that open": _command(lambda size: "[" * size),
    "brackets that close": _command(lambda size: "]" * size),
    "brackets in a string": _command(lambda size: '"' + "[" * (size - 2) + '"'),
    "strings of brackets": _command(_list('"["')),
    "a string that does not end": _command(lambda size: '["' * 65 + '\\"' * (size // 2 - 65)),
    "escapes": _command(lambda size: '"' + "\\n" * (size // 2 - 1) + '"'),
    "surrogates": _command(lambda size: '"' + "\\ud83d\\ude00" * (size // 12 - 1) + '"'),
    "half surrogates": _command(lambda size: '"' + "\\ud83d" * (size // 6 - 1) + '"'),
    "spaces": _command(lambda size: " " * (size - 1) + "1"),
    "a message of lists": _command(_list("[]"), "message", "js.error"),
    "a console line of lists": _command(_list("[]"), "msg", "js.console"),
    "a console line of numbers": _command(_list("9" * 4299), "msg", "js.console"),
    "a level of lists": _command(_list("[]"), "level", "js.console"),
    "another run": lambda size: (
        b'{"run":[' + b"{}," * ((size - 60) // 3) + b'1],"cmd":"a.b","cmd_id":"1","reply":false}'
    ),
    "a message nearly in its stack": lambda size: json.dumps(
        {
            "cmd": "js.error",
            "cmd_id": "1",
            "reply": False,
            "run": "r1",
            "kind": "throw",
            "message": "a" * (size // 3) + "b",
            "stack": "a" * (size // 3 * 2 - 120),
        }
    ).encode(),
}


def _cost(line: bytes) -> float:
    """Seconds of CPU that a line takes, the best of three."""
    best = 1e9
    for _ in range(3):
        began = time.process_time()
        try:
            parse(line, "r1", 64)
        except ProtocolViolation:
            pass
        best = min(best, time.process_time() - began)
    return best


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_line_takes_much_longer_than_an_ordinary_one_of_its_length(kind: str) -> None:
    """A quadratic step in any of these would take a thousand times as long, and keep everybody
    waiting.
    """
    line = HOSTILE[kind](LINE)
    assert LINE * 0.75 < len(line) <= LINE
    ordinary = _cost(ORDINARY(LINE))
    assert _cost(line) < ordinary * 30


def test_a_million_short_lines_cost_what_their_bytes_cost() -> None:
    """Whatever the reads: newlines alone, the shortest commands, or a byte at a time."""

    def cost(data: bytes, size: int) -> float:
        reader, began = LineReader(LINE), time.process_time()
        for start in range(0, len(data), size):
            reader.feed(data[start : start + size])
        return time.process_time() - began

    ordinary = cost((b"x" * 63 + b"\n") * (16 << 10), 64 << 10)
    assert cost(b"\n" * (1 << 20), 64 << 10) < ordinary * 100  # 64 times the lines
    assert cost(b"\n" * (16 << 10) + b"x" * LINE, 1) < ordinary * 1000  # 17,000 times the reads


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
