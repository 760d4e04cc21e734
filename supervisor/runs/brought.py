"""Messages that this server accepted and another may run, whose outcome is not known here yet. The
server that runs one reports it; a report that is lost is read from the store.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Protocol, TypeVar

import msgspec
import trio
from attrs import define, field, frozen

from resources.stores.entries import Entry
from resources.stores.journal import Journal, KeptOutcome

from ..outcomes import Outcome
from .jobs import Ended, Job, Key, Then, nothing

LOOK_SECONDS = 2.0  # between two looks at what others should have run
LATE_SECONDS = 5.0  # after which it is looked at
LOOKED_AT = 500  # entries
EARLY_MAX = 10_000  # ends that are known before we know what ended
EXPECTED_MAX = 10_000  # entries of others, of which only the id is kept

T = TypeVar("T")


class Line(Protocol):
    """The dispatcher, as seen from here."""

    def is_known(self, key: Key) -> bool:
        """Whether an entry waits or is in progress."""

    def tell_of(self, job: Job, ended: Ended) -> None:
        """Announce how a job ended."""


@frozen
class _One:
    """An entry that we accepted."""

    entry: Entry
    then: Then
    since: float


@define(eq=False)
class Brought:
    """The entries that we accepted; `look` is repeated in the background."""

    _journal: Journal
    _line: Line
    _all: dict[Key, _One] = field(factory=dict, init=False)
    _by_app: Counter[str] = field(factory=Counter, init=False)
    # Ends of what we are about to learn that we accepted it.
    _early: dict[Key, KeptOutcome | None] = field(factory=dict, init=False)
    # What others accepted, and was sent again to us.
    _expected: dict[Key, Entry] = field(factory=dict, init=False)
    _ended: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _doubt: trio.Event = field(factory=trio.Event, init=False)

    def waiting(self, app: str) -> int:
        """How many entries of an app have not ended."""
        return self._by_app[app]

    def add(self, key: Key, entry: Entry, then: Then) -> None:
        """We have accepted an entry."""
        self._expected.pop(key, None)
        self._all[key] = _One(entry, then, trio.current_time())
        self._by_app[entry.app] += 1
        if key in self._early:
            self.heard_end(key, self._early.pop(key))

    def expect(self, key: Key, entry: Entry) -> bool:
        """Announce the end of an entry here, too; return False if too many are expected."""
        if key not in self._all and key not in self._expected:
            if len(self._expected) == EXPECTED_MAX:
                return False
            name = "message_id" if entry.kind == "message" else "event_id"
            self._expected[key] = msgspec.structs.replace(entry, payload={name: entry.id})
        return True

    def heard_end(self, key: Key, told: KeptOutcome | None) -> None:
        """An entry has ended on another server."""
        one = self._pop(key)
        if one is None:
            self._note_early(key, told)
            return
        self._line.tell_of(Job(one.entry, key[2], one.then), _ended(one.entry, told))

    def take(self, key: Key, *, ours: bool) -> Then:
        """An entry has ended here; return what is to be called. `ours`: we accepted it."""
        self._expected.pop(key, None)
        one = self._pop(key)
        if one is not None:
            return one.then
        if ours:
            self._note_early(key, None)
        return nothing

    def leave(self, app: str) -> None:
        """An app has left the config here: whoever waits for a run of it is told."""
        for key in [key for key in self._all if key[1] == app]:
            one = self._all[key]
            self._pop(key)
            ended = Ended(one.entry, Outcome.SHUTDOWN)
            self._line.tell_of(Job(one.entry, key[2], one.then), ended)

    async def all_ended(self) -> None:
        """Wait until everything has ended, wherever it is run."""
        while self._all:
            await self._ended.park()

    def look_soon(self) -> None:
        """We may not have been told of an end."""
        self._doubt.set()

    async def look(self) -> None:
        """Wait a while; then look in the store at what should have ended. Raises StoreError."""
        with trio.move_on_after(LOOK_SECONDS):
            await self._doubt.wait()
        late = trio.current_time() - (0 if self._doubt.is_set() else LATE_SECONDS)
        self._doubt = trio.Event()
        some = list(islice(self._expected.items(), LOOKED_AT))
        for key, one in islice(self._all.items(), LOOKED_AT):
            if one.since > late:
                break
            some.append((key, one.entry))
        ends = await self._journal.ends([(entry, key[2]) for key, entry in some])
        for (key, entry), (has_ended, told) in zip(some, ends, strict=True):
            if has_ended and not self._line.is_known(key):
                if self._expected.pop(key, None) is not None:
                    self._line.tell_of(Job(entry, key[2], nothing), _ended(entry, told))
                else:
                    self.heard_end(key, told)
            else:  # look at the others first, next time
                _to_the_end(self._all, key)
                _to_the_end(self._expected, key)

    def _pop(self, key: Key) -> _One | None:
        one = self._all.pop(key, None)
        if one is not None:
            self._by_app[key[1]] -= 1
            self._ended.unpark_all()
        return one

    def _note_early(self, key: Key, told: KeptOutcome | None) -> None:
        self._early[key] = told
        if len(self._early) > EARLY_MAX:
            del self._early[next(iter(self._early))]


def told_of(ended: Ended) -> KeptOutcome | None:
    """What the server that accepted an entry is told of its end."""
    outcome = ended.outcome
    return None if outcome is None else KeptOutcome(outcome.value, ended.ms, ended.commands)


def _ended(entry: Entry, told: KeptOutcome | None) -> Ended:
    """How an entry ended that another server ran; without an outcome if we have none of that
    name.
    """
    if told is None:
        return Ended(entry, None)
    try:
        return Ended(entry, Outcome(told.outcome), told.ms, told.commands)
    except ValueError:
        return Ended(entry, None)


def _to_the_end(entries: dict[Key, T], key: Key) -> None:
    if key in entries:
        entries[key] = entries.pop(key)
