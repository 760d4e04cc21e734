"""The entries of the journals: messages and events, and whether what is found there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from ..messages import shown
from ..text import clean, is_deeper

DEPTH_MAX = 200  # nesting of an entry; gateways may send less


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message or an event (as Vumi's JSON objects) from a channel, for an app of an account."""

    kind: Literal["message", "event"]
    account: str
    app: str
    channel: str
    payload: dict[str, Any]
    counted: bool = False  # whether the message statistics count it
    origin: str = ""  # its first place, if it was a dead letter
    via: str = ""  # the host and process that took it in, if several share the work

    @property
    def id(self) -> str:
        """The message_id or event_id."""
        name = "message_id" if self.kind == "message" else "event_id"
        return str(self.payload[name])

    @property
    def lane(self) -> str:
        """What is handled in order: the messages of one user on one channel, and the events of one
        outbound message.
        """
        if self.kind == "message":
            return f"{self.channel}\0{self.payload.get('from_addr')}"
        return f"{self.channel}\0event\0{self.payload['user_message_id']}"

    def origin_at(self, place: str) -> str:
        """A name for the entry that is the same in all of its runs; `place` is where it is now."""
        return f"{self.origin or place}\0{self.kind}\0{self.channel}\0{self.id}"


def raw_of(fields: Sequence[bytes]) -> bytes:
    """The text of an entry from the fields of a stream; other fields are joined as they are."""
    is_one_field = len(fields) == 2 and fields[0] == b"e"  # noqa: PLR2004  # a name and its value
    return fields[1] if is_one_field else b" ".join(fields)


def read_entry(raw: bytes, account: str, app: str) -> tuple[Entry | None, str]:
    """Decode an entry of an app's journal; return it and why it cannot be run ("" if it can)."""
    if is_deeper(raw, DEPTH_MAX):
        return None, f"it is nested deeper than {DEPTH_MAX} levels"
    try:
        entry = msgspec.json.decode(raw, type=Entry)
    except (ValueError, RecursionError) as error:
        return None, f"it is not an entry of the journal: {clean(str(error))}"
    if (entry.account, entry.app) != (account, app):
        return entry, f"it is for app {shown(entry.app)} of account {shown(entry.account)}"
    payload = entry.payload
    wrong = [
        name
        for name, check in _NEEDED[entry.kind].items()
        if name not in payload or not check(payload[name])
    ]
    return entry, f"fields are missing or wrong: {', '.join(wrong)}" if wrong else ""


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _text_or_null(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


_TEXTS = (
    "to_addr", "from_addr", "to_addr_type", "from_addr_type", "transport_name", "transport_type",
    "session_event",
    "group", "provider",
)  # fmt: skip
# What the code relies on in everything that the gateway let in or a push made.
_NEEDED: dict[str, dict[str, Callable[[Any], bool]]] = {
    "message": {
        "message_id": _text, "helper_metadata": _object, "transport_metadata": _object,
        "routing_metadata": _object,
        **dict.fromkeys(_TEXTS, _text_or_null),
    },
    "event": {"event_id": _text, "event_type": _text, "user_message_id": _text,
        "helper_metadata": _object},
}  # fmt: skip
