"""The wire protocol of a sandbox, without I/O: bytes in, typed frames out, every size bounded.

One JSON object per line, UTF-8. Every line from the sandbox names the run it belongs to. A line
that does not, or is too long or too deep, is a `ProtocolViolation`: the harness never writes one,
so whoever did controls the process. The time that a line takes is proportional to its length.
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from attrs import frozen

from resources.text import is_deeper

from ..errors import ProtocolViolation

NAME_MAX = 200  # characters of a command's name; a longer one, of no command, is cut off
ID_MAX = 64  # characters of a cmd_id
# characters of an error's message and of its stack; the harness sends at most 8,000
ERROR_MAX = 16 << 10
EXCERPT_MAX = 120  # bytes of a malformed line, and characters of a value in it, that we show
LARGE = 32 << 10  # bytes of a line that may have enough objects to keep the garbage collector busy
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


@frozen
class Ready:
    """The harness has started and knows the app."""


@frozen
class Request:
    """A command of the app.

    Attributes:
        fields: What came with it, without the envelope.
        is_told: Whether the harness has replied already.
    """

    name: str
    id: str
    fields: dict[str, Any]
    is_told: bool = False


@frozen
class ConsoleLine:
    """The app called console.log or the like."""

    level: int
    text: str


@frozen
class Failed:
    """The app threw ("throw"), rejected ("rejection") or could not be loaded ("load")."""

    kind: str
    text: str


@frozen
class Done:
    """The run is over; `heap`: bytes in V8's heap, garbage included (0: not measured);
    `must_retire`: the harness cannot undo what runs left behind, so the process takes no more.
    """

    heap: int = 0
    must_retire: bool = False


@frozen
class ActiveRun:
    """The process works for this run from now on; sent if there may be several."""


Frame = Ready | Request | ConsoleLine | Failed | Done | ActiveRun


def _float(text: str) -> float:
    # Python's conversion: msgspec's own takes ten times as long for numbers that are hard to round.
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number out of range")
    return number


_decode_line = msgspec.json.Decoder(float_hook=_float).decode


def _decode(line: bytes) -> Any:
    if len(line) < LARGE or not gc.isenabled():
        return _decode_line(line)
    # A hundred thousand small objects would make the collector look at everything again and again.
    gc.disable()
    try:
        return _decode_line(line)
    finally:
        gc.enable()


def parse(line: bytes, run: str | None, depth_max: int) -> Frame:
    """Parse a line from the sandbox that is handling `run` (None while it boots).

    Raises:
        ProtocolViolation: It is not a frame of that run.
    """
    named, frame = parse_named(line, depth_max)
    if named != run:
        raise wrong_run(line, named, run)
    return frame


def wrong_run(line: bytes, named: Any, *runs: str | None) -> ProtocolViolation:
    """The error for a line that names a run that is not in progress."""
    known = " or ".join(map(repr, runs)) or "none"
    return ProtocolViolation(
        f"a line of run {_shown(named)} where run {known} is in progress: {_excerpt(line)}"
    )


def parse_named(line: bytes, depth_max: int) -> tuple[Any, Frame]:
    """Parse a line from a sandbox to the run that it names and its frame.

    Raises:
        ProtocolViolation: It is not a frame.
    """
    if is_deeper(line, depth_max):
        raise ProtocolViolation(
            f"limits.json_depth = {depth_max}, measured a command that is nested deeper"
        )
    try:
        frame = _decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError, MemoryError) as error:
        why = str(error)[:EXCERPT_MAX]
        raise ProtocolViolation(f"a line that is not JSON ({why}): {_excerpt(line)}") from None
    if not isinstance(frame, dict):
        raise ProtocolViolation(
            f"a line that is no command but {type(frame).__name__}: {_excerpt(line)}"
        )
    name, cmd_id = frame.pop("cmd", None), frame.pop("cmd_id", None)
    if not isinstance(name, str) or not isinstance(cmd_id, str) or len(cmd_id) > ID_MAX:
        raise ProtocolViolation(f"a line without proper cmd and cmd_id: {_excerpt(line)}")
    reply = frame.pop("reply", True)
    if reply is not False and reply is not None:
        raise ProtocolViolation(f"a line that calls itself a reply: {_excerpt(line)}")
    named = frame.pop("run", None)
    if name.startswith("js."):
        return named, _harness_frame(name, frame)
    if len(name) > NAME_MAX:
        name = f"{name[:NAME_MAX]}..."
    return named, Request(name, cmd_id, frame, reply is None)


def _harness_frame(name: str, fields: dict[str, Any]) -> Frame:
    match name:
        case "js.ready":
            return Ready()
        case "js.done":
            heap = fields.get("heap")
            known = heap if type(heap) is int and heap > 0 else 0
            return Done(known, must_retire=bool(fields.get("retire")))
        case "js.turn":
            return ActiveRun()
        case "js.error":
            message, stack = (_text(fields, key)[:ERROR_MAX] for key in ("message", "stack"))
            # V8's stack begins with the message; a stack that an app made up need not.
            text = stack if message and message in stack else f"{message}\n{stack}".strip()
            return Failed(_text(fields, "kind")[:NAME_MAX], text)
        case "js.console":
            level = LEVELS.get(_text(fields, "level"), logging.INFO)
            return ConsoleLine(level, _text(fields, "msg"))
    raise ProtocolViolation(f"a line that the harness does not have: {name[:80]}")


def _text(fields: dict[str, Any], key: str) -> str:
    """A field that the harness sends as text."""
    value = fields.get(key, "")
    return value if isinstance(value, str) else _shown(value)


def _shown(value: Any) -> str:
    """A value for an error message: itself if it is short, else its beginning or its type."""
    if isinstance(value, str):
        return repr(value[:EXCERPT_MAX]) + ("..." if len(value) > EXCERPT_MAX else "")
    if value is None or isinstance(value, bool | float):
        return str(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() <= EXCERPT_MAX else "int"
    return type(value).__name__


def _excerpt(line: bytes) -> str:
    text = line[:EXCERPT_MAX].decode("utf-8", errors="replace")
    return repr(text) + ("..." if len(line) > EXCERPT_MAX else "")


_encode = msgspec.json.Encoder().encode


def encode_initialize(fields: dict[str, Any]) -> bytes:
    """The first line to a sandbox: the app and what it may have."""
    envelope = {"reply": False, "cmd": "initialize", "cmd_id": "0", "run": None}
    return _encode(envelope | fields) + b"\n"


def encode_prepare(modules: Sequence[str]) -> bytes:
    """The first line to a spare process: what to load before there is an app."""
    envelope = {"reply": False, "cmd": "prepare", "cmd_id": "0", "run": None}
    return _encode(envelope | {"modules": modules}) + b"\n"


def encode_config(values: Mapping[str, str], burst: int) -> bytes:
    """The app's config, and how many commands of a run the harness may answer by itself, if only
    one answer is possible.
    """
    fields = {"cmd": "config", "cmd_id": "0", "run": None, "values": values, "burst": burst}
    return _encode({"reply": False} | fields) + b"\n"


def encode_delivery(run: str, kind: str, payload: dict[str, Any]) -> bytes:
    """The line that begins a run: `inbound-message`, `inbound-event`, or `inbound-probe`, for which
    the app is loaded and given nothing.
    """
    envelope = {"reply": False, "cmd": f"inbound-{kind}", "cmd_id": run, "run": run}
    return _encode(envelope | {"msg": payload}) + b"\n"


def encode_foreseen(key: str, value: Any) -> bytes:
    """The line before a message, if it is known what the app will read first. `foreseen` comes
    first: the harness hands the line on without parsing it.
    """
    return _encode({"foreseen": True, "key": key, "value": value}) + b"\n"


def encode_reply(run: str, request: Request, answer: dict[str, Any]) -> bytes:
    """The reply to a command. `reply` comes first: the harness knows a reply by it without
    parsing the line.
    """
    envelope = {"reply": True, "cmd": request.name, "cmd_id": request.id, "run": run}
    return _encode(envelope | answer) + b"\n"
