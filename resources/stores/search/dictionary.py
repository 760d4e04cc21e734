"""The terms of a field side by side in memory, to find those that contain a text.

tantivy runs an automaton over every term for `*x*`: 0.4 µs each, 80 ms for 200,000 e-mail
addresses. Looking for the text in all of them at once takes some milliseconds. But laying them out
takes longer than the automaton, so that is done when such a pattern comes a second time for the
same state of the index.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import tantivy
from attrs import define, field

CONTACTS_MAX = 250_000  # with more, laying out would take too much memory, and others wait
BYTES_MAX = 32 << 20  # of the terms of one field
ALL_BYTES_MAX = 128 << 20  # of all accounts; what comes later has to do with the automaton
FIELDS_MAX = 8  # laid out at a time
LOOKS_MAX = 3_000  # terms that contain a text; with more, the automaton is as good
END = b"\xff"  # of a term; in no text in UTF-8


@define(eq=False)
class _Room:
    """The bytes that may still be laid out, for any number of threads."""

    left: int
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    def take(self, size: int) -> bool:
        """Take some; return whether there were as many."""
        with self._lock:
            if size > self.left:
                return False
            self.left -= size
            return True

    def give(self, size: int) -> None:
        """Give some back."""
        with self._lock:
            self.left += size


_room = _Room(ALL_BYTES_MAX)


@define(eq=False)
class Dictionary:
    """The terms of one state of an index. Any number of threads may use it."""

    searcher: tantivy.Searcher
    _asked: set[tuple[str, str]] = field(factory=set, init=False)
    _laid_out: dict[tuple[str, str], bytes] = field(factory=dict, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    def containing(
        self, name: str, prefix: str, text: str, matches: Callable[[str], bool]
    ) -> list[str] | None:
        """The terms of a field of the index that begin with `prefix`, contain `text` behind it and
        match; None if an automaton is better.
        """
        terms = self._terms(name, prefix)
        if terms is None:
            return None
        found: list[str] = []
        wanted, skip, at = text.encode(), len(prefix), 0
        looks = 0
        while (at := terms.find(wanted, at)) >= 0:
            looks += 1
            if looks > LOOKS_MAX:
                return None
            begin, end = terms.rfind(END, 0, at) + 1, terms.index(END, at)
            term = terms[begin:end].decode()
            if matches(term[skip:]):
                found.append(term)
            at = end
        return found

    def _terms(self, name: str, prefix: str) -> bytes | None:
        place = (name, prefix)
        with self._lock:
            if place in self._laid_out:
                return self._laid_out[place] or None
            if place not in self._asked or len(self._laid_out) >= FIELDS_MAX:
                self._asked.add(place)
                return None
            terms = b""
            if self.searcher.num_docs <= CONTACTS_MAX:
                terms = self._lay_out(name, prefix)
                if _room.take(len(terms)):
                    weakref.finalize(self, _room.give, len(terms)).atexit = False
                else:
                    terms = b""
            self._laid_out[place] = terms
            return terms or None

    def _lay_out(self, name: str, prefix: str) -> bytes:
        terms = [term for term, _ in self.searcher.terms_with_prefix(name, prefix)]
        laid_out = END.join([term.encode() for term in terms]) + END
        return laid_out if len(laid_out) <= BYTES_MAX else b""
