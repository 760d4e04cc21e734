"""Keeps the journals and the dispatcher's line in step: entries that are in no line are found,
those whose runs have ended are struck.

Both are tried, with pauses, until the store does them. An entry that cannot be run, or that was in
progress each of the last N times a supervisor died, is set aside as a dead letter, and never blocks
what comes after it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from contextlib import aclosing
from typing import Protocol

import trio
from attrs import define, field

from resources.fence import fence
from resources.stores.journal import Entry, Journal, KeptOutcome, Left
from resources.stores.redis import StoreError, Unavailable

from .dead_letters import DeadLetterBox
from .jobs import Ended, Job, Key, Program, nothing

RETRY = (0.25, 5.0)  # seconds between attempts: first, most
# seconds that a start waits for a journal that the store refuses to read; it is read later then
START_PATIENCE = 5.0
STRUCK_AT_ONCE = 200  # entries
REFUSED_MAX = 10  # entries that the store refuses to set aside, until a round tries no more

log = logging.getLogger(__name__)


class Line(Protocol):
    """The dispatcher, as seen by what is found in a journal."""

    programs: Mapping[str, Program]

    def is_known(self, key: Key) -> bool:
        """Whether an entry waits or is in progress."""

    def take_on(self, job: Job) -> None:
        """Put an entry in line."""

    def tell(self, ended: Ended) -> None:
        """Announce how an entry ended that was not run."""


@define(eq=False)
class Recovery:
    """Keeps the journals and the line in step. `run` does the work in the background; of the other
    methods only `start` waits.
    """

    _journal: Journal
    _box: DeadLetterBox
    _line: Line
    attempts: int = 3
    """How often a supervisor may die while an entry is in progress; then it is not run again."""
    # entries whose runs ended, and that could not be struck from the journal
    _owed: dict[Key, tuple[Entry, KeptOutcome | None]] = field(factory=dict, init=False)
    _due: set[str] = field(factory=set, init=False)  # apps whose journals are to be read
    _ended: set[Key] | None = field(default=None, init=False)  # since a journal is being read
    _uncounted: bool = field(default=True, init=False)  # the dead letters are to be counted
    _is_away: bool = field(default=False, init=False)  # the store
    _has_started: bool = field(default=False, init=False)
    _found: int = field(default=0, init=False)
    _work: trio.Event = field(factory=trio.Event, init=False)
    _lock: trio.Lock = field(factory=trio.Lock, init=False)

    def owe(self, job: Job, outcome: KeptOutcome | None) -> None:
        """Have an entry struck later: its run has ended, and it could not be struck."""
        self._owed[job.key] = job.entry, outcome
        self._work.set()

    def ended(self, job: Job) -> None:
        """Note that the run of an entry has ended, and that it is struck, or going to be."""
        if self._ended is not None:
            self._ended.add(job.key)

    def look_soon(self, apps: Collection[str]) -> None:
        """Have `run` look for entries of these apps that are in no line."""
        self._due.update(apps)
        if self._has_started:
            self._work.set()

    async def start(self) -> int:
        """Put in line what the journals have; return the number of entries. Waits until the store
        can be reached.
        """
        self._due.update(self._line.programs)
        self._uncounted = True
        latest, pause, found = trio.current_time() + START_PATIENCE, RETRY[0], self._found
        while not await self._settle():
            if not self._is_away and trio.current_time() > latest:
                log.error("what the journals hold is not all in line yet; it is tried again")
                break
            await trio.sleep(pause)
            pause = min(pause * 2, RETRY[1])
        self._has_started = True
        self._work.set()
        return self._found - found

    async def run(self) -> None:
        """Strike and look as asked for, until cancelled."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            pause, found = RETRY[0], self._found
            while not await self._settle():
                await trio.sleep(pause)
                pause = min(pause * 2, RETRY[1])
            if self._found > found:
                log.info(
                    "found %d entries in the journal that were not in line", self._found - found
                )

    async def _settle(self) -> bool:
        """Try everything that is to be done; return whether nothing is left."""
        async with self._lock:
            self._is_away = False
            with fence("recovery"):
                try:
                    await self._strike()
                    for name in sorted(self._due):
                        await self._look(name)
                    if self._uncounted:
                        await self._box.refresh()
                        self._uncounted = False
                except StoreError as error:
                    self._is_away = isinstance(error, Unavailable)
                    log.warning("the journals cannot be worked on: %s", error)
            return not (self._owed or self._due or self._uncounted)

    async def _strike(self) -> None:
        """Strike the entries whose runs have ended; keep those that the store refuses to strike."""
        by_app: dict[tuple[str, str], list[Key]] = {}
        for key in self._owed:
            by_app.setdefault(key[:2], []).append(key)
        for (_, app), keys in by_app.items():
            try:
                for start in range(0, len(keys), STRUCK_AT_ONCE):
                    some = keys[start : start + STRUCK_AT_ONCE]
                    owed = [(key[2], *self._owed[key]) for key in some]
                    await self._journal.finish_all(
                        [(entry, place, outcome) for place, entry, outcome in owed]
                    )
                    for key in some:
                        del self._owed[key]
            except Unavailable:
                raise
            except StoreError as error:
                log.warning(
                    "app %s: %d entries that have ended are still in its journal: %s",
                    app,
                    len(keys),
                    error,
                )

    async def _look(self, name: str) -> None:
        """Put in line what the journal of an app has and no line knows; the app stays due if that
        cannot be done.
        """
        self._due.discard(name)  # before: what makes it due meanwhile makes it due again
        program = self._line.programs.get(name)
        if program is None:
            return
        # A page of the journal is a moment old when it arrives: it still has the entries whose runs
        # have ended since it was asked for.
        self._ended = set()
        is_whole = False
        try:
            is_whole = await self._take_on_all(program, self._ended)
        except Unavailable:
            raise
        except StoreError as error:
            log.warning("app %s: its journal cannot be read: %s", name, error)
        finally:
            self._ended = None
            if not is_whole:
                self._due.add(name)

    async def _take_on_all(self, program: Program, ended: Collection[Key]) -> bool:
        app, refused, there = program.app, 0, set[str]()
        begun = await self._journal.begun(app.account, app.name)
        async with aclosing(self._journal.left(app.account, app.name)) as found:
            async for left in found:
                there.add(left.place)
                key = (app.account, app.name, left.place)
                if self._line.is_known(key) or key in ended or key in self._owed:
                    continue
                deaths = begun.get(left.place, 0)
                if left.entry is None or left.problem or deaths >= self.attempts:
                    if refused == REFUSED_MAX or not await self._set_aside(program, left, deaths):
                        refused = min(refused + 1, REFUSED_MAX)
                else:
                    self._found += 1
                    self._line.take_on(Job(left.entry, left.place, nothing, is_recovered=True))
        gone = [place for place in begun if place not in there]
        if gone:
            await self._journal.forget_begun(app.account, app.name, gone)
        return not refused

    async def _set_aside(self, program: Program, left: Left, deaths: int) -> bool:
        """Make a dead letter of an entry; returns False if the store refuses that at the moment."""
        try:
            ended = await self._box.set_aside(program, left, deaths)
        except Unavailable:
            raise
        except StoreError as error:
            log.warning(
                "app %s: entry %s cannot be set aside: %s", program.app.name, left.place, error
            )
            return False
        if ended is not None:
            self._line.tell(ended)
        return True
