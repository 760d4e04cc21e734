"""The indexes of all accounts: opened when asked for, closed when idle, and kept up with Redis in
the background.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue

from attrs import define, field, frozen

from ..groups import Group
from .changes import Changes, StoreGone
from .evaluate import matches
from .fields import Document
from .files import Files, Unusable
from .index import AccountIndex, Behind
from .key_table import NoKey
from .lucene import parse
from .nodes import Node, QueryError

FOLLOW_SECONDS = 5.0  # between two looks at how far all accounts have come
# changes; an account whose index is further behind catches up before anybody asks
FOLLOW_BEHIND = 1000
RETRY_SECONDS = 10.0  # after an index could not be built
PROGRESS_SECONDS = 2.0  # between two lines of the log about one index that catches up
CACHED_QUERY = 1000  # characters; the meaning of shorter queries is remembered
GROUP_FIELDS = ("query",)  # of a group, besides those that contacts have too

log = logging.getLogger(__name__)


class CannotBuild(Exception):
    """An index could not be built; the text says why."""


@frozen
class Page:
    """Some keys, as a JSON array. `last` is the number of the last contact of all pages; `more` are
    to come.
    """

    keys: bytes
    last: int
    more: bool


@define(eq=False)
class _Slot:
    """The index of an account while it is open."""

    index: AccountIndex | None = None
    users: int = 0
    used_at: float = 0.0
    opening: threading.Lock = field(factory=threading.Lock)


@define(eq=False)
class _Line:
    """Accounts that wait for something to be done, each once."""

    queue: SimpleQueue[str] = field(factory=SimpleQueue)
    waiting: set[str] = field(factory=set)


@define(eq=False)
class Engine:
    """All indexes below one folder. Any number of threads may ask; some more do what is to be done
    in the background (`keep_up`, `keep_flushed`).

    Attributes:
        open_max: Indexes that stay open; of more, those asked least recently are closed when nobody
            uses them.
        idle_close: Seconds until an index that nobody asks is closed.
    """

    root: Path
    changes: Changes
    open_max: int
    idle_close: float
    accounts: Sequence[str]
    _slots: OrderedDict[str, _Slot] = field(factory=OrderedDict, init=False)
    _behind: _Line = field(factory=_Line, init=False)
    _full: _Line = field(factory=_Line, init=False)
    _failures: dict[str, tuple[float, str]] = field(factory=dict, init=False)
    _followed_at: float = field(default=0.0, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    def find(
        self, account: str, query: str, after: int, limit: int | None, size: int
    ) -> Iterator[Page]:
        """The keys of the contacts that a query finds, the oldest first, in pages of so many; at
        least one.

        Raises:
            QueryError: The query makes no sense, or is too much.
            Behind: The index has to catch up first; it does so in the background.
            CannotBuild: It could not do so a moment ago.
            StoreGone: Redis does not answer.
        """
        node = meaning(query)
        with self._using(account) as index:
            view = index.refresh()
            numbers = view.find(node, after, limit)
            last = numbers[-1] if numbers else after
            for n, keys in enumerate(view.keys.arrays(numbers, size), 1):
                yield Page(keys, last, more=n * size < len(numbers))

    def count(self, account: str, query: str) -> int:
        """How many contacts a query finds. Raises as `find` does."""
        node = meaning(query)
        with self._using(account) as index:
            return index.refresh().count(node)

    def groups(self, account: str, query: str) -> list[Group]:
        """The groups that a query finds, by name. Raises QueryError and StoreGone."""
        node = meaning(query)
        return [
            group
            for group in self.changes.groups(account)
            if matches(node, Document(group, GROUP_FIELDS))
        ]

    def forget(self, account: str) -> None:
        """Throw the index of an account away."""
        with self._using(account) as index:
            index.forget()

    def tidy(self, account: str) -> None:
        """After a search: have what is new moved into the index, where there is enough of it."""
        slot = self._slots.get(account)
        if slot is not None and slot.index is not None and slot.index.wants_flush:
            self._put(self._full, account)

    @contextmanager
    def _using(self, account: str) -> Iterator[AccountIndex]:
        with self._lock:
            slot = self._slots.setdefault(account, _Slot())
            self._slots.move_to_end(account)
            slot.users += 1
        try:
            with slot.opening:
                if slot.index is None:
                    slot.index = AccountIndex.open(self.root, account, self.changes)
            yield slot.index
        except Behind:
            self._schedule(account)
            raise
        except NoKey as error:
            log.warning("account %s: its index is built anew: %s", account, error)
            assert slot.index is not None
            slot.index.forget()
            raise Behind(1) from error
        finally:
            with self._lock:
                slot.users -= 1
                slot.used_at = time.monotonic()
                if len(self._slots) > self.open_max:
                    self._close_one()

    def _close_one(self) -> None:
        idle = next((account for account, slot in self._slots.items() if not slot.users), None)
        if idle is not None:
            del self._slots[idle]

    def _schedule(self, account: str) -> None:
        """Have an account caught up with in the background. Raises CannotBuild."""
        reason = self._failure(account)
        if reason is not None:
            raise CannotBuild(f"the index cannot be built: {reason}")
        self._put(self._behind, account)

    def _failure(self, account: str) -> str | None:
        """Why the index of an account could not be written, a moment ago."""
        failed_at, reason = self._failures.get(account, (-RETRY_SECONDS, ""))
        return reason if time.monotonic() - failed_at < RETRY_SECONDS else None

    def _put(self, line: _Line, account: str) -> None:
        with self._lock:
            if account in line.waiting:
                return
            line.waiting.add(account)
        line.queue.put(account)

    def keep_up(self) -> None:
        """Catch up with what is behind, and look around; for ever. Several threads may do so."""
        while True:
            try:
                account = self._behind.queue.get(timeout=1.0)
            except Empty:
                self._look_around()
            else:
                self._work(self._behind, account, self._catch_up)

    def keep_flushed(self) -> None:
        """Move what is new into the indexes; for ever."""
        while True:
            self._work(self._full, self._full.queue.get(), self._flush)

    def _work(self, line: _Line, account: str, step: Callable[[AccountIndex], None]) -> None:
        try:
            with self._using(account) as index:
                step(index)
            self._failures.pop(account, None)
        except StoreGone as error:
            log.warning("account %s: its index cannot follow: %s", account, error)
        except (
            BaseException
            # panics of tantivy are BaseExceptions; whatever it is, the next account's turn comes
        ) as error:
            log.exception("account %s: its index cannot be written", account)
            self._failures[account] = (time.monotonic(), str(error))
        finally:
            with self._lock:
                line.waiting.discard(account)

    def _flush(self, index: AccountIndex) -> None:
        if index.wants_flush:
            index.flush()

    def _catch_up(self, index: AccountIndex) -> None:
        began = told = time.monotonic()

        def progress(done: int, left: int) -> None:
            nonlocal told
            now = time.monotonic()
            if now - told >= PROGRESS_SECONDS:
                told = now
                rate = done / (now - began)
                log.info(
                    "account %s: %d contacts are in the index, %d to go (%.0f/s)",
                    index.account,
                    done,
                    left,
                    rate,
                )

        if index.left:
            index.catch_up(progress)
            log.info(
                "account %s: the index is up to date after %.1f s",
                index.account,
                time.monotonic() - began,
            )

    def _look_around(self) -> None:
        """Close what nobody asks, and see which accounts are far behind."""
        now = time.monotonic()
        with self._lock:
            if now - self._followed_at < FOLLOW_SECONDS:
                return
            self._followed_at = now
            idle = [(account, slot) for account, slot in self._slots.items() if not slot.users]
            for account, slot in idle:
                if now - slot.used_at > self.idle_close:
                    del self._slots[account]
        try:
            self._follow()
        except StoreGone as error:
            log.warning("the indexes cannot follow: %s", error)
        except Exception:
            log.exception("the indexes cannot follow")

    def _follow(self) -> None:
        accounts = list(self.accounts)
        for account, newest in zip(accounts, self.changes.newest(accounts), strict=True):
            is_far = newest > FOLLOW_BEHIND and newest - self._applied(account) > FOLLOW_BEHIND
            if is_far and self._failure(account) is None:
                with self._using(account) as index:
                    index.fall_behind()
                self._put(self._behind, account)

    def _applied(self, account: str) -> int:
        slot = self._slots.get(account)
        if slot is not None and slot.index is not None:
            return slot.index.applied
        try:
            return Files.of(self.root, account).state().applied
        except Unusable:
            return 0


def meaning(query: str) -> Node:
    """The meaning of a query; that of a short one is remembered. Raises QueryError."""
    return _remembered(query) if len(query) <= CACHED_QUERY else parse(query)


@lru_cache(2048)
def _remembered(query: str) -> Node:
    return parse(query)


__all__ = ["Behind", "CannotBuild", "Engine", "QueryError", "StoreGone"]
