"""The journal of what came in: a message or event is in it from before the gateway says `accepted` until its run has ended.

One Redis stream per app. What a killed supervisor leaves in it is run again by the next one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal, cast

import msgspec
from attrs import field, frozen

from .direct import Command
from .keys import account_key
from .redis import Redis, StoreRefused
from .scripts import Script, script
from .statistics import prefix_of, second_of

REMEMBERED = 24 * 3600  # seconds for which an id that was seen is a duplicate
PAGE = 500  # entries read at a time


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came in: a message or an event (as Vumi's JSON objects), on a channel, for an app of an account."""

    kind: Literal["message", "event"]
    account: str
    app: str
    channel: str
    payload: dict[str, Any]
    counted: bool = False  # whether the message statistics know it

    @property
    def id(self) -> str:
        """The message_id or event_id."""
        name = "message_id" if self.kind == "message" else "event_id"
        return str(self.payload[name])


@frozen
class Accepted:
    """The answer of the journal: the entry's place in it, and whether its id had been seen before."""

    place: str
    duplicate: bool


@frozen
class Journal:
    """The journals of all apps. Every method may raise `redis.StoreError`."""

    redis: Redis
    _accept: Script = field(factory=lambda: script("journal_accept"), init=False)

    async def accept(self, entries: Sequence[Entry]) -> list[Accepted]:
        """Write entries and count them, in order, each unless its id was seen in the last 24 hours on its channel.

        The first refusal is raised when all were tried.
        """
        answers = await self.attempt(entries)
        for answer in answers:
            if isinstance(answer, StoreRefused):
                raise answer
        return cast("list[Accepted]", answers)

    async def attempt(self, entries: Sequence[Entry]) -> list[Accepted | StoreRefused]:
        """As `accept`, with the store's refusal of an entry as the answer to that entry."""
        commands: list[Command] = []
        for entry in entries:
            seen = account_key(entry.account, "seen", entry.channel, entry.kind, entry.id)
            stream = account_key(entry.account, "in", entry.app)
            text = msgspec.json.encode(entry)
            counts = (prefix_of(entry.account), entry.app, *_counts(entry))
            commands.append(self._accept.call((seen, stream), REMEMBERED, text, *counts))
        answers = await self.redis.attempt(commands)
        return [
            answer if isinstance(answer, StoreRefused) else Accepted(answer[0].decode(), bool(answer[1]))
            for answer in answers
        ]

    async def finish(self, entry: Entry, place: str) -> None:
        """The run has ended: the entry is not needed any more."""
        await self.redis.execute("XDEL", account_key(entry.account, "in", entry.app), place)

    def finish_soon(self, entry: Entry, place: str, failed: Callable[[Exception], None]) -> bool:
        """As `finish`, before anything that is asked of the store later, but not waited for; whether that can be had."""
        return self.redis.post([("XDEL", account_key(entry.account, "in", entry.app), place)], failed)

    async def unfinished(self, account: str, app: str) -> AsyncIterator[tuple[str, Entry]]:
        """Every entry still in an app's journal, oldest first, with its place."""
        start = "-"
        while True:
            page = await self.redis.execute("XRANGE", account_key(account, "in", app), start, "+", "COUNT", PAGE)
            for place, fields in page:
                yield place.decode(), msgspec.json.decode(fields[1], type=Entry)
            if len(page) < PAGE:
                return
            start = "(" + page[-1][0].decode()


def _counts(entry: Entry) -> tuple[Any, ...]:
    """What is to be counted of an entry, as journal_accept.lua has it."""
    payload = entry.payload
    if not entry.counted:
        return ("", "", "")
    if entry.kind == "message":
        return ("message", payload["from_addr"] or "", second_of(payload["timestamp"]))
    kind = payload["event_type"]
    # Other events may have the field too, with anything in it: it is the gateway's own then, and no name of a counter.
    return ("event", kind, payload["delivery_status"] if kind == "delivery_report" else "")
