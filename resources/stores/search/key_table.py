"""The keys of an account's contacts by number, stored as a search returns them: in JSON, side by
side.

A search may return very many keys. As Python strings they are scattered in memory, and cache misses
cost more than finding them (measured: 46,000 of 200,000 took 11 ms, here 4 ms; all of them 9 ms,
here 1 ms). Keys that are not 32 plain characters, as an import may bring them, are kept apart; so
are those of numbers far beyond the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from attrs import define, field

_PLAIN = re.compile(r"[0-9A-Za-z_-]{32}")
_SLOT = len('"",') + 32
# Numbers without a key, for which there is room nevertheless: side by side, and in all beyond as
# many as have one. Contacts come in the order of their changes, so at first most are without.
GAP_MAX, GAPS_MAX = 100_000, 1_000_000


class NoKey(Exception):
    """There is no key for a number."""


@define(eq=False)
class KeyTable:
    """Keys by number. Any number of threads may read while one puts; a key never changes."""

    _slots: bytearray = field(factory=bytearray, init=False)
    _others: dict[int, bytes] = field(factory=dict, init=False)
    _count: int = field(default=0, init=False)  # of all keys

    def put(self, number: int, key: str) -> None:
        """Store the key of a number."""
        missing = number + 1 - len(self._slots) // _SLOT
        # numbers follow one another, unless others made them
        has_slot = missing <= GAP_MAX and number <= GAPS_MAX + 2 * self._count
        self._count += 1
        if has_slot and missing > 0:
            self._slots += bytes(missing * _SLOT)
        if has_slot and _PLAIN.fullmatch(key):
            self._slots[number * _SLOT : (number + 1) * _SLOT] = b'"%b",' % key.encode()
        else:
            self._others[number] = msgspec.json.encode(key) + b","

    def __contains__(self, number: int) -> bool:
        return self._slot(number)[:1] == b'"' or number in self._others

    def _slot(self, number: int) -> bytes:
        return bytes(self._slots[number * _SLOT : (number + 1) * _SLOT])

    def key(self, number: int) -> str:
        """The key of a number. Raises NoKey."""
        (key,) = msgspec.json.decode(self._array([number]), type=tuple[str])
        return key

    def items(self) -> Iterator[tuple[int, str]]:
        """All numbers that have a key, with their keys."""
        for number in range(len(self._slots) // _SLOT):
            if self._slot(number)[:1] == b'"':
                yield number, self.key(number)
        for number in list(self._others):
            yield number, self.key(number)

    def arrays(self, numbers: Sequence[int], size: int) -> Iterator[bytes]:
        """The keys of ascending numbers as JSON arrays of `size` keys, the last of fewer; at least
        one array. Raises NoKey.
        """
        for start in range(0, len(numbers) or 1, size):
            yield self._array(numbers[start : start + size])

    def _array(self, numbers: Sequence[int]) -> bytes:
        if not numbers:
            return b"[]"
        slots, first, last = self._slots, numbers[0], numbers[-1]
        if last - first + 1 == len(numbers):
            found = bytes(slots[first * _SLOT : (last + 1) * _SLOT])
        else:
            found = b"".join([slots[at : at + _SLOT] for at in map(_SLOT.__mul__, numbers)])
        if 0 in found or len(found) < len(numbers) * _SLOT:
            found = b"".join(self._singly(numbers))
        return b"[" + found[:-1] + b"]"

    def _singly(self, numbers: Iterable[int]) -> Iterator[bytes]:
        for number in numbers:
            slot = self._slot(number)
            if slot[:1] == b'"':
                yield slot
            elif number in self._others:
                yield self._others[number]
            else:
                raise NoKey(f"there is no key for the contact {number}")
