"""Junebug's words and Vumi's: messages and events that come, messages that go. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from http import HTTPStatus
from typing import Any

import msgspec

from resources.messages import BadMessage, Payload, shown

# Junebug's name, and Vumi's
_NAMES = {
    "message_id": "message_id",
    "timestamp": "timestamp",
    "to": "to_addr",
    "from": "from_addr",
    "group": "group",
    "reply_to": "in_reply_to",
    "content": "content",
}
_VUMIS = {vumi: junebug for junebug, vumi in _NAMES.items()}
_SESSION = ("session_event", "continue_session")  # of channel_data; the rest is helper_metadata
_STATUSES = {
    "delivery_succeeded": "delivered",
    "delivery_failed": "failed",
    "delivery_pending": "pending",
}
_EVENTS = ("submitted", "rejected", *_STATUSES)
NO_REASON = "no reason was given"
ID_BYTES = 16


def message_from(body: Any) -> Payload:
    """The Vumi message that Junebug posted; its fields are not checked yet.

    Raises:
        BadMessage: It is not an object with an object as its channel_data, or has no sender.
    """
    if not isinstance(body, dict):
        raise BadMessage("body", f"expected a JSON object, got {shown(body)}")
    data = _channel_data(body)
    message = {vumi: body[name] for name, vumi in _NAMES.items() if name in body}
    if not isinstance(message.get("from_addr"), str):
        raise BadMessage("from", f"expected the address of the user, got {shown(body.get('from'))}")
    if "session_event" in data:
        message["session_event"] = data["session_event"]
    if isinstance(body.get("channel_id"), str):
        message["transport_name"] = body["channel_id"]
    message["helper_metadata"] = {key: data[key] for key in data if key not in _SESSION}
    return message


def _channel_data(body: Mapping[str, Any]) -> Mapping[str, Any]:
    data = body.get("channel_data")
    if data is not None and not isinstance(data, dict):
        raise BadMessage("channel_data", f"expected an object, got {shown(data)}")
    return data or {}


def event_from(body: Any) -> Payload:
    """The Vumi event that Junebug posted; its `user_message_id` is Junebug's.

    An event has no id of its own there: one that is posted twice gets the same id twice.

    Raises:
        BadMessage: It is none of Junebug's events.
    """
    if not isinstance(body, dict):
        raise BadMessage("body", f"expected a JSON object, got {shown(body)}")
    kind, message = body.get("event_type"), body.get("message_id")
    if not isinstance(kind, str) or kind not in _EVENTS:
        raise BadMessage("event_type", f"expected one of {', '.join(_EVENTS)}, got {shown(kind)}")
    if not isinstance(message, str) or not message:
        raise BadMessage("message_id", f"expected the id of a message, got {shown(message)}")
    details = body.get("event_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    event = {"event_id": _event_id(body), "user_message_id": message}
    if "timestamp" in body:
        event["timestamp"] = body["timestamp"]
    if kind == "submitted":
        return event | {"event_type": "ack", "sent_message_id": message}
    if kind == "rejected":
        return event | {"event_type": "nack", "nack_reason": _reason(reason)}
    return event | {"event_type": "delivery_report", "delivery_status": _STATUSES[kind]}


def _event_id(body: Mapping[str, Any]) -> str:
    parts = [body.get(name) for name in ("message_id", "event_type", "timestamp")]
    return blake2b(msgspec.json.encode(parts), digest_size=ID_BYTES).hexdigest()


def _reason(reason: Any) -> str:
    if isinstance(reason, str) and reason:
        return reason
    return NO_REASON if not reason else msgspec.json.encode(reason).decode()


def refused(message_id: str, reason: str) -> Payload:
    """The event of a message that Junebug refused for good."""
    return {
        "event_id": blake2b(f"refused {message_id}".encode(), digest_size=ID_BYTES).hexdigest(),
        "event_type": "nack",
        "user_message_id": message_id,
        "nack_reason": reason,
    }


def body_of(
    message: Mapping[str, Any], from_addr: str | None, event_url: str, event_token: str
) -> dict[str, Any]:
    """What is posted to Junebug for a message of an app."""
    data = dict(message.get("helper_metadata") or {})
    data.pop("go", None)  # our own names of account and app
    body: dict[str, Any] = {
        "content": message.get("content"),
        "event_url": event_url,
        "event_auth_token": event_token,
        "channel_data": data,
    }
    if message.get("session_event") is not None:
        data["session_event"] = message["session_event"]
    if message.get("in_reply_to"):  # without session_event the session goes on
        return body | {"reply_to": message["in_reply_to"]}
    body |= {"to": message.get("to_addr"), "from": message.get("from_addr") or from_addr}
    if message.get("group") is not None:
        body["group"] = message["group"]
    return body


def vumi_to_junebug(path: str) -> str:
    """The name that Junebug has for a field that is wrong: `msg.from_addr` is `from`."""
    name = path.partition(".")[2] or path
    return _VUMIS.get(name, f"channel_data.{name}" if name in _SESSION else name)


def answer(status: int, description: str, result: Any) -> bytes:
    """An answer as those of Junebug's own API are."""
    return msgspec.json.encode(
        {
            "status": status,
            "code": HTTPStatus(status).phrase,
            "description": description,
            "result": result,
        }
    )


def error(status: int, description: str, kind: str, text: str) -> bytes:
    """An answer that says what is wrong."""
    return answer(status, description, {"errors": [{"type": kind, "message": text}]})
