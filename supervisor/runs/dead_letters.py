"""Dead letters: entries of the journals that must not be run again, and how an operator has one run
all the same.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from logging import ERROR
from typing import Protocol

import msgspec
import trio
from attrs import define, field

from resources.contract import Caller
from resources.messages import is_session_start
from resources.stores.deadletters import DeadLetters, Letter, Summary, summary_of
from resources.stores.journal import Entry, Left, read_entry
from resources.stores.logbook import Logbook, Pen
from resources.stores.redis import StoreError

from ..observe import Observer, Phases, ReplyMissing, RunEnded
from ..outcomes import Outcome
from .aftermath import Aftermath
from .jobs import Ended, Program

SHOWN_MAX = 1000  # characters of a reason

log = logging.getLogger(__name__)


class CannotRetry(Exception):
    """The letter cannot be run again, or not now; the text says why."""


class Line(Protocol):
    """The dispatcher, as seen by a letter that is to be run again."""

    programs: Mapping[str, Program]

    def has_room(self, app: str, more: int = 1) -> bool:
        """Whether another message may wait for this app."""

    def submit_again(self, entry: Entry, place: str) -> None:
        """Put an entry in line that is in the journal once more."""

    def settle_soon(self) -> None:
        """Look in the journals for entries that are in no line."""


@define(eq=False)
class DeadLetterBox:
    """The dead letters of all apps. Their number is known without asking the store."""

    store: DeadLetters
    _logbook: Logbook
    _aftermath: Aftermath
    _observe: Observer
    _counts: Counter[tuple[str, str]] = field(factory=Counter, init=False)

    def counts(self) -> dict[str, int]:
        """Return the number of letters of each app that has any; it need not be in the config."""
        found: Counter[str] = Counter()
        for (_, app), count in self._counts.items():
            found[app] += count
        return {app: count for app, count in sorted(found.items()) if count > 0}

    async def refresh(self) -> None:
        """Count the letters. Raises StoreError."""
        self._counts = await self.store.counts()

    async def set_aside(self, program: Program, left: Left, deaths: int) -> Ended | None:
        """Make a dead letter of an entry; its user gets the fallback reply. Return how it ended, or
        None if nobody can be waiting for that.

        Raises:
            StoreError: It is still in the journal, or may be; repeating the call does no harm.
        """
        app, entry = program.app, left.entry if not left.problem else None
        times = f"{deaths} time{'s' if deaths != 1 else ''}"
        reason = left.problem or f"it was in progress when the server died, {times}"
        summary = summary_of(left, app.name, deaths, reason[:SHOWN_MAX])
        waits, is_sent = False, False
        if entry is not None and entry.kind == "message" and is_session_start(entry.payload):
            waits = True
            is_sent = await self._aftermath.fall_back_for(
                app, self._caller(program, left.place, entry)
            )
        put = await self.store.put(app.account, left, summary)
        if put is None:
            return None  # it is a dead letter already
        letter, dropped = put
        self._counts[app.account, app.name] += 1
        what = f"{summary.kind or 'entry'} {summary.message_id or summary.place}"
        text = (
            f"[{Outcome.DEAD_LETTER}] {what} is not run: {summary.reason};"
            f" `jsbox deadletters show {letter.id}`"
        )
        log.error("app %s: %s", app.name, text)
        for one in dropped:
            self._dropped(app.account, one)
        await self._aftermath.say_for(app, ERROR, text)
        if entry is None:
            return None
        if waits:
            self._observe(ReplyMissing(app.name, fallback=is_sent))
        self._observe(RunEnded(app.name, entry.kind, Outcome.DEAD_LETTER, Phases()))
        return Ended(entry, Outcome.DEAD_LETTER)

    async def drop(self, letter: Letter) -> bool:
        """Delete a letter; return whether it was there. Raises StoreError."""
        was_there = await self.store.drop(letter)
        if was_there:
            self._one_less(letter)
            log.info(
                "dead letter %s of app %s was dropped by an operator", letter.id, letter.summary.app
            )
        return was_there

    async def retry(self, letter: Letter, raw: bytes, line: Line) -> str | None:
        """Have a letter run again, after all that waits; return its place in the journal, or None
        if the letter is gone.

        What it sent in earlier runs is not sent again, as long as the outboxes know of it.

        Raises:
            CannotRetry: The text says why.
            StoreError: It may be in the journal all the same; then it is run.
        """
        app = letter.summary.app
        entry, problem = read_entry(raw, letter.account, app)
        if entry is None or problem:
            raise CannotRetry(f"it cannot be run: {problem}")
        program = line.programs.get(app)
        if program is None or program.app.account != letter.account:
            raise CannotRetry(f"app {app} of account {letter.account} is not in the config")
        if not line.has_room(app):
            raise CannotRetry(
                f"{program.app.pool.queue} messages wait for app {app} already (pool.queue)"
            )
        if not entry.origin:
            entry = msgspec.structs.replace(entry, origin=letter.summary.place)
        # No longer than the store's patience: what gets into the journal must be run.
        with trio.CancelScope(shield=True):
            try:
                place = await self.store.retry(letter, entry)
            except StoreError:
                line.settle_soon()
                raise
            if place is not None:
                self._one_less(letter)
                line.submit_again(entry, place)
                log.info("dead letter %s of app %s is run again", letter.id, app)
        return place

    def _caller(self, program: Program, place: str, entry: Entry) -> Caller:
        app = program.app
        return Caller(
            run="",
            account=app.account,
            app=app.name,
            channel=entry.channel,
            message=entry.payload,
            settings=program.settings,
            log=Pen(self._logbook, app.account, app.name, app.log.kept),
            origin=entry.origin_at(place),
        )

    def _one_less(self, letter: Letter) -> None:
        self._counts[letter.account, letter.summary.app] -= 1

    def _dropped(self, account: str, one: Summary) -> None:
        self._counts[account, one.app] -= 1
        log.error(
            "account %s has too many dead letters: the one of %s %s of app %s is dropped (%s)",
            account, one.kind or "entry", one.message_id or one.place, one.app, one.reason,
        )  # fmt: skip
