"""The indexes of all accounts: opened when queried, closed when idle, and updated from Redis in
the background.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue

from attrs import define, field, frozen

from ..groups import Found, Group, GroupsTooLarge
from .budget import Budget
from .changes import Changes, StoreGone
from .dialogue import ANSWER_MAX, News
from .evaluate import matches
from .fields import Document
from .files import Files, Unusable
from .index import AccountIndex, Behind
from .key_table import NoKey
from .lucene import parse
from .nodes import Node, QueryError

FOLLOW_SECONDS = 5.0  # between two checks of how far behind the accounts are
# changes; an index that is further behind catches up before anybody asks
FOLLOW_BEHIND = 1000
RENEW_SECONDS = 600.0  # in which an index that looks whole is built anew once if the engine fails
RETRY_SECONDS = 10.0  # after an index could not be built
PROGRESS_SECONDS = 2.0  # between two log lines about one index that catches up
CACHED_QUERY = 1000  # characters; shorter queries are cached parsed
GROUP_FIELDS = ("query",)  # of a group, besides those that contacts also have

log = logging.getLogger(__name__)


class CannotBuild(Exception):
    """An index could not be built; the text says why."""


@frozen
class Page:
    """Some keys, as a JSON array. `last` is the number of the last contact of all pages; `more`:
    whether pages follow.
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
    """A queue of accounts, each in it at most once."""

    queue: SimpleQueue[str] = field(factory=SimpleQueue)
    waiting: set[str] = field(factory=set)


@define(eq=False)
class Engine:
    """All indexes below one folder. Any number of threads may query; others do the background work
    (`keep_up`, `keep_flushed`).

    Attributes:
        open_max: Indexes that stay open; beyond it, those least recently queried are closed once
            unused.
        idle_close: Seconds until an index without queries is closed.
        on_trouble: Called with an account whose index cannot be built, and the reason; with an
            empty one when it can again.
    """

    root: Path
    changes: Changes
    open_max: int
    idle_close: float
    accounts: Sequence[str]
    on_trouble: Callable[[str, str], None] = lambda account, reason: None  # noqa: ARG005
    _renewed: dict[str, float] = field(factory=dict, init=False)
    _slots: OrderedDict[str, _Slot] = field(factory=OrderedDict, init=False)
    _behind: _Line = field(factory=_Line, init=False)
    _full: _Line = field(factory=_Line, init=False)
    _failures: dict[str, tuple[float, str]] = field(factory=dict, init=False)
    _followed_at: float = field(default=0.0, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    def find(
        self,
        account: str,
        query: str,
        after: int,
        limit: int | None,
        size: int,
        news: News = "some",
    ) -> Iterator[Page]:
        """The keys of the contacts that a query finds, oldest first, in pages; at least one page.

        Raises:
            QueryError: The query is not valid, asks too much, or finds too much for one answer.
            Behind: The index has to catch up first, which it does in the background.
            CannotBuild: Building the index failed a moment ago.
            StoreGone: Redis does not answer.
        """
        node = meaning(query)
        with self._searching(account) as index:
            table, numbers = index.read(
                news, lambda view: (view.keys, view.find(node, after, limit))
            )
            last, left = numbers[-1] if numbers else after, ANSWER_MAX
            for n, keys in enumerate(table.arrays(numbers, size), 1):
                left -= len(keys)
                if left < 0:
                    raise QueryError(
                        None,
                        f"the keys of the {len(numbers)} contacts that it finds have more than"
                        f" {ANSWER_MAX} bytes",
                    )
                yield Page(keys, last, more=n * size < len(numbers))

    def count(self, account: str, query: str, news: News = "some") -> int:
        """How many contacts a query finds. Raises as `find` does."""
        node = meaning(query)
        with self._searching(account) as index:
            return index.read(news, lambda view: view.count(node))

    def groups(self, account: str, query: str) -> list[Group]:
        """The groups that a query finds, by name. Raises QueryError and StoreGone."""
        node, budget, found = meaning(query), Budget(), Found()
        for page in self.changes.groups(account):
            try:
                found.add(
                    group for group in page if matches(node, Document(group, GROUP_FIELDS), budget)
                )
            except GroupsTooLarge as error:
                raise QueryError(None, str(error)) from error
        return found.in_order()

    def inspect(self, account: str) -> str:
        """Read an account's files after something that they may have caused. If something is wrong
        with them the index is deleted, and built anew at the next search.

        Returns: What was wrong; empty if they are whole.
        """
        with self._using(account) as index:
            damage = index.files.damage() if index.is_on_disk else ""
            if damage:
                self._begin_anew(index, damage)
            return damage

    def tidy(self, account: str) -> None:
        """After a search: have new contacts moved into the index if there are enough."""
        slot = self._slots.get(account)
        if slot is not None and slot.index is not None and slot.index.wants_flush:
            self._put(self._full, account)

    @contextmanager
    def _searching(self, account: str) -> Iterator[AccountIndex]:
        """The index of an account for a search. If the engine fails the index is built anew, once;
        raises Behind then.
        """
        with self._using(account) as index:
            try:
                yield index
            except Behind:
                self._schedule(account)
                raise
            except (QueryError, StoreGone, GeneratorExit):
                raise
            except BaseException as error:  # panics of tantivy, too
                if not self._is_suspect(index, error):
                    raise
                self._begin_anew(index, f"{type(error).__name__}: {error}")
                self._schedule(account)
                raise Behind(1) from error

    def _is_suspect(self, index: AccountIndex, error: BaseException) -> bool:
        """Whether an index may be the cause of an error: it is damaged, or looks whole and was not
        built anew for such a reason lately.
        """
        now = time.monotonic()
        if isinstance(error, NoKey) or (index.is_on_disk and index.files.damage()):
            return True
        before = self._renewed.get(index.account, -RENEW_SECONDS)
        if not index.is_on_disk or now - before < RENEW_SECONDS:
            return False
        self._renewed[index.account] = now
        return True

    def _begin_anew(self, index: AccountIndex, reason: str) -> None:
        log.warning("account %s: its index is built anew: %s", index.account, reason)
        index.forget()
        index.fall_behind()

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
        """Have an index catch up in the background. Raises CannotBuild."""
        reason = self._failure(account)
        if reason is not None:
            raise CannotBuild(f"the index cannot be built: {reason}")
        self._put(self._behind, account)

    def _failure(self, account: str) -> str | None:
        """Why the index of an account could not be written a moment ago."""
        failed_at, reason = self._failures.get(account, (-RETRY_SECONDS, ""))
        return reason if time.monotonic() - failed_at < RETRY_SECONDS else None

    def _put(self, line: _Line, account: str) -> None:
        with self._lock:
            if account in line.waiting:
                return
            line.waiting.add(account)
        line.queue.put(account)

    def keep_up(self) -> None:
        """Let indexes catch up, and check for idle ones; for ever. Several threads may run it."""
        while True:
            try:
                self.work_behind(timeout=1.0)
            except Empty:
                self._look_around()

    def keep_flushed(self) -> None:
        """Move new contacts into the indexes; for ever."""
        while True:
            self.work_full(timeout=None)

    def work_behind(self, timeout: float | None = 0.0) -> None:
        """Let the next index catch up. Raises Empty if there is none within a time in seconds."""
        account = self._behind.queue.get(timeout=timeout)
        self._work(self._behind, account, self._catch_up)

    def work_full(self, timeout: float | None = 0.0) -> None:
        """Move new contacts into the next index. Raises as `work_behind` does."""
        self._work(self._full, self._full.queue.get(timeout=timeout), self._flush)

    def _work(self, line: _Line, account: str, step: Callable[[AccountIndex], None]) -> None:
        try:
            with self._using(account) as index:
                try:
                    step(index)
                except StoreGone:
                    raise
                except BaseException as error:  # panics of tantivy, too
                    if _is_for_want_of_room(error):  # what there is can still be searched
                        raise
                    self._begin_anew(index, f"it cannot be written: {error}")
                    self._catch_up(index)
            if self._failures.pop(account, None) is not None:
                self.on_trouble(account, "")
        except StoreGone as error:
            log.warning("account %s: its index cannot follow: %s", account, error)
        except BaseException as error:  # whatever it is, the next account follows
            log.exception("account %s: its index cannot be written", account)
            self._failures[account] = (time.monotonic(), str(error))
            self.on_trouble(account, str(error))
        finally:
            with self._lock:
                line.waiting.discard(account)

    def _flush(self, index: AccountIndex) -> None:
        if index.wants_flush:
            index.flush()

    def _catch_up(self, index: AccountIndex) -> None:
        began = reported = time.monotonic()

        def progress(done: int, left: int) -> None:
            nonlocal reported
            now = time.monotonic()
            if now - reported >= PROGRESS_SECONDS:
                reported = now
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
        """Close idle indexes, and find accounts that are far behind."""
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


def _is_for_want_of_room(error: BaseException) -> bool:
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return (isinstance(error, OSError) and error.errno in full) or any(
        os.strerror(number) in str(error)
        for number in full  # tantivy has only texts
    )


def meaning(query: str) -> Node:
    """Parse a query; short ones are cached. Raises QueryError."""
    return _remembered(query) if len(query) <= CACHED_QUERY else parse(query)


@lru_cache(2048)
def _remembered(query: str) -> Node:
    return parse(query)


__all__ = ["Behind", "CannotBuild", "Engine", "QueryError", "StoreGone"]
