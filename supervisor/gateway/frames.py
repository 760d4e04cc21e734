"""The frames of the gateway protocol: what clients send, typed; what the server sends, encoded."""

from __future__ import annotations

from typing import Any

import msgspec

from resources.messages import BadMessage

SUBPROTOCOL = "jsbox.v1"
WINDOW_MAX = 10_000
CODE_PROTOCOL, CODE_TOKEN, CODE_CHANNEL, CODE_NO_HELLO = 4400, 4401, 4403, 4408
CODE_FRAME, CODE_RATE, CODE_RESTART, CODE_OVERLOAD = 4413, 4429, 1012, 1013


class Hello(msgspec.Struct, tag="hello", frozen=True):
    """The first frame. `window`: unacknowledged outbounds the client takes at a time."""

    channel: str
    token: str | None = None
    window: int = 64
    outcomes: bool = False


class Inbound(msgspec.Struct, tag="inbound", frozen=True):
    """A message from the outside. `id` is the client's word for this frame."""

    id: str
    msg: Any
    endpoint: str = "default"


class Event(msgspec.Struct, tag="event", frozen=True):
    """What became of an outbound message."""

    id: str
    event: Any


class Ack(msgspec.Struct, tag="ack", frozen=True):
    """The client has this outbound."""

    delivery: int


ClientFrame = Hello | Inbound | Event | Ack

_decoder: msgspec.json.Decoder[ClientFrame] = msgspec.json.Decoder(ClientFrame)
_encode = msgspec.json.Encoder().encode


class BadFrame(Exception):
    """What came is no frame of the protocol."""


def decode(text: str | bytes) -> ClientFrame:
    """A frame from a client. Raises `BadFrame` with what was expected and where."""
    if isinstance(text, bytes):
        raise BadFrame("expected a text frame, got a binary one")
    try:
        return _decoder.decode(text)
    except msgspec.ValidationError as error:
        raise BadFrame(str(error)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise BadFrame(f"expected a JSON object: {error}") from None


def welcome(connection: str, credit: int, max_frame: int) -> bytes:
    """The client is known."""
    return _encode({"type": "welcome", "connection": connection, "credit": credit, "max_frame": max_frame})


def accepted(frame_id: str, kind: str, message_id: str, *, duplicate: bool) -> bytes:
    """The message or event stands in the journal."""
    answer = {"type": "accepted", "id": frame_id, "message_id": message_id, "duplicate": duplicate}
    return _encode(answer if kind == "message" else answer | {"event_id": message_id})


def rejected(frame_id: str, code: str, detail: str, path: str | None = None, retry_after: float | None = None) -> bytes:
    """The message or event was not taken. `retry_after`: seconds, or None where trying again is of no use."""
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


def rejected_message(frame_id: str, bad: BadMessage) -> bytes:
    """The message or event is none."""
    return rejected(frame_id, "bad_message", bad.detail, bad.path)


def outbound(delivery: int, attempt: int, message: bytes) -> bytes:
    """A message for the outside, to be acknowledged."""
    return _encode({"type": "outbound", "delivery": delivery, "attempt": attempt, "msg": msgspec.Raw(message)})


def outcome(kind: str, message_id: str, name: str, ms: float, commands: int) -> bytes:
    """How a run ended."""
    answer = {"type": "outcome", "message_id": message_id, "outcome": name, "ms": ms, "commands": commands}
    return _encode(answer if kind == "message" else answer | {"event_id": message_id})


def credit(inbound: int) -> bytes:
    """So many more inbound messages may be sent, on top of what is left."""
    return _encode({"type": "credit", "inbound": inbound})


def drain(seconds: float) -> bytes:
    """The server is going away: send nothing new; what is in hand ends within this time."""
    return _encode({"type": "drain", "deadline_ms": int(seconds * 1000)})


def error(code: str, detail: str, *, fatal: bool) -> bytes:
    """Something is wrong with what the client does; if fatal, the connection closes."""
    return _encode({"type": "error", "code": code, "detail": detail, "fatal": fatal})
