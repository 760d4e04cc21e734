"""Dead letters: entries of the journal that are not run, because they cannot be read or were in
progress each time a supervisor died.

They are kept per account, up to a number and a size; a new one that has no room displaces the
oldest, and `put` returns what was dropped. The names of accounts with letters are stored, so that
letters of an account that left the config can be found.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
from attrs import field, frozen

from ..text import NAME
from .journal import Entry, KeptOutcome, Left, begun_key, seen_key, stream_key
from .keys import account_key
from .partitions import WHOLE, partition_of, split_place, whole_place
from .redis import Redis
from .resp import Command
from .scripts import Script, script

LETTERS_MAX = 10_000  # of an account
BYTES_MAX = 64 << 20  # of an account's letters together; the newest is kept whatever its size
PAGE = 500  # summaries read at a time
OUTCOME = msgspec.json.encode(KeptOutcome("dead_letter", 0.0, 0))  # kept with the id of its entry
ACCOUNTS = "jsbox:deadletters"  # the key of the accounts that have had any

_ID = re.compile(rf"([0-9]{{1,20}}-[0-9]{{1,20}})-({NAME.pattern})")


class Summary(msgspec.Struct, frozen=True):
    """What is known about a letter without its text.

    Attributes:
        kind: `message` or `event`; empty if it cannot be read. So are `channel` and `message_id`.
        message_id: Or the event_id.
        attempts: How often a supervisor died while it was in progress.
        reason: Why it was set aside.
        problem: Why it cannot be run again; empty if it can.
        place: Where it stood in the journal.
        size: Bytes of its text.
    """

    app: str
    channel: str
    kind: str
    message_id: str
    attempts: int
    reason: str
    problem: str
    place: str
    size: int


@frozen
class Letter:
    """A dead letter: its account, its place among the account's letters, and its summary."""

    account: str
    place: str
    summary: Summary

    @property
    def id(self) -> str:
        """Its id, safe in a URL."""
        return f"{self.place}-{self.account}"

    @property
    def time(self) -> str:
        """When it was set aside, UTC, ISO."""
        return _time(self.place)

    @property
    def accepted(self) -> str:
        """When it was accepted, UTC, ISO."""
        return _time(split_place(self.summary.place)[1])


def parse_id(text: str) -> tuple[str, str] | None:
    """The account and the place of the letter with an id; None if it is not an id."""
    found = _ID.fullmatch(text)
    if found is None or any(int(part) >= 1 << 64 for part in found[1].split("-")):
        return None
    return found[2], found[1]


def summary_of(left: Left, app: str, attempts: int, reason: str) -> Summary:
    """Summarise an entry that is set aside."""
    entry = left.entry
    return Summary(
        app=app,
        channel="" if entry is None else entry.channel,
        kind="" if entry is None else entry.kind,
        message_id="" if entry is None else _id_of(entry),
        attempts=attempts,
        reason=reason,
        problem=left.problem,
        place=left.place,
        size=len(left.raw),
    )


@frozen
class DeadLetters:
    """The dead letters of all accounts. Every coroutine may raise `redis.StoreError`."""

    redis: Redis
    partitions: int = 0  # of each journal
    _put: Script = field(factory=lambda: script("deadletter_put"), init=False)
    _take: Script = field(factory=lambda: script("deadletter_take"), init=False)

    async def put(
        self, account: str, left: Left, summary: Summary
    ) -> tuple[Letter, list[Summary]] | None:
        """Move an entry out of the journal, in one step.

        Returns the letter, and what was dropped to make room; None if the entry is no longer in the
        journal.
        """
        await self.redis.execute("SADD", ACCOUNTS, account)
        part, raw = split_place(left.place)
        stream = stream_key(account, summary.app, part)
        keys = [stream, begun_key(account, summary.app, part), *_keys(account)]
        if left.entry is not None and not left.problem:
            keys.append(seen_key(left.entry))
        text = msgspec.json.encode(summary)
        found = await self.redis.run(
            self._put, keys, raw, text, summary.app, left.raw, LETTERS_MAX, BYTES_MAX, OUTCOME
        )
        if not found:
            return None
        place, *dropped = found
        return Letter(account, place.decode(), summary), [_summary(one) for one in dropped]

    async def drop(self, letter: Letter) -> bool:
        """Drop a letter; return whether it existed."""
        return await self._take_out(letter, b"", WHOLE) is not None

    async def retry(self, letter: Letter, entry: Entry) -> str | None:
        """Move a letter's entry to the end of the journal, in one step; return its place there, or
        None if there was no such letter.
        """
        part = partition_of(entry, self.partitions)
        return await self._take_out(letter, msgspec.json.encode(entry), part, seen_key(entry))

    async def _take_out(self, letter: Letter, text: bytes, part: str, *seen: str) -> str | None:
        stream = stream_key(letter.account, letter.summary.app, part)
        keys = (*_keys(letter.account), stream, *seen)
        place: bytes | None = await self.redis.run(self._take, keys, letter.place, text)
        return None if place is None else whole_place(part, place.decode())

    async def find(self, account: str, place: str) -> tuple[Letter, bytes] | None:
        """A letter and its text."""
        letters, texts, _ = _keys(account)
        commands: list[Command] = [("XRANGE", letters, place, place), ("HGET", texts, place)]
        found, text = await self.redis.execute_many(commands)
        return (_letter(account, found[0]), text or b"") if found else None

    async def newest(
        self, accounts: Iterable[str], app: str | None, before: tuple[str, str] | None, limit: int
    ) -> list[Letter]:
        """At most `limit` letters of some accounts, of all apps or one, newest first; `before` is
        account and place of the last letter of the page before.
        """
        found = [
            letter
            for account in accounts
            for letter in await self._newest(account, app, before, limit)
        ]
        return sorted(found, key=lambda letter: _order(letter.account, letter.place), reverse=True)[
            :limit
        ]

    async def _newest(
        self, account: str, app: str | None, before: tuple[str, str] | None, limit: int
    ) -> list[Letter]:
        key, found = _keys(account)[0], list[Letter]()
        end = "+" if before is None else before[1]
        while len(found) < limit:
            page = await self.redis.execute("XREVRANGE", key, end, "-", "COUNT", PAGE)
            letters = [_letter(account, row) for row in page]
            found += [
                one
                for one in letters
                if (app is None or one.summary.app == app)
                and (before is None or _order(account, one.place) < _order(*before))
            ]
            if len(page) < PAGE:
                break
            end = f"({letters[-1].place}"
        return found[:limit]

    async def accounts(self) -> list[str]:
        """The accounts that have had letters."""
        return sorted(
            name.decode("utf-8", "replace")
            for name in await self.redis.execute("SMEMBERS", ACCOUNTS)
        )

    async def counts(self) -> Counter[tuple[str, str]]:
        """How many letters there are, by account and app."""
        accounts = await self.accounts()
        found = await self.redis.execute_many(
            [("HGETALL", _keys(account)[2]) for account in accounts]
        )
        return Counter(
            {
                (account, app.decode()): int(count)
                for account, pairs in zip(accounts, found, strict=True)
                for app, count in zip(pairs[::2], pairs[1::2], strict=True)
                if app
            }
        )


def _keys(account: str) -> tuple[str, str, str]:
    """The letters, their texts, and how many there are."""
    return (
        account_key(account, "dead"),
        account_key(account, "dead", "texts"),
        account_key(account, "dead", "counts"),
    )


def _letter(account: str, row: Any) -> Letter:
    place, fields = row
    return Letter(account, place.decode(), _summary(fields[1]))


def _summary(text: bytes) -> Summary:
    return msgspec.json.decode(text, type=Summary)


def _order(account: str, place: str) -> tuple[int, int, str]:
    moment, _, number = place.partition("-")
    return int(moment), int(number or 0), account


def _time(place: str) -> str:
    try:
        moment = datetime.fromtimestamp(int(place.partition("-")[0]) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return ""  # places are made by the store's clock, or by hand
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _id_of(entry: Entry) -> str:
    try:
        return entry.id
    except KeyError:
        return ""
