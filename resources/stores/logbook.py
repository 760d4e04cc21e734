"""The apps' logs: the newest entries of each app in Redis, and a live tail that reports how many
entries a slow reader missed.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import msgspec
import trio
from attrs import define, field, frozen

from ..text import clean
from .keys import account_key
from .redis import Redis
from .resp import Command
from .room import Room

ENTRY_MAX = 16 << 10  # characters of one message; the rest is replaced by a note
FOLLOWER_MAX = 1000  # entries that wait for a slow follower; further ones are only counted
FOLLOWER_SIZE = 4 << 20  # characters of them; likewise
TRIM_EVERY = 32  # entries between two trims of an app's list

log = logging.getLogger(__name__)

LEVELS = {
    level: logging.getLevelName(level)
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
}


class LogEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of an app's log: UTC ISO time with its Z, name of the level, message; and the
    server that wrote it, if several share the work.
    """

    time: str
    level: str
    message: str
    host: str = ""


@define(eq=False)
class Follower:
    """One reader of a live log; iterate over it. An entry of level MISSED counts those that a slow
    reader lost.
    """

    _entries: deque[LogEntry] = field(factory=deque, init=False)
    _size: int = field(default=0, init=False)
    _missed: int = field(default=0, init=False)
    _bell: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)

    def put_nowait(self, entry: LogEntry) -> None:
        """Hand over an entry; never waits for the reader."""
        if len(self._entries) >= FOLLOWER_MAX or self._size >= FOLLOWER_SIZE:
            self._missed += 1
        else:
            self._entries.append(entry)
            self._size += len(entry.message)
        self._bell.unpark()

    async def __aiter__(self) -> AsyncIterator[LogEntry]:
        while True:
            while self._entries:
                entry = self._entries.popleft()
                self._size -= len(entry.message)
                yield entry
            if self._missed:
                count, self._missed = self._missed, 0
                yield missed(f"{count} entries came faster than they were read")
            if not self._entries:
                await self._bell.park()


@frozen
class _Book:
    key: str
    followers: list[Follower] = field(factory=list)


@frozen
class Pen:
    """Writes to the log of one app."""

    logbook: Logbook
    account: str
    app: str
    kept: int

    async def __call__(self, level: int, message: str) -> None:
        """See `Logbook.write`."""
        await self.logbook.write(self.account, self.app, level, message, self.kept)

    def soon(self, level: int, message: str) -> bool:
        """See `Logbook.write_soon`."""
        return self.logbook.write_soon(self.account, self.app, level, message, self.kept)


@frozen
class Logbook:
    """The logs of all apps. Each of `listeners` is called with the account, the app and each new
    entry of this server; it must not wait and must not raise. `host`: the name of this server, if
    several share the work.
    """

    redis: Redis
    room: Room = field(factory=Room)
    host: str = ""
    # entries since the start, by app and level
    counts: Counter[tuple[str, str]] = field(factory=Counter, init=False)
    listeners: list[Callable[[str, str, LogEntry], None]] = field(factory=list, init=False)
    _books: dict[tuple[str, str], _Book] = field(factory=dict, init=False)
    _since_trim: dict[str, int] = field(factory=dict, init=False)

    async def write(self, account: str, app: str, level: int, message: str, kept: int) -> None:
        """Add an entry; `level` is one of `LEVELS`, or any other integer. Raises StoreError."""
        self.room.check(len(message), is_urgent=True)
        await self.redis.execute_many(self._entry(account, app, level, message, kept))

    def write_soon(self, account: str, app: str, level: int, message: str, kept: int) -> bool:
        """Add an entry without waiting until it is kept. Returns False, adding nothing, if the
        store is not at hand.
        """
        if not self.redis.is_at_hand or self.room.refusal(len(message), is_urgent=True) is not None:
            return False
        return self.redis.post(self._entry(account, app, level, message, kept), _not_kept)

    def _entry(self, account: str, app: str, level: int, message: str, kept: int) -> list[Command]:
        message = clean(message)
        if len(message) > ENTRY_MAX:
            message = f"{message[:ENTRY_MAX]}... [{len(message) - ENTRY_MAX} more characters]"
        entry = LogEntry(_now(), LEVELS.get(level, f"Level {level}"), message, self.host)
        self.counts[app, LEVELS.get(level, "other")] += 1
        book = self._book(account, app)
        for follower in book.followers:
            follower.put_nowait(entry)
        for listener in self.listeners:
            listener(account, app, entry)
        commands: list[Command] = [("LPUSH", book.key, msgspec.json.encode(entry))]
        pushed = self._since_trim.get(book.key, TRIM_EVERY) + 1
        if pushed > TRIM_EVERY:
            commands.append(("LTRIM", book.key, 0, kept - 1))
            pushed = 0
        self._since_trim[book.key] = pushed
        return commands

    async def newest(self, account: str, app: str, limit: int, start: int = 0) -> list[LogEntry]:
        """The newest entries, newest first, skipping the first `start`. Raises StoreError."""
        texts = await self.redis.execute(
            "LRANGE", self._book(account, app).key, start, start + limit - 1
        )
        return [self.read(text) for text in texts]

    @staticmethod
    def read(text: bytes) -> LogEntry:
        """Read an entry as it is stored, whatever it is."""
        return _read(text)

    def key(self, account: str, app: str) -> str:
        """The list of an app's entries, newest first."""
        return self._book(account, app).key

    @contextmanager
    def follow(self, account: str, app: str) -> Iterator[Follower]:
        """A live tail of what this server writes, from now on."""
        followers = self._book(account, app).followers
        follower = Follower()
        followers.append(follower)
        try:
            yield follower
        finally:
            followers.remove(follower)

    def _book(self, account: str, app: str) -> _Book:
        book = self._books.get((account, app))
        if book is None:
            book = self._books[account, app] = _Book(account_key(account, "log", app))
        return book


def _read(text: bytes) -> LogEntry:
    try:
        entry = msgspec.json.decode(text, type=LogEntry)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # somebody else has written it
        return LogEntry("", LEVELS[logging.ERROR], f"[this entry cannot be read: {error}]")
    if entry.time and not entry.time.endswith("Z"):  # an earlier version wrote it
        return msgspec.structs.replace(entry, time=f"{entry.time}Z")
    return entry


def missed(text: str) -> LogEntry:
    """What stands for entries that a reader has missed."""
    return LogEntry(_now(), "MISSED", text)


def _not_kept(error: Exception) -> None:
    log.warning("lines of an app's log may be lost: %s", error)


def _now() -> str:
    # half of what strftime takes
    return f"{datetime.now(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
