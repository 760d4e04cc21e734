"""The journals of inbound messages and events: each is in its app's journal from before the gateway
says `accepted` until its run has ended.

There is one Redis stream per app. Entries that a killed supervisor leaves are run again by the
next. A hash beside it counts how often the run of each entry began: entries that still have a count
at start-up were in progress when a supervisor died.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from functools import lru_cache
from typing import Any, Literal, cast

import msgspec
import trio
from attrs import field, frozen

from ..messages import shown
from ..text import clean, is_deeper
from .direct import Command
from .keys import account_key
from .redis import Redis, StoreRefused
from .room import OVERHEAD, Room
from .scripts import Script, script
from .statistics import prefix_of, second_of

REMEMBERED = 24 * 3600  # seconds for which an id that was seen is a duplicate
PAGE = 100  # entries read at a time
DEPTH_MAX = 200  # nesting of an entry; gateways may send less
KEYS_KNOWN = 4096  # apps whose keys are cached
BURST = 256 << 10  # bytes of entries that are decoded between two checkpoints


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message or an event (as Vumi's JSON objects) from a channel, for an app of an account."""

    kind: Literal["message", "event"]
    account: str
    app: str
    channel: str
    payload: dict[str, Any]
    counted: bool = False  # whether the message statistics count it
    origin: str = ""  # its first place, if it was a dead letter

    @property
    def id(self) -> str:
        """The message_id or event_id."""
        name = "message_id" if self.kind == "message" else "event_id"
        return str(self.payload[name])

    def origin_at(self, place: str) -> str:
        """A name for the entry that is the same in all of its runs; `place` is where it is now."""
        return f"{self.origin or place}\0{self.kind}\0{self.channel}\0{self.id}"


@frozen
class Accepted:
    """The journal's answer: the entry's place, and whether its id had been seen before."""

    place: str
    duplicate: bool


@frozen
class Left:
    """One entry as it is in the journal.

    Attributes:
        place: Its place.
        raw: Its text.
        entry: The decoded text; None if it is not an entry.
        problem: Why it cannot be run; empty if it can.
    """

    place: str
    raw: bytes
    entry: Entry | None
    problem: str = ""


@frozen
class Journal:
    """The journals of all apps. Every method may raise `redis.StoreError`."""

    redis: Redis
    room: Room = field(factory=Room)
    _accept: Script = field(factory=lambda: script("journal_accept"), init=False)

    async def accept(self, entries: Sequence[Entry]) -> list[Accepted]:
        """Write and count entries in order, except those whose id was seen on their channel in the
        last 24 hours.

        The first refusal is raised after all were tried.
        """
        answers = await self.attempt(entries)
        for answer in answers:
            if isinstance(answer, StoreRefused):
                raise answer
        return cast("list[Accepted]", answers)

    async def attempt(self, entries: Sequence[Entry]) -> list[Accepted | StoreRefused]:
        """As `accept`, but a refused entry has the refusal as its answer."""
        commands, size = list[Command](), 0
        for entry in entries:
            seen = account_key(entry.account, "seen", entry.channel, entry.kind, entry.id)
            stream = stream_key(entry.account, entry.app)
            text = msgspec.json.encode(entry)
            size += len(text) + OVERHEAD
            counts = (prefix_of(entry.account), entry.app, *_counts(entry))
            commands.append(self._accept.call((seen, stream), REMEMBERED, text, *counts))
        refused = self.room.refusal(size)
        if refused is not None:
            return [refused] * len(entries)
        answers = await self.redis.attempt(commands, is_replicated=True)
        return [
            answer
            if isinstance(answer, StoreRefused)
            else Accepted(answer[0].decode(), bool(answer[1]))
            for answer in answers
        ]

    def begin_soon(self, entry: Entry, place: str, failed: Callable[[Exception], None]) -> bool:
        """Record that a run of an entry begins, ahead of all later commands, without waiting.

        Returns whether it could be queued; `failed` is called if the write fails.
        """
        return self.redis.post([_begun(entry, place, 1)], failed)

    async def begin(self, entry: Entry, place: str) -> None:
        """As `begin_soon`, but wait until it is recorded."""
        await self.redis.execute(*_begun(entry, place, 1))

    def hand_back_soon(self, entry: Entry, place: str, failed: Callable[[Exception], None]) -> bool:
        """Undo `begin`: an orderly stop cut the run off, which does not count. As `begin_soon`."""
        return self.redis.post([_begun(entry, place, -1)], failed)

    async def finish(self, entry: Entry, place: str) -> None:
        """Remove an entry whose run has ended."""
        await self.finish_all([(entry, place)])

    async def finish_all(self, ended: Sequence[tuple[Entry, str]]) -> None:
        """Remove the entries at these places, whose runs have ended."""
        await self.redis.execute_many(
            [command for entry, place in ended for command in _struck(entry, place)]
        )

    def finish_soon(self, entry: Entry, place: str, failed: Callable[[Exception], None]) -> bool:
        """As `finish`, ahead of all later commands, without waiting; return whether it could be
        queued.
        """
        return self.redis.post(_struck(entry, place), failed)

    async def begun(self, account: str, app: str) -> dict[str, int]:
        """How many runs of the entry at each place began and did not end; places without any are
        left out.
        """
        found = await self.redis.execute("HGETALL", begun_key(account, app))
        pairs = zip(found[::2], found[1::2], strict=True)
        return {place.decode("utf-8", "replace"): _number(count) for place, count in pairs}

    async def forget_begun(self, account: str, app: str, places: Sequence[str]) -> None:
        """Remove the counts of entries that no longer exist."""
        await self.redis.execute("HDEL", begun_key(account, app), *places)

    async def left(self, account: str, app: str) -> AsyncGenerator[Left, None]:
        """All entries of an app's journal, oldest first, readable or not."""
        start, burst = "-", 0
        while True:
            page = await self.redis.execute(
                "XRANGE", stream_key(account, app), start, "+", "COUNT", PAGE
            )
            for place, fields in page:
                raw = raw_of(fields)
                burst += len(raw)
                if burst > BURST:
                    await trio.lowlevel.checkpoint()
                    burst = len(raw)
                yield Left(place.decode(), raw, *read_entry(raw, account, app))
            if len(page) < PAGE:
                return
            start = "(" + page[-1][0].decode()

    async def unfinished(self, account: str, app: str) -> AsyncIterator[tuple[str, Entry]]:
        """All readable entries of an app's journal, oldest first, with their places."""
        async with aclosing(self.left(account, app)) as found:
            async for one in found:
                if one.entry is not None:
                    yield one.place, one.entry


@lru_cache(KEYS_KNOWN)
def stream_key(account: str, app: str) -> str:
    """The key of an app's journal."""
    return account_key(account, "in", app)


@lru_cache(KEYS_KNOWN)
def begun_key(account: str, app: str) -> str:
    """The key of the counts of begun runs."""
    return account_key(account, "begun", app)


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


def _struck(entry: Entry, place: str) -> list[Command]:
    stream, begun = stream_key(entry.account, entry.app), begun_key(entry.account, entry.app)
    return [("XDEL", stream, place), ("HDEL", begun, place)]


def _begun(entry: Entry, place: str, by: int) -> Command:
    return ("HINCRBY", begun_key(entry.account, entry.app), place, by)


def _number(text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        return 0


def _counts(entry: Entry) -> tuple[Any, ...]:
    """What to count of an entry, as ARGV 5 to 7 of journal_accept.lua."""
    payload = entry.payload
    if not entry.counted:
        return ("", "", "")
    if entry.kind == "message":
        return ("message", payload["from_addr"] or "", second_of(payload["timestamp"]))
    kind = payload["event_type"]
    # Other events may have the field, too, with anything in it: then it is the gateway's own, not
    # the name of a counter.
    return ("event", kind, payload["delivery_status"] if kind == "delivery_report" else "")
