"""The wire protocol of a sandbox without I/O: bytes in, typed frames out, every size bounded.

One JSON object a line, UTF-8. Every line from the sandbox names the run it belongs to. What is not such a line, or is too long
or too deep, is a `ProtocolViolation`: the harness never writes one, so whoever did has the process in hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from attrs import define, field, frozen

from resources.text import is_deeper

from .errors import ProtocolViolation

NAME_MAX = 200  # characters of a command's name
ID_MAX = 64  # characters of a cmd_id
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


@frozen
class Ready:
    """The harness has started and knows the app."""


@frozen
class Request:
    """A command of the app's; `fields` has all that came with it but the envelope. `is_told`: the app has its reply already."""

    name: str
    id: str
    fields: dict[str, Any]
    is_told: bool = False


@frozen
class ConsoleLine:
    """The app called console.log or one of its kind."""

    level: int
    text: str


@frozen
class Failed:
    """The app threw ("throw"), rejected ("rejection") or could not be loaded ("load")."""

    kind: str
    text: str


@frozen
class Done:
    """The run is over; `heap`: bytes in V8's heap, garbage included (0: not measured)."""

    heap: int = 0


@frozen
class Turn:
    """What the process does from now on belongs to this run; said where there may be several."""


Frame = Ready | Request | ConsoleLine | Failed | Done | Turn


@define
class LineReader:
    """Splits a byte stream into lines; holds at most one line of `line_max` bytes that has not ended."""

    line_max: int
    _buffer: bytearray = field(factory=bytearray, init=False)
    _searched: int = field(default=0, init=False)

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that these bytes complete, without their newlines.

        Raises:
            ProtocolViolation: A line is longer than it may be.
        """
        self._buffer += data
        lines = []
        start = 0
        while (end := self._buffer.find(b"\n", max(start, self._searched))) >= 0:
            self._bound(end - start)
            lines.append(bytes(self._buffer[start:end]))
            start = end + 1
        del self._buffer[:start]
        self._searched = len(self._buffer)
        self._bound(self._searched)
        return lines

    def _bound(self, length: int) -> None:
        if length > self.line_max:
            raise ProtocolViolation(f"limits.line = {self.line_max} bytes, measured a line of {length} or more")


_decode = msgspec.json.Decoder().decode


def parse(line: bytes, run: str | None, depth_max: int) -> Frame:
    """A line from the sandbox that is handling `run` (None while it boots).

    Raises:
        ProtocolViolation: It is no frame of that run.
    """
    named, frame = parse_named(line, depth_max)
    if named != run:
        raise wrong_run(line, named, run)
    return frame


def wrong_run(line: bytes, named: Any, *runs: str | None) -> ProtocolViolation:
    """A line names a run that is not in hand."""
    hand = " or ".join(map(repr, runs)) or "none"
    return ProtocolViolation(f"a line of run {named!r} where run {hand} is in hand: {_excerpt(line)}")


def parse_named(line: bytes, depth_max: int) -> tuple[Any, Frame]:
    """A line from a sandbox: the run that it names, and what it says.

    Raises:
        ProtocolViolation: It is no frame.
    """
    if is_deeper(line, depth_max):
        raise ProtocolViolation(f"limits.json_depth = {depth_max}, measured a command that is nested deeper")
    try:
        frame = _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolViolation(f"a line that is not JSON ({error}): {_excerpt(line)}") from None
    if not isinstance(frame, dict):
        raise ProtocolViolation(f"a line that is no command but {type(frame).__name__}: {_excerpt(line)}")
    name, cmd_id = frame.pop("cmd", None), frame.pop("cmd_id", None)
    if not isinstance(name, str) or len(name) > NAME_MAX or not isinstance(cmd_id, str) or len(cmd_id) > ID_MAX:
        raise ProtocolViolation(f"a line without proper cmd and cmd_id: {_excerpt(line)}")
    reply = frame.pop("reply", True)
    if reply is not False and reply is not None:
        raise ProtocolViolation(f"a line that calls itself a reply: {_excerpt(line)}")
    named = frame.pop("run", None)
    if name.startswith("js."):
        return named, _harness_frame(name, frame)
    return named, Request(name, cmd_id, frame, reply is None)


def _harness_frame(name: str, fields: dict[str, Any]) -> Frame:
    text = [str(fields.get(key, "")) for key in ("message", "stack", "kind", "msg", "level")]
    match name:
        case "js.ready":
            return Ready()
        case "js.done":
            heap = fields.get("heap")
            return Done(heap if type(heap) is int and heap > 0 else 0)
        case "js.turn":
            return Turn()
        case "js.error":
            message, stack, kind = text[:3]
            # V8's stack begins with the message; a stack that an app made up need not.
            return Failed(kind, stack if message and message in stack else f"{message}\n{stack}".strip())
        case "js.console":
            return ConsoleLine(LEVELS.get(text[4], 20), text[3])
    raise ProtocolViolation(f"a line of the harness's that it does not have: {name[:80]}")


def _excerpt(line: bytes) -> str:
    text = line[:120].decode("utf-8", errors="replace")
    return repr(text) + ("..." if len(line) > 120 else "")  # noqa: PLR2004


_encode = msgspec.json.Encoder().encode


def encode_initialize(fields: dict[str, Any]) -> bytes:
    """The first line to a sandbox: the app and what it may have."""
    return _encode({"reply": False, "cmd": "initialize", "cmd_id": "0", "run": None} | fields) + b"\n"


def encode_prepare(modules: Sequence[str]) -> bytes:
    """The first line to a spare process: what to load before there is an app."""
    return _encode({"reply": False, "cmd": "prepare", "cmd_id": "0", "run": None, "modules": modules}) + b"\n"


def encode_config(values: Mapping[str, str], burst: int) -> bytes:
    """What config.get finds, and of how many commands of a run the harness may answer those to which there is only one answer."""
    fields = {"cmd": "config", "cmd_id": "0", "run": None, "values": values, "burst": burst}
    return _encode({"reply": False} | fields) + b"\n"


def encode_delivery(run: str, kind: str, payload: dict[str, Any]) -> bytes:
    """The line that begins a run: `inbound-message` or `inbound-event`."""
    return _encode({"reply": False, "cmd": f"inbound-{kind}", "cmd_id": run, "run": run, "msg": payload}) + b"\n"


def encode_reply(run: str, request: Request, answer: dict[str, Any]) -> bytes:
    """The answer to a command. `reply` stands first: the harness sorts lines by it without parsing them."""
    envelope = {"reply": True, "cmd": request.name, "cmd_id": request.id, "run": run}
    return _encode(envelope | answer) + b"\n"
