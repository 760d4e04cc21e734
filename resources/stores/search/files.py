"""The files of one account's index: tantivy's own, the keys of the contacts by number, and how far
the index has come.

Everything here is derived from Redis: what is missing, broken or of another version is deleted and
built again.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import msgspec
import tantivy
from attrs import asdict, define, field, frozen

from .checksums import Damaged, check_index
from .key_table import KeyTable
from .schema import SCHEMA, VERSION

OPEN_CHECK = 128 << 20  # bytes of the engine's files that are read when an index is opened
WRITER_BYTES = 32 << 20  # that a writer gathers before it writes a segment by itself


class Unusable(Exception):
    """There is no index, or it cannot be used; the text says why."""


@frozen
class State:
    """How far an index on disk has come.

    Attributes:
        applied: The change number up to which everything is in it.
        keys: How many bytes of the file of keys belong to it.
        sum: The CRC-32 of those bytes.
    """

    epoch: str
    applied: int
    keys: int
    sum: int
    version: int = VERSION


@define(eq=False)
class Files:
    """The folder of one account."""

    folder: Path
    _sum: int = field(default=0, init=False)  # of the file of keys

    @classmethod
    def of(cls, root: Path, account: str) -> Files:
        """The files of an account."""
        return cls(root / f"a-{quote(account, safe='')}")

    @property
    def _index(self) -> Path:
        return self.folder / "index"

    @property
    def _keys(self) -> Path:
        return self.folder / "keys.jsonl"

    @property
    def _state(self) -> Path:
        return self.folder / "state.json"

    def state(self) -> State:
        """How far the index has come. Raises Unusable."""
        try:
            state = State(**json.loads(self._state.read_text("utf-8")))
        except FileNotFoundError:
            raise Unusable("there is none") from None
        except (OSError, ValueError, TypeError) as error:
            raise Unusable(f"{self._state} cannot be read: {error}") from error
        if state.version != VERSION:
            raise Unusable(f"it is of version {state.version}, not {VERSION}")
        return state

    def open(self) -> tuple[State, tantivy.Index, KeyTable]:
        """Open the index and the keys by number. Raises Unusable."""
        state = self.state()
        try:
            check_index(self._index, OPEN_CHECK)
            index = tantivy.Index.open(str(self._index))
            index.config_reader("manual")
            keys = _read_keys(self._keys, state)
            os.truncate(self._keys, state.keys)  # what a killed process had not recorded
        except (OSError, ValueError, msgspec.DecodeError, Damaged) as error:
            raise Unusable(f"{self.folder} cannot be read: {error}") from error
        self._sum = state.sum
        return state, index, keys

    def damage(self) -> str:
        """Read all files of an index; what is wrong with them, or empty if nothing is. It takes a
        second for each gigabyte, or as long as the disk needs.
        """
        try:
            state = self.state()
            check_index(self._index)
            _read_keys(self._keys, state)
        except (Unusable, Damaged, OSError, ValueError, msgspec.DecodeError) as error:
            return str(error)
        return ""

    def create(self) -> tantivy.Index:
        """Create an empty index in place of whatever there is."""
        self.remove()
        self._index.mkdir(parents=True, mode=0o700)
        index = tantivy.Index(SCHEMA, path=str(self._index))
        index.config_reader("manual")
        return index

    def remove(self) -> None:
        """Delete everything."""
        self._sum = 0
        shutil.rmtree(self.folder, ignore_errors=True)

    def save(self, epoch: str, applied: int, new_keys: Mapping[int, str]) -> None:
        """Record what was committed to the index: first the keys, then how far it has come."""
        lines = msgspec.json.Encoder().encode_lines(list(new_keys.items()))
        with self._keys.open("ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
            self._sum = zlib.crc32(lines, self._sum)
            state = State(epoch, applied, file.tell(), self._sum)
        draft = self._state.with_suffix(".new")
        draft.write_text(json.dumps(asdict(state)), "utf-8")
        draft.replace(self._state)


_PAIRS = msgspec.json.Decoder(tuple[int, str])


def _read_keys(file: Path, state: State) -> KeyTable:
    data = file.read_bytes()
    if len(data) < state.keys:
        raise ValueError(f"{file} has {len(data)} bytes, not {state.keys}")
    if zlib.crc32(memoryview(data)[: state.keys]) != state.sum:
        raise ValueError(f"{file} has been changed")
    keys = KeyTable()
    for number, key in _PAIRS.decode_lines(data[: state.keys]):
        keys.put(number, key)
    return keys
