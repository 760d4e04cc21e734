"""What is in an outbox, as values."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from attrs import frozen

from ..messages import moment_of


class OutboxFull(Exception):
    """No more messages may wait on the channel."""


@frozen
class Parcel:
    """A message in an outbox.

    Attributes:
        delivery: Its number.
        message: Its JSON text; empty if the stored text is not JSON.
        in_reply_to: What it replies to, if known.
        attempts: How often it was handed out before it was read from the store.
        is_noted: Whether the store already counts it as handed out.
    """

    delivery: int
    message: bytes
    in_reply_to: str | None = None
    attempts: int = 0
    is_noted: bool = False


@frozen
class Struck:
    """A message that is no longer needed: its number, its size in bytes (-1: unknown), and whether
    `note_handed` ever named it.
    """

    delivery: int
    size: int = -1
    is_counted: bool = True


@frozen
class Page:
    """Some messages of an outbox, whether they are the last, and the newest number handed out in
    order so far.
    """

    parcels: Sequence[Parcel]
    is_last: bool
    handed: int


@frozen
class Waiting:
    """What waits in an outbox.

    Attributes:
        count: Messages.
        size: Bytes of them.
        oldest: When the first of them was made, if that can be read.
        newest: The delivery number of the last; 0 if there is none.
    """

    count: int = 0
    size: int = 0
    oldest: datetime | None = None
    newest: int = 0


class _Times(msgspec.Struct, frozen=True):
    timestamp: str = ""


class _Head(msgspec.Struct, frozen=True):
    in_reply_to: Any = None


_head = msgspec.json.Decoder(_Head).decode
_times = msgspec.json.Decoder(_Times).decode


@frozen
class Slot:
    """Identifies one outbound of the run of one inbound.

    Attributes:
        origin: Names the inbound.
        name: Names the outbound among those of its run.
        unless: Names of other outbounds of that run; if one was posted, this one is not.
    """

    origin: str
    name: str
    unless: Sequence[str] = ()


@frozen
class Posted:
    """The result of posting a message.

    Attributes:
        delivery: Its delivery number.
        is_repeat: Whether an earlier run of the same inbound posted it, so that it was not posted
            again.
        differs: Whether that earlier message said something else.
    """

    delivery: int
    is_repeat: bool = False
    differs: bool = False


def parcel_of(place: bytes, message: bytes, times: bytes | None, handed: int) -> Parcel:
    """Read a message of an outbox; `handed`: the newest number handed out in order."""
    number = int(place.split(b"-")[0])
    try:
        in_reply_to = _head(message).in_reply_to
    except ValueError:
        in_reply_to, message = None, b""
    attempts = int(times or 0) or (1 if number <= handed else 0)
    return Parcel(number, message, in_reply_to if isinstance(in_reply_to, str) else None, attempts)


def made(message: bytes) -> datetime | None:
    """When a message was made."""
    try:
        return moment_of(_times(message).timestamp)
    except ValueError:
        return None
