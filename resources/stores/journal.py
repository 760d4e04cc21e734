"""The journals of inbound messages and events: each is in its app's journal from before the gateway
says `accepted` until its run has ended.

There is one Redis stream per app; several if servers share the work (partitions.py). Entries that
a killed supervisor leaves are run again by the next. A hash beside it counts how often the run of
each entry began: entries that still have a count at start-up were in progress when a supervisor
died.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from functools import lru_cache
from typing import Any, cast

import msgspec
import trio
from attrs import field, frozen

from .entries import Entry, raw_of, read_entry
from .fencing import Fence
from .keys import account_key, prefix_of
from .partitions import WHOLE, Part, partition_of, split_place, whole_place
from .redis import Redis, StoreError, StoreRefused
from .resp import Command
from .room import OVERHEAD, Room
from .scripts import Script, script
from .statistics import second_of

__all__ = [
    "Accepted",
    "Entry",
    "Journal",
    "KeptOutcome",
    "Left",
    "begun_key",
    "outcome_of",
    "read_entry",
    "seen_key",
    "stream_key",
]

REMEMBERED = 24 * 3600  # seconds for which an id that was seen is a duplicate
PAGE = 100  # entries read at a time
KEYS_KNOWN = 4096  # apps whose keys are cached
BURST = 256 << 10  # bytes of entries that are decoded between two checkpoints


class KeptOutcome(msgspec.Struct, frozen=True, array_like=True):
    """How a run ended, as it is kept with the id of its entry, and as a server tells another."""

    outcome: str
    ms: float
    commands: int


@frozen
class Accepted:
    """The journal's answer: the entry's place, and whether its id had been seen before; if so, how
    its run ended, if it has and that is known.
    """

    place: str
    duplicate: bool
    outcome: KeptOutcome | None = None


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
    """The journals of all apps. Every method may raise `redis.StoreError`.

    Attributes:
        partitions: How many each journal has; 0: it is not shared.
        host: Who we are, if it is.
        process: Which process of the host.
    """

    redis: Redis
    room: Room = field(factory=Room)
    partitions: int = 0
    host: str = ""
    process: str = ""
    _accept: Script = field(factory=lambda: script("journal_accept"), init=False)
    _end: Script = field(factory=lambda: script("journal_end"), init=False)

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
        commands, parts, size = list[Command](), list[str](), 0
        for entry in entries:
            part = partition_of(entry, self.partitions)
            text = msgspec.json.encode(entry)
            size += len(text) + OVERHEAD
            keys: tuple[str, ...] = (seen_key(entry), stream_key(entry.account, entry.app, part))
            counts = (prefix_of(entry.account), entry.app, *_counts(entry))
            bell: tuple[Any, ...] = ()
            if part:
                keys = (*keys, account_key(entry.account, "owner", entry.app, part))
                bell = (self.host, msgspec.json.encode(("in", entry.account, entry.app, part)))
            parts.append(part)
            commands.append(self._accept.call(keys, REMEMBERED, text, *counts, *bell))
        refused = self.room.refusal(size)
        if refused is not None:
            return [refused] * len(entries)
        answers = await self.redis.attempt(commands, is_replicated=True)
        return [
            answer if isinstance(answer, StoreRefused) else _accepted(part, answer)
            for part, answer in zip(parts, answers, strict=True)
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
        await self.finish_all([(entry, place, None)])

    async def finish_all(self, ended: Sequence[tuple[Entry, str, KeptOutcome | None]]) -> None:
        """Remove the entries at these places, whose runs have ended, and keep their outcomes with
        their ids, if the store has room for that.
        """
        strikes = [command for entry, place, _ in ended for command in _struck(entry, place)]
        keeps = [_kept(entry, place, told) for entry, place, told in ended if told is not None]
        answers = await self.redis.attempt([*strikes, *keeps])
        for answer in answers[: len(strikes)]:
            if isinstance(answer, StoreError):
                raise answer

    def finish_soon(
        self,
        entry: Entry,
        place: str,
        failed: Callable[[Exception], None],
        outcome: KeptOutcome | None = None,
    ) -> bool:
        """As `finish_all`, ahead of all later commands, without waiting; return whether it could be
        queued.
        """
        commands = _struck(entry, place)
        if outcome is not None:
            commands.append(_kept(entry, place, outcome))
        return self.redis.post(commands, failed)

    async def end(
        self, entry: Entry, place: str, fence: Fence, outcome: KeptOutcome | None, tell: str
    ) -> bool:
        """Strike an entry of a shared journal whose run has ended, and keep its outcome with its
        id, in one step; `tell` a host of it (if not empty). Return whether nobody listened there.

        Raises:
            Fenced: Another server owns the partition: the run did not count.
            StoreError: It may have been done; repeating the call does no harm.
        """
        part, raw = split_place(place)
        keys = (
            stream_key(entry.account, entry.app, part),
            begun_key(entry.account, entry.app, part),
            seen_key(entry),
        )
        text = b"" if outcome is None else msgspec.json.encode(outcome)
        args = (raw, text, tell, told_end(entry, place, outcome))
        call = self._end.call_fenced(keys, args, fence.key, fence.owner)
        return bool(await self.redis.execute(*call) == 0)

    async def ends(
        self, entries: Sequence[tuple[Entry, str]]
    ) -> list[tuple[bool, KeptOutcome | None]]:
        """Look whether entries at these places have ended, and how, as far as that is known; of
        what the store refuses, it is not.
        """
        commands = list[Command]()
        for entry, place in entries:
            part, raw = split_place(place)
            stream = stream_key(entry.account, entry.app, part)
            commands += [("GET", seen_key(entry)), ("XRANGE", stream, raw, raw)]
        found = await self.redis.attempt(commands) if commands else []
        return [
            (False, None)
            if isinstance(there, StoreError) or isinstance(seen, StoreError)
            else (not there, _outcome((seen or b"").partition(b" ")[2]))
            for seen, there in zip(found[::2], found[1::2], strict=True)
        ]

    @property
    def connection(self) -> int:
        """A number that is greater after each new connection to the store, which may be another
        store then: one that lacks the newest of what the last had.
        """
        return self.redis.connection

    @property
    def me(self) -> str:
        """Our host and process; empty if it is not shared."""
        return f"{self.host} {self.process}" if self.host else ""

    async def begun(self, account: str, app: str, part: str = WHOLE) -> dict[str, int]:
        """How many runs of the entry at each place began and did not end; places without any are
        left out.
        """
        return _counted(part, await self.redis.execute("HGETALL", begun_key(account, app, part)))

    async def forget_begun(
        self, account: str, app: str, places: Sequence[str], part: str = WHOLE
    ) -> None:
        """Remove the counts of entries that no longer exist."""
        raw = [split_place(place)[1] for place in places]
        await self.redis.execute("HDEL", begun_key(account, app, part), *raw)

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

    async def pages(
        self, wanted: Sequence[tuple[Part, str, bool]]
    ) -> list[tuple[list[Left], bool, dict[str, int]]]:
        """One page of each partition: its entries after a place ("": from the first), whether there
        may be more, and, if that is asked for, how often the run of each of all its entries began.
        """
        commands = list[Command]()
        for part, after, _ in wanted:
            start = f"({split_place(after)[1]}" if after else "-"
            stream = stream_key(part.account, part.app, part.name)
            commands.append(("XRANGE", stream, start, "+", "COUNT", PAGE))
        asked = [part for part, _, is_counted in wanted if is_counted]
        commands += [("HGETALL", begun_key(one.account, one.app, one.name)) for one in asked]
        found = await self.redis.execute_many(commands)
        counts = {
            part: _counted(part.name, flat)
            for part, flat in zip(asked, found[len(wanted) :], strict=True)
        }
        pages = list[tuple[list[Left], bool, dict[str, int]]]()
        for (part, _, _), page in zip(wanted, found, strict=False):
            left = list[Left]()
            for place, fields in page:
                raw = raw_of(fields)
                entry, problem = read_entry(raw, part.account, part.app)
                left.append(Left(whole_place(part.name, place.decode()), raw, entry, problem))
            pages.append((left, len(page) == PAGE, counts.get(part, {})))
            await trio.lowlevel.checkpoint()
        return pages

    async def unfinished(self, account: str, app: str) -> AsyncIterator[tuple[str, Entry]]:
        """All readable entries of an app's journal, oldest first, with their places."""
        async with aclosing(self.left(account, app)) as found:
            async for one in found:
                if one.entry is not None:
                    yield one.place, one.entry


@lru_cache(KEYS_KNOWN)
def stream_key(account: str, app: str, part: str = WHOLE) -> str:
    """The key of an app's journal, or of a partition of it."""
    return account_key(account, "in", app, *((part,) if part else ()))


@lru_cache(KEYS_KNOWN)
def begun_key(account: str, app: str, part: str = WHOLE) -> str:
    """The key of the counts of begun runs."""
    return account_key(account, "begun", app, *((part,) if part else ()))


def told_end(entry: Entry, place: str, outcome: KeptOutcome | None) -> bytes:
    """What the host that took an entry in is told when its run has ended."""
    return msgspec.json.encode(("ended", entry.account, entry.app, place, outcome))


def seen_key(entry: Entry) -> str:
    """The key of what its id became: its place, and its outcome."""
    return account_key(entry.account, "seen", entry.channel, entry.kind, entry.id)


def _accepted(part: str, answer: Sequence[Any]) -> Accepted:
    """Read an answer of journal_accept.lua."""
    place, is_duplicate, *outcome = answer
    place = whole_place(part, place.decode("utf-8", "replace"))
    return Accepted(place, bool(is_duplicate), _outcome(outcome[0]) if outcome else None)


def _outcome(text: bytes) -> KeptOutcome | None:
    """Read an outcome that is kept with an id."""
    try:
        return msgspec.json.decode(text, type=KeptOutcome) if text else None
    except (ValueError, RecursionError):
        return None


def outcome_of(told: Any) -> KeptOutcome | None:
    """Read an outcome as another server tells it; None if it is none."""
    try:
        return msgspec.convert(told, KeptOutcome)
    except msgspec.ValidationError:
        return None


def _kept(entry: Entry, place: str, outcome: KeptOutcome) -> Command:
    """Keep an outcome with the id of its entry, for as long as that is remembered."""
    text = b"%b %b" % (place.encode(), msgspec.json.encode(outcome))
    return ("SET", seen_key(entry), text, "XX", "KEEPTTL")


def _counted(part: str, flat: Sequence[bytes]) -> dict[str, int]:
    return {
        whole_place(part, place.decode("utf-8", "replace")): _number(count)
        for place, count in zip(flat[::2], flat[1::2], strict=True)
    }


def _struck(entry: Entry, place: str) -> list[Command]:
    part, raw = split_place(place)
    stream = stream_key(entry.account, entry.app, part)
    return [("XDEL", stream, raw), ("HDEL", begun_key(entry.account, entry.app, part), raw)]


def _begun(entry: Entry, place: str, by: int) -> Command:
    part, raw = split_place(place)
    return ("HINCRBY", begun_key(entry.account, entry.app, part), raw, by)


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
