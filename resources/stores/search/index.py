"""The index of one account, which follows Redis: an index on disk, and in memory what has changed
since.

How it works: Redis numbers the changes of an account. The index on disk has all changes up to
`applied`; contacts that changed after that, up to `seen`, are in the `overlay`, in memory. Before
each search `refresh` reads what changed after `seen`, so a search sees every write that was
answered before it; whoever asks may know that there were none since the last answer (`read`). A
search queries the index, leaves out the contacts that are in the overlay, and tests those one by
one. `flush` moves the overlay into the index while searches go on. If more has changed than the
overlay may hold (at first, everything has), `catch_up` reads it into the index directly; until then
there is no search (`Behind`). An index that is missing, broken, of another version or of another
history of Redis counts as behind from the beginning; there is no other rebuild. The engine forgets
one that fails. Nothing is lost, whenever the process ends: what was not recorded as applied is read
again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import tantivy
from attrs import define, field

from .changes import Changed, Changes, Page
from .dialogue import News
from .dictionary import Dictionary
from .fields import Document
from .files import WRITER_BYTES, Files, Unusable
from .key_table import KeyTable
from .schema import delete, document_of
from .view import Entry, View

PAGE = 250  # contacts read from Redis at once
OVERLAY_MAX = 1000  # contacts; if more have changed, the index catches up first
FLUSH_AT = 250  # contacts in the overlay at which it is flushed
FLUSH_SOME, FLUSH_SECONDS = 20, 1.0  # or fewer, if the last flush is that long ago
# bytes of the overlay's contacts, of which each takes up to twenty times as much in memory: at
# which it is flushed, and at which the index catches up first
FLUSH_BYTES, OVERLAY_BYTES = 1 << 20, 4 << 20
COMMIT_EVERY = 20_000  # contacts, while catching up

T = TypeVar("T")

log = logging.getLogger(__name__)


class Behind(Exception):
    """The index has to catch up before it can be searched."""

    def __init__(self, left: int) -> None:
        super().__init__(f"{left} contacts are not in the index yet")
        self.left = left


@define(eq=False)
class AccountIndex:
    """The index of one account. Any number of threads may use it.

    Raises, from every method that reads changes: `changes.StoreGone`.
    """

    account: str
    changes: Changes
    files: Files
    overlay: dict[int, Entry] = field(factory=dict, init=False)
    _overlay_bytes: int = field(default=0, init=False)  # of its contacts in the store
    keys: KeyTable = field(factory=KeyTable, init=False)
    epoch: str = field(default="", init=False)
    applied: int = field(default=0, init=False)
    seen: int = field(default=0, init=False)
    # contacts to catch up with; 0 if it can be searched
    left: int = field(default=0, init=False)
    # a search has read all changes since this was opened
    _is_current: bool = field(default=False, init=False)
    _is_changed_elsewhere: bool = field(default=False, init=False)  # lately, by another host
    _index: tantivy.Index | None = field(default=None, init=False)
    _searcher: tantivy.Searcher | None = field(default=None, init=False)
    _dictionary: Dictionary | None = field(default=None, init=False)
    # keys that the file does not have yet
    _unsaved: dict[int, str] = field(factory=dict, init=False)
    _flushed_at: float = field(default=0.0, init=False)
    _state: threading.Lock = field(factory=threading.Lock, init=False)  # for all of the above
    # for writing to the index; taken first
    _writing: threading.Lock = field(factory=threading.Lock, init=False)

    @classmethod
    def open(cls, root: Path, account: str, changes: Changes) -> AccountIndex:
        """Open what is on disk, if it is usable."""
        index = cls(account, changes, Files.of(root, account))
        try:
            state, index._index, index.keys = index.files.open()
        except Unusable as unusable:
            log.info("account %s: a new index: %s", account, unusable)
            index.files.remove()
        else:
            index.epoch, index.applied, index.seen = state.epoch, state.applied, state.applied
            index._set_searcher(index._index.searcher())
        return index

    def read(self, news: News, look: Callable[[View], T]) -> T:
        """Return what `look` finds in a snapshot with everything that was written before now. It is
        called twice if the snapshot turns out to be too old.

        Raises:
            Behind: It has to catch up first.
        """
        view, state = None, ("", 0)
        if news == "none" or (news == "unlikely" and not self._is_changed_elsewhere):
            with self._state:
                if self._is_current and not self.left:
                    view, state = self._view(), (self.epoch, self.seen)
        if view is not None:
            found = look(view)
            if news == "none" or self.changes.state(self.account) == state:
                return found
            self._is_changed_elsewhere = True
        return look(self.refresh())

    def _view(self) -> View:
        return View(
            self._index,
            self._searcher,
            list(self.overlay.items()),
            self.keys,
            self._documents,
            self._dictionary,
        )

    def refresh(self) -> View:
        """A snapshot with everything that was written before now.

        Raises:
            Behind: It has to catch up first.
        """
        with self._state:
            while not self.left:
                page = self.changes.after(self.account, self.seen, PAGE)
                if self._has_other_history(page) or not self._has_room(page):
                    self.left = max(page.left, 1)
                    break
                self.epoch = page.epoch
                for changed in page.changed:
                    self._note_key(changed)
                    self._lay_over(changed)
                self.seen = max(page.last, self.seen)
                if page.left <= len(page.changed):
                    self._is_current = True
                    self._is_changed_elsewhere = self._is_changed_elsewhere and page.left > 0
                    return self._view()
            raise Behind(self.left)

    def _has_other_history(self, page: Page) -> bool:
        """Whether our change numbers belong to another history than Redis has now: it was emptied,
        or restored.
        """
        return bool(self.epoch) and (page.epoch != self.epoch or page.newest < self.seen)

    def _has_room(self, page: Page) -> bool:
        """Whether the overlay may have a page, and as many contacts as follow."""
        most = FLUSH_AT if self._index is None else OVERLAY_MAX
        size = self._overlay_bytes + sum(changed.size for changed in page.changed)
        return len(self.overlay) + page.left <= most and size <= OVERLAY_BYTES

    def _lay_over(self, changed: Changed) -> None:
        before = self.overlay.get(changed.seq)
        self._overlay_bytes += changed.size - (before.size if before is not None else 0)
        entry = Entry(changed.key, Document(changed.contact), changed.size)
        self.overlay[changed.seq] = entry

    def _note_key(self, changed: Changed) -> None:
        if changed.seq not in self.keys:
            self.keys.put(changed.seq, changed.key)
            self._unsaved[changed.seq] = changed.key

    def _documents(self, seqs: Sequence[int]) -> Iterable[tuple[int, Document]]:
        numbers = {self.keys.key(seq): seq for seq in seqs}
        for contact in self.changes.contacts(self.account, list(numbers)):
            yield numbers[contact["key"]], Document(contact)

    @property
    def is_on_disk(self) -> bool:
        """Whether there are files."""
        return self._index is not None

    def short_file(self) -> str:
        """See `Files.short_file`; nothing while somebody writes.

        The engine maps its files, and would find a page of zeros where one was cut.
        """
        if not self._writing.acquire(blocking=False):
            return ""
        try:
            return self.files.short_file() if self.is_on_disk else ""
        finally:
            self._writing.release()

    @property
    def wants_flush(self) -> bool:
        """Whether the overlay is large, or has waited long, and nobody is flushing it."""
        waiting = len(self.overlay)
        if self._overlay_bytes >= FLUSH_BYTES:
            return True
        if self._index is None:  # an account of a few contacts needs no files
            return waiting >= FLUSH_AT
        is_late = time.monotonic() - self._flushed_at > FLUSH_SECONDS
        return waiting >= FLUSH_AT or (waiting >= FLUSH_SOME and is_late)

    def flush(self) -> None:
        """Move the overlay into the index while searches go on."""
        with self._writing:
            with self._state:
                if self.left:
                    return
                batch, upto = dict(self.overlay), self.seen
            self._flushed_at = time.monotonic()
            with self._open_writer() as (index, writer):
                for seq, entry in batch.items():
                    delete(writer, entry.key)
                    writer.add_document(document_of(seq, entry.document))
                self._commit(index, writer, upto, batch)

    def catch_up(self, progress: Callable[[int, int], None]) -> None:
        """Read all changes into the index, after which it can be searched again. The callback gets
        how many contacts are done and left.
        """
        with self._writing:
            first = self._begin_catching_up()
            is_new = self._index is None
            with self._open_writer() as (index, writer):
                self._catch_up(first, index, writer, progress, is_new=is_new)

    def _catch_up(
        self,
        first: Page,
        index: tantivy.Index,
        writer: tantivy.IndexWriter,
        progress: Callable[[int, int], None],
        *,
        is_new: bool,
    ) -> None:
        done = uncommitted = 0
        for page in self._pages(first):
            if self._has_other_history(page):
                return  # the rest starts again
            for changed in page.changed:
                if not is_new or changed.seq in self.keys:
                    delete(writer, changed.key)
                self._note_key(changed)
                writer.add_document(document_of(changed.seq, Document(changed.contact)))
            done, uncommitted = done + len(page.changed), uncommitted + len(page.changed)
            left = page.left - len(page.changed)
            if not left or uncommitted >= COMMIT_EVERY:
                self._commit(index, writer, page.last, {})
                uncommitted = 0
            progress(done, left)
            if not left:
                with self._state:
                    self.seen, self.left = page.last, 0
                return
            self.left = left

    def _pages(self, page: Page) -> Iterator[Page]:
        """Yield this page and all that follow, without end; the next is read from Redis while one
        is in use.
        """
        with ThreadPoolExecutor(1) as reading:
            while True:
                following = reading.submit(self.changes.after, self.account, page.last, PAGE)
                yield page
                page = following.result()

    def fall_behind(self) -> None:
        """Require that the index catches up before the next search."""
        with self._state:
            self.left = self.left or 1

    def _begin_catching_up(self) -> Page:
        """Read the first page of what is not in the index; without an index, of everything."""
        with self._state:
            page = self.changes.after(self.account, self.applied, PAGE)
            if self._has_other_history(page):
                log.warning("account %s: its contacts in Redis have another history", self.account)
                self._forget()
                page = self.changes.after(self.account, 0, PAGE)
            self._clear_overlay()
            self.left = max(page.left, 1)
            self.epoch, self.seen = page.epoch, self.applied
            return page

    @contextmanager
    def _open_writer(self) -> Iterator[tuple[tantivy.Index, tantivy.IndexWriter]]:
        """Open a writer for one batch only: it uses many threads and much memory, and after an
        error it may accept documents and store nothing. What it did not commit is lost with it, and
        read again.
        """
        if self._index is None:
            self._index = self.files.create()
            self._unsaved = dict(self.keys.items())
        writer = self._index.writer(WRITER_BYTES, 1)
        try:
            yield self._index, writer
        except BaseException:
            # Give the lock back now: whoever keeps the traceback would keep the writer, too.
            with suppress(Exception):
                writer.wait_merging_threads()
            raise
        writer.wait_merging_threads()  # otherwise no merge would ever finish

    def _commit(
        self, index: tantivy.Index, writer: tantivy.IndexWriter, upto: int, batch: dict[int, Entry]
    ) -> None:
        writer.commit()
        index.reload()
        searcher = index.searcher()
        with self._state:
            new_keys = dict(self._unsaved)
        self.files.save(self.epoch, upto, new_keys)
        with self._state:
            for seq in new_keys:
                del self._unsaved[seq]
            for seq, entry in batch.items():
                if self.overlay.get(seq) is entry:
                    del self.overlay[seq]
                    self._overlay_bytes -= entry.size
            self._set_searcher(searcher)
            self.applied = upto

    def _set_searcher(self, searcher: tantivy.Searcher) -> None:
        self._searcher, self._dictionary = searcher, Dictionary(searcher)

    def forget(self) -> None:
        """Delete the index; it is built again when needed."""
        with self._writing, self._state:
            self._forget()

    def _forget(self) -> None:
        self._index = self._searcher = self._dictionary = None
        self._clear_overlay()
        self.keys, self._unsaved = KeyTable(), {}
        self.epoch, self.applied, self.seen, self.left = "", 0, 0, 0
        self._is_current = False
        self.files.remove()

    def _clear_overlay(self) -> None:
        self.overlay.clear()
        self._overlay_bytes = 0
