"""Vumi's messages and events, as the JSON objects that apps and gateways know
(TransportUserMessage, TransportEvent).

They stay plain dicts: unknown fields are kept and passed on. This module says which fields there
are, what each may hold, what the server fills in, and how replies and sends are made.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec

Payload = dict[str, Any]

VERSION = "20110921"
ID_MAX = 200  # characters of a message_id or event_id
ADDRESS_MAX = 400  # characters
SESSION_EVENTS = (None, "new", "resume", "close")
EVENT_TYPES = ("ack", "nack", "delivery_report")
DELIVERY_STATUSES = ("pending", "failed", "delivered")
ADDRESS_FIELDS = {
    "sms": "msisdn", "ussd": "msisdn", "voice": "msisdn", "twitter": "twitter_handle",
    "gtalk": "gtalk_id", "mxit": "mxit_id", "wechat": "wechat_id",
}  # fmt: skip
"""Each delivery class, and the field of a contact that has its addresses."""
CLASSES_BY_TRANSPORT = {
    "smpp": "sms", "sms": "sms", "ussd": "ussd", "twitter": "twitter", "xmpp": "gtalk",
    "mxit": "mxit", "wechat": "wechat",
}  # fmt: skip
"""transport_type to delivery class; every other transport_type counts as sms."""

_DATE = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(\.\d{1,9})?(Z|[+-]\d\d:?\d\d)?", re.ASCII
)
# fields that only this service may set
_OURS = ("inbound_push_trigger",)


class BadMessage(Exception):
    """An inbound message or event is not valid.

    Attributes:
        path: The field, such as "msg.session_event".
        detail: What was expected there, and what came.
    """

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.detail = detail


def vumi_date(moment: datetime) -> str:
    """A moment as `2013-04-24 14:01:41.803693`, in UTC; without a zone it is taken as UTC."""
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return moment.isoformat(" ", "microseconds")  # strftime would not pad years before 1000


def moment_of(date: str) -> datetime:
    """The UTC moment of a Vumi date."""
    return datetime.fromisoformat(date).replace(tzinfo=UTC)


def now() -> str:
    """This moment as a Vumi date."""
    return vumi_date(datetime.now(UTC))


def new_id() -> str:
    """A fresh message_id or event_id."""
    return uuid4().hex


SHOWN_MAX = 80  # characters

_short = reprlib.Repr()
_short.maxlevel = 4
_short.maxstring = _short.maxlong = _short.maxother = 2 * SHOWN_MAX
_short.maxlist = _short.maxtuple = _short.maxdict = SHOWN_MAX // 2


def shown(value: Any) -> str:
    """A value from outside for an error text: roughly as JSON, short. Takes any JSON value, however
    deep or long.
    """
    names = {True: "true", False: "false", None: "null"}
    if value is None or isinstance(value, bool):
        return names[value]
    try:
        text = _short.repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = "a number that is too long"
    return text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 3] + "..."


Check = Callable[[Any], bool]


def _text(most: int) -> Check:
    return lambda value: isinstance(value, str) and 0 < len(value) <= most


def _text_or_null(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _address(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= ADDRESS_MAX)


def _date(value: Any) -> bool:
    return isinstance(value, str) and _DATE.fullmatch(value) is not None


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _among(*values: Any) -> Check:
    return lambda value: (
        (value is None and None in values) or (isinstance(value, str) and value in values)
    )


_COMMON: dict[str, tuple[Check, str]] = {
    "message_version": (_among(VERSION), f"'{VERSION}'"),
    "timestamp": (_date, "a date such as '2013-04-24 14:01:41.803693'"),
    "transport_name": (_text_or_null, "a string or null"),
    "transport_type": (_text_or_null, "a string or null"),
    "transport_metadata": (_object, "an object"),
    "helper_metadata": (_object, "an object"),
    "routing_metadata": (_object, "an object"),
}
_MESSAGE: dict[str, tuple[Check, str]] = _COMMON | {
    "message_type": (_among("user_message"), "'user_message'"),
    "message_id": (_text(ID_MAX), f"a string of 1 to {ID_MAX} characters"),
    "in_reply_to": (_text_or_null, "a string or null"),
    "to_addr": (_address, f"a string of at most {ADDRESS_MAX} characters, or null"),
    "from_addr": (_address, f"a string of at most {ADDRESS_MAX} characters, or null"),
    "to_addr_type": (_text_or_null, "a string or null"),
    "from_addr_type": (_text_or_null, "a string or null"),
    "content": (_text_or_null, "a string or null"),
    "session_event": (_among(*SESSION_EVENTS), "null, new, resume or close"),
    "group": (_text_or_null, "a string or null"),
    "provider": (_text_or_null, "a string or null"),
}
_EVENT: dict[str, tuple[Check, str]] = _COMMON | {
    "message_type": (_among("event"), "'event'"),
    "event_id": (_text(ID_MAX), f"a string of 1 to {ID_MAX} characters"),
    "event_type": (_among(*EVENT_TYPES), "ack, nack or delivery_report"),
    "user_message_id": (
        _text(ID_MAX),
        f"the message_id of an outbound message, 1 to {ID_MAX} characters",
    ),
}
_BY_EVENT_TYPE: dict[str, tuple[str, Check, str]] = {
    "ack": ("sent_message_id", lambda value: isinstance(value, str), "a string, as an ack needs"),
    "nack": ("nack_reason", lambda value: isinstance(value, str), "a string, as a nack needs"),
    "delivery_report": (
        "delivery_status",
        _among(*DELIVERY_STATUSES),
        "pending, failed or delivered",
    ),
}


def _check(raw: Mapping[str, Any], fields: Mapping[str, tuple[Check, str]], where: str) -> None:
    for name, (check, expected) in fields.items():
        if name in raw and not check(raw[name]):
            raise BadMessage(f"{where}.{name}", f"expected {expected}, got {shown(raw[name])}")


def complete_message(
    raw: Any, *, transport_name: str, transport_type: str | None, endpoint: str
) -> Payload:
    """Check an inbound message, and return it as an app may see it: with missing fields filled in,
    and without fields that it may not set.

    Raises:
        BadMessage: A field is wrong; the first one is named.
    """
    if not isinstance(raw, dict):
        raise BadMessage("msg", f"expected an object, got {shown(raw)}")
    _check(raw, _MESSAGE, "msg")
    filled: Payload = {
        "message_version": VERSION, "message_type": "user_message", "timestamp": now(),
        "message_id": new_id(),
        "in_reply_to": None, "to_addr": None, "from_addr": None, "to_addr_type": None,
        "from_addr_type": None,
        "content": None, "session_event": None, "transport_name": transport_name,
        "transport_type": transport_type,
        "transport_metadata": {}, "helper_metadata": {}, "routing_metadata": {}, "group": None,
        "provider": None,
    }  # fmt: skip
    filled |= raw
    for name in _OURS:
        filled.pop(name, None)
    filled["timestamp"] = _vumi_timestamp(filled["timestamp"], "msg")
    filled["routing_metadata"] = {"endpoint_name": endpoint} | filled["routing_metadata"]
    return filled


def complete_event(raw: Any, *, transport_name: str, transport_type: str | None) -> Payload:
    """Check an event, and return it as an app may see it. Raises `BadMessage`."""
    if not isinstance(raw, dict):
        raise BadMessage("event", f"expected an object, got {shown(raw)}")
    _check(raw, _EVENT, "event")
    for name in ("event_type", "user_message_id"):
        if name not in raw:
            raise BadMessage(f"event.{name}", f"expected {_EVENT[name][1]}, got nothing")
    name, check, expected = _BY_EVENT_TYPE[raw["event_type"]]
    if not check(raw.get(name)):
        raise BadMessage(f"event.{name}", f"expected {expected}, got {shown(raw.get(name))}")
    filled: Payload = {
        "message_version": VERSION, "message_type": "event", "timestamp": now(),
        "event_id": new_id(),
        "routing_metadata": {}, "helper_metadata": {}, "transport_name": transport_name,
        "transport_type": transport_type,
    }  # fmt: skip
    filled |= raw
    filled["timestamp"] = _vumi_timestamp(filled["timestamp"], "event")
    return filled


def _vumi_timestamp(text: str, where: str) -> str:
    """A Vumi or RFC 3339 date as a Vumi date in UTC."""
    found = _DATE.fullmatch(text)
    assert found is not None
    day, clock, fraction, zone = found.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{(fraction or '.0')[:7]:0<7}{zone or 'Z'}")
        return vumi_date(moment)
    except (ValueError, OverflowError) as error:
        raise BadMessage(f"{where}.timestamp", f"expected a date, got {shown(text)}") from error


def delivery_class(transport_type: str | None) -> str:
    """The kind of address that a transport_type uses."""
    return CLASSES_BY_TRANSPORT.get(transport_type or "", "sms")


def for_app(message: Payload, account: str, app: str) -> Payload:
    """A message as delivered to an app: with the app's account and conversation, and the delivery
    class.
    """
    helper = message["helper_metadata"] | {"go": go_metadata(account, app)}
    if not message.get(
        "inbound_push_trigger"
    ):  # a push has no transport, and has its class already
        helper["delivery_class"] = delivery_class(message.get("transport_type"))
    return message | {"helper_metadata": helper}


def go_metadata(account: str, app: str) -> dict[str, str]:
    """What old apps and gateways expect under helper_metadata.go."""
    return {"user_account": account, "conversation_type": "jsbox", "conversation_key": app}


def push_trigger(address: str, delivery_class: str = "sms", message_id: str = "") -> Payload:
    """A message that nobody sent: it makes the app start a conversation with an address of that
    class. Without a message_id it gets a new one.
    """
    own = {"message_id": message_id} if message_id else {}
    trigger = complete_message(
        {"from_addr": address, **own}, transport_name="", transport_type=None, endpoint="default"
    )
    helper = {"delivery_class": delivery_class}
    return trigger | {
        "inbound_push_trigger": True,
        "transport_name": None,
        "helper_metadata": helper,
    }


def reply(
    to: Payload,
    content: str | None,
    *,
    close: bool,
    to_group: bool,
    helper_metadata: Mapping[str, Any],
) -> Payload:
    """The reply to a message that was delivered to an app: to its sender, or to its group. The
    outbox gives it its message_id.
    """
    return {
        "message_version": VERSION, "message_type": "user_message", "timestamp": now(),
        "in_reply_to": to["message_id"],
        "to_addr": None if to_group and to["group"] is not None else to["from_addr"],
        "from_addr": to["to_addr"],
        "to_addr_type": to["from_addr_type"], "from_addr_type": to["to_addr_type"],
        "content": content, "session_event": "close" if close else None,
        "transport_name": to["transport_name"], "transport_type": to["transport_type"],
        "transport_metadata": to["transport_metadata"], "routing_metadata": to["routing_metadata"],
        "helper_metadata": to["helper_metadata"] | helper_metadata,
        "group": to["group"], "provider": to["provider"],
    }  # fmt: skip


def send(
    to_addr: str,
    content: str | None,
    *,
    endpoint: str,
    helper_metadata: Mapping[str, Any],
    session_event: str | None = None,
) -> Payload:
    """A message to an address, not a reply. The outbox gives it its message_id."""
    return {
        "message_version": VERSION, "message_type": "user_message", "timestamp": now(),
        "in_reply_to": None, "to_addr": to_addr, "from_addr": None, "to_addr_type": None,
        "from_addr_type": None,
        "content": content, "session_event": session_event, "transport_name": None,
        "transport_type": None,
        "transport_metadata": {}, "routing_metadata": {"endpoint_name": endpoint},
        "helper_metadata": dict(helper_metadata), "group": None, "provider": None,
    }  # fmt: skip


def is_session_start(message: Mapping[str, Any]) -> bool:
    """Whether the user of this message waits for an answer: a session was opened or goes on."""
    return message.get("session_event") in ("new", "resume")


def missing_from(given: Collection[str], allowed: Collection[str]) -> list[str]:
    """The given names that are not allowed."""
    return [name for name in given if name not in allowed]


def as_text(value: Any) -> str:
    """A JSON value for a log: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
