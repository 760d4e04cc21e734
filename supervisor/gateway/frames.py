"""The frames of the gateway protocol: what clients send, typed; what the server sends, encoded."""

from __future__ import annotations

import itertools
import re
from contextlib import suppress
from typing import Any

import msgspec
from attrs import frozen

from resources.text import DEPTH_MAX, TooDeep, clean_json, is_deeper

SUBPROTOCOL = "jsbox.v1"
WINDOW_MAX = 10_000  # parcels that a client may take at a time
CODE_PROTOCOL, CODE_TOKEN, CODE_CHANNEL, CODE_NO_HELLO = 4400, 4401, 4403, 4408
CODE_FRAME, CODE_RATE, CODE_INTERNAL, CODE_RESTART, CODE_OVERLOAD = 4413, 4429, 1011, 1012, 1013


class Hello(msgspec.Struct, tag="hello", frozen=True):
    """The first frame. `window`: unacknowledged outbounds the client takes at a time. `only_own`:
    it takes nothing but replies to what it brought.
    """

    channel: str
    token: str | None = None
    window: int = 64
    outcomes: bool = False
    only_own: bool = False


class Inbound(msgspec.Struct, tag="inbound", frozen=True):
    """A message from outside. `id` is the client's own name for this frame."""

    id: str
    msg: Any
    endpoint: str = "default"


class Event(msgspec.Struct, tag="event", frozen=True):
    """What became of an outbound message."""

    id: str
    event: Any


class Ack(msgspec.Struct, tag="ack", frozen=True):
    """The client has received this outbound."""

    delivery: int


@frozen
class Malformed:
    """A message or event that cannot be read, in a frame that can be answered (`bad_message`)."""

    id: str
    path: str
    detail: str


ClientFrame = Hello | Inbound | Event | Ack


class _Envelope(msgspec.Struct, frozen=True):
    """What is read of a frame whose message cannot be read."""

    type: str
    id: str


_decoder: msgspec.json.Decoder[ClientFrame] = msgspec.json.Decoder(ClientFrame)
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_encode = msgspec.json.Encoder().encode
_BODIES = {"inbound": "msg", "event": "event"}
_FIELD = re.compile(r"at `\$\.(\w+)|required field `(\w+)`")
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{},:]|[^\s"\[\]{},:]++', re.DOTALL)
TOKENS_MAX = 8000  # of a frame that is not JSON; its type and id are looked for among these


class BadFrame(Exception):
    """It is not a frame of the protocol, and has no id that an answer could name."""


def decode(data: bytes) -> ClientFrame | Malformed:
    """Read a frame from a client.

    Raises:
        BadFrame: It is not one; the text says what was expected and where.
    """
    try:
        return _read(data)
    except (ValueError, RecursionError) as error:  # of msgspec, and TooDeep
        is_json = isinstance(error, TooDeep | msgspec.ValidationError)
        problem = str(error) if is_json else f"expected JSON: {error}"
    envelope = _envelope(data)
    if envelope is None or envelope.type not in _BODIES:
        raise BadFrame(problem)
    found = _FIELD.search(problem)
    path = next(filter(None, found.groups())) if found else _BODIES[envelope.type]
    return Malformed(envelope.id, path, problem)


def _read(data: bytes) -> ClientFrame:
    if is_deeper(data, DEPTH_MAX):
        raise TooDeep(DEPTH_MAX)
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError:
        cleaned = clean_json(data)
        if cleaned == data:
            raise
        return _decoder.decode(cleaned)


def _envelope(data: bytes) -> _Envelope | None:
    """The type and id of an otherwise unreadable frame; None if they cannot be made out."""
    try:
        return _decode_envelope(clean_json(data))
    except (ValueError, RecursionError):
        pass
    try:
        return msgspec.convert(_outermost(clean_json(data)), _Envelope)
    except msgspec.ValidationError:
        return None


def _outermost(data: bytes) -> dict[str, str]:
    """The string fields of an object, whatever its other fields hold."""
    fields: dict[str, str] = {}
    depth, before = 0, [b"", b"", b""]  # the three tokens before this one
    for found in itertools.islice(_TOKENS.finditer(data), TOKENS_MAX):
        token = found[0]
        is_field = before[1] == b":" and before[0][:1] == before[2][:1] == b'"'
        if is_field and depth == 1 and token in b",}":
            with suppress(ValueError):
                fields.setdefault(
                    msgspec.json.decode(before[0], type=str),
                    msgspec.json.decode(before[2], type=str),
                )
        if token in b"{[":
            depth += 1
        elif token in b"]}":
            depth -= 1
        if depth <= 0:  # what follows is no part of it
            break
        before = [*before[1:], token]
    return fields


def welcome(connection: str, credit: int, max_frame: int) -> bytes:
    """The answer to a good hello."""
    return _encode(
        {"type": "welcome", "connection": connection, "credit": credit, "max_frame": max_frame}
    )


def accepted(frame_id: str, kind: str, message_id: str, *, duplicate: bool) -> bytes:
    """The message or event is in the journal."""
    answer = {"type": "accepted", "id": frame_id, "message_id": message_id, "duplicate": duplicate}
    return _encode(answer if kind == "message" else answer | {"event_id": message_id})


def rejected(
    frame_id: str, code: str, detail: str, path: str | None = None, retry_after: float | None = None
) -> bytes:
    """The message or event was not taken. `retry_after`: seconds, or None when retrying will not
    help.
    """
    return _encode(
        {
            "type": "rejected",
            "id": frame_id,
            "code": code,
            "path": path,
            "detail": detail,
            "retry_after": retry_after,
        }
    )


def outbound(delivery: int, attempt: int, message: bytes) -> bytes:
    """A message from an app, to be acknowledged."""
    return _encode(
        {"type": "outbound", "delivery": delivery, "attempt": attempt, "msg": msgspec.Raw(message)}
    )


def outcome(kind: str, message_id: str, name: str, ms: float, commands: int) -> bytes:
    """How a run ended."""
    answer = {
        "type": "outcome",
        "message_id": message_id,
        "outcome": name,
        "ms": ms,
        "commands": commands,
    }
    return _encode(answer if kind == "message" else answer | {"event_id": message_id})


def credit(inbound: int) -> bytes:
    """The client may send this many more inbound messages, on top of what it has left."""
    return _encode({"type": "credit", "inbound": inbound})


def drain(seconds: float) -> bytes:
    """The server is going away: send nothing new; what is in progress ends within this time."""
    return _encode({"type": "drain", "deadline_ms": int(seconds * 1000)})


def error(code: str, detail: str, *, fatal: bool) -> bytes:
    """The client made a mistake; if fatal, the connection closes."""
    return _encode({"type": "error", "code": code, "detail": detail, "fatal": fatal})
