"""The indexes of all accounts: opened when queried, closed when idle, and updated from Redis in
the background.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty

from attrs import define, field, frozen

from .account_queue import AccountQueue
from .budget import Budget
from .changes import Changes, StoreGone
from .dialogue import ANSWER_MAX, News
from .files import Files, Unusable, is_for_want_of_means, is_for_want_of_room
from .index import AccountIndex, Behind
from .key_table import NoKey
from .lucene import meaning
from .nodes import QueryError
from .progress import catch_up
from .troubles import Troubles

FOLLOW_SECONDS = 5.0  # between two checks of how far behind the accounts are
# changes; an index that is further behind catches up before anybody asks
FOLLOW_BEHIND = 1000
RENEW_SECONDS = 600.0  # in which an index that looks whole is built anew once if the engine fails
SET_BACK = "the store has fewer changes than are in it"
KEPT = "it could not be deleted when that was due"

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
    # named, as callers pass them
    on_trouble: Callable[[str, str], None] = lambda account, reason: None  # noqa: ARG005
    _troubles: Troubles = field(init=False)
    _renewed: dict[str, float] = field(factory=dict, init=False)
    _slots: OrderedDict[str, _Slot] = field(factory=OrderedDict, init=False)
    # the last change in each index that is closed, if it was looked at
    _closed: dict[str, int] = field(factory=dict, init=False)
    # accounts that have to catch up, and why from the beginning, if so
    _far: dict[str, str] = field(factory=dict, init=False)
    _behind: AccountQueue = field(factory=AccountQueue, init=False)
    _full: AccountQueue = field(factory=AccountQueue, init=False)
    _followed_at: float = field(default=0.0, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    def __attrs_post_init__(self) -> None:
        self._troubles = Troubles(self.on_trouble)

    def find(
        self,
        account: str,
        query: str,
        after: int,
        limit: int | None,
        size: int,
        news: News = "some",
        allowed: float = math.inf,
    ) -> Iterator[Page]:
        """The keys of the contacts that a query finds, oldest first, in pages; at least one page.
        The query may take `allowed` seconds.

        Raises:
            QueryError: The query is not valid, asks too much, or finds too much for one answer.
            Behind: The index has to catch up first, which it does in the background.
            CannotBuild: Building the index failed a moment ago.
            StoreGone: Redis does not answer.
        """
        budget = Budget(allowed=allowed)
        node = meaning(query)
        with self._searching(account) as index:
            table, numbers = index.read(
                news, lambda view: (view.keys, view.find(node, after, limit, budget))
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

    def count(
        self, account: str, query: str, news: News = "some", allowed: float = math.inf
    ) -> int:
        """How many contacts a query finds. Raises as `find` does."""
        budget = Budget(allowed=allowed)
        node = meaning(query)
        with self._searching(account) as index:
            return index.read(news, lambda view: view.count(node, budget))

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
            self._full.put(account)

    @contextmanager
    def _searching(self, account: str) -> Iterator[AccountIndex]:
        """The index of an account for a search. If the engine fails the index is built anew, once;
        raises Behind then.
        """
        slot = self._enter(account)  # not `_using`: it would cost a point query a tenth of its time
        try:
            index = self._index_in(slot, account)
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
        finally:
            self._leave(slot)

    def _is_suspect(self, index: AccountIndex, error: BaseException) -> bool:
        """Whether an index may be the cause of an error: it is damaged, or looks whole and was not
        built anew for such a reason lately.
        """
        if is_for_want_of_means(error):
            return False
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
        slot = self._enter(account)
        try:
            yield self._index_in(slot, account)
        finally:
            self._leave(slot)

    def _enter(self, account: str) -> _Slot:
        with self._lock:
            slot = self._slots.get(account)
            if slot is None:
                slot = self._slots[account] = _Slot()
            self._slots.move_to_end(account)
            slot.users += 1
        return slot

    def _index_in(self, slot: _Slot, account: str) -> AccountIndex:
        with slot.opening:
            if slot.index is None:
                index = AccountIndex.open(self.root, account, self.changes)
                if account in self._far:
                    index.fall_behind()
                slot.index = index
        return slot.index

    def _leave(self, slot: _Slot) -> None:
        with self._lock:
            slot.users -= 1
            slot.used_at = time.monotonic()
            if len(self._slots) > self.open_max:
                self._close_one()

    def _close_one(self) -> None:
        idle = next((account for account, slot in self._slots.items() if not slot.users), None)
        if idle is not None:
            self._close(idle)

    def _close(self, account: str) -> None:
        del self._slots[account]
        self._closed.pop(account, None)

    def _schedule(self, account: str) -> None:
        """Have an index catch up in the background. Raises CannotBuild."""
        reason = self._troubles.failure(account)
        if reason is not None:
            raise CannotBuild(f"the index cannot be built: {reason}")
        self._behind.put(account)

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
        account = self._behind.get(timeout)
        self._work(self._behind, account, self._catch_up)

    def work_full(self, timeout: float | None = 0.0) -> None:
        """Move new contacts into the next index. Raises as `work_behind` does."""
        self._work(self._full, self._full.get(timeout), self._flush)

    def _work(self, line: AccountQueue, account: str, step: Callable[[AccountIndex], None]) -> None:
        try:
            with self._using(account) as index:
                try:
                    step(index)
                except StoreGone:
                    raise
                except BaseException as error:  # panics of tantivy, too
                    if is_for_want_of_room(error) or is_for_want_of_means(error):
                        raise  # what there is can still be searched
                    index.files.check_room()
                    self._begin_anew(index, f"it cannot be written: {error}")
                    self._catch_up(index)
            self._troubles.note_built(account)
        except StoreGone as error:
            log.warning("account %s: its index cannot follow: %s", account, error)
        except BaseException as error:  # whatever it is, the next account follows
            log.exception("account %s: its index cannot be written", account)
            self._troubles.note_failure(account, str(error))
        finally:
            line.done(account)

    def _flush(self, index: AccountIndex) -> None:
        if index.wants_flush:
            index.flush()

    def _catch_up(self, index: AccountIndex) -> None:
        reason = self._far.pop(index.account, "")
        try:
            if reason:
                self._begin_anew(index, reason)
            if index.left:
                catch_up(index)
        except BaseException:
            if not index.is_on_disk and index.files.remain:
                self._far[index.account] = reason or KEPT  # whoever opens it next has to know
            raise

    def _look_around(self) -> None:
        """Close idle indexes; find accounts that are far behind, and files that are not whole."""
        now = time.monotonic()
        with self._lock:
            before = self._followed_at
            if now - before < FOLLOW_SECONDS:
                return
            self._followed_at = now
            used = [account for account, slot in self._slots.items() if slot.used_at > before]
            idle = [(account, slot) for account, slot in self._slots.items() if not slot.users]
            for account, slot in idle:
                if now - slot.used_at > self.idle_close:
                    self._close(account)
        try:
            for account in used:
                self._look_at_files(account)
            self.follow()
        except StoreGone as error:
            log.warning("the indexes cannot follow: %s", error)
        except Exception:
            log.exception("the indexes cannot follow")

    def _look_at_files(self, account: str) -> None:
        """Have an index built anew if it has lost a file, or the end of one, while it is open."""
        with self._lock:
            slot = self._slots.get(account)
            if slot is None or slot.index is None:
                return
            slot.users += 1  # not `_using`: an index that nobody searches is idle
        try:
            damage = slot.index.short_file()
            if damage:
                self._begin_anew(slot.index, damage)
                self._behind.put(account)
        finally:
            with self._lock:
                slot.users -= 1

    def follow(self) -> None:
        """Have accounts that are far behind catch up. So have those whose store has fewer changes
        than their index: it was restored, or has lost the last ones. Once it has as many again,
        with others among them, nobody can tell. Raises StoreGone.
        """
        accounts = list(self.accounts)
        before = [self._progress(account) for account in accounts]  # first: writes go on
        now = self.changes.newest(accounts)
        unreadable = dict[str, str]()
        for account, (applied, seen), newest in zip(accounts, before, now, strict=True):
            if isinstance(newest, StoreGone):
                unreadable[account] = str(newest)
                continue
            can_write = self._troubles.failure(account) is None
            if newest < seen:
                self._far[account] = SET_BACK  # also if it cannot be written: soon nobody can tell
            elif can_write and newest - applied > FOLLOW_BEHIND:
                self._far.setdefault(account, "")
            if account in self._far:
                slot = self._slots.get(account)
                if slot is not None and slot.index is not None:
                    slot.index.fall_behind()
                if can_write:
                    self._behind.put(account)
        self._troubles.note_unreadable(unreadable)

    def _progress(self, account: str) -> tuple[int, int]:
        """The last change that is in an account's index, and the last that was read for it."""
        slot = self._slots.get(account)
        if slot is not None and slot.index is not None:
            return slot.index.applied, slot.index.seen
        applied = self._closed.get(account)
        if applied is None:
            applied, files = 0, Files.of(self.root, account)
            if os.path.exists(files.folder):  # noqa: PTH110  # most have none: half of the time
                with suppress(Unusable):
                    applied = files.state().applied
            self._closed[account] = applied
        return applied, applied


__all__ = ["Behind", "CannotBuild", "Engine", "QueryError", "StoreGone", "meaning"]
