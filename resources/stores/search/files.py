"""The files of one account's index: tantivy's own, the keys of the contacts by number, and how far
the index has come.

Everything here is derived from Redis: what is missing, broken or of another version is deleted and
built again.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import tantivy
from attrs import asdict, define, field, frozen

from .checksums import Damaged, check_index
from .key_table import KeyTable
from .schema import SCHEMA, VERSION

OPEN_CHECK = 128 << 20  # bytes of the engine's files that are read when an index is opened
KEYS_READ = 1 << 20  # bytes of the file of keys at a time: a key takes four times as much in memory
LOOKS_MAX = 5  # at files that are written meanwhile
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

    @classmethod
    def read(cls, text: bytes) -> State:
        """Read what `text` says. Raises ValueError, TypeError, KeyError, AttributeError: it was not
        written by us, or has been changed.
        """
        values = json.loads(text)
        if values["version"] != VERSION:
            raise ValueError(f"it is of version {values['version']}, not {VERSION}")
        if values.pop("check") != _check(values):
            raise ValueError("it has been changed")
        return cls(**values)

    def text(self) -> bytes:
        """As it is written: JSON with a checksum of the rest."""
        values = asdict(self)
        return json.dumps(values | {"check": _check(values)}).encode()


def _check(values: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(values).encode())


@define(eq=False)
class Files:
    """The folder of one account."""

    folder: Path
    # of the file of keys, as far as it was recorded: its checksum and its bytes
    _sum: int = field(default=0, init=False)
    _size: int = field(default=0, init=False)

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
        with _reading(self._state):
            try:
                return State.read(self._state.read_bytes())
            except FileNotFoundError:
                raise Unusable("there is none") from None

    def open(self) -> tuple[State, tantivy.Index, KeyTable]:
        """Open the index and the keys by number. Raises Unusable; what `is_for_want_of_means` says
        nothing about the files, and is raised as it is.
        """
        state = self.state()
        with _reading(self.folder):
            check_index(self._index, OPEN_CHECK)
            index = tantivy.Index.open(str(self._index))
            index.config_reader("manual")
            keys = _read_keys(self._keys, state)
        self._sum, self._size = state.sum, state.keys
        return state, index, keys

    def damage(self) -> str:
        """Read all files of an index; what is wrong with them, or empty if nothing is. It takes a
        second for each gigabyte, or as long as the disk needs. Others may write meanwhile.
        """
        for _ in range(LOOKS_MAX):
            before = self._written()
            found = self._damage()
            if not found or self._written() == before:
                return found
        return ""  # what it lacked belonged to an earlier state each time

    def _damage(self) -> str:
        try:
            with _reading(self.folder):
                check_index(self._index)
                _check_keys(self._keys, self.state())
        except Unusable as error:
            return str(error)
        return ""

    def _written(self) -> tuple[int, int] | None:
        """Something that differs after each commit, or merge, of the engine."""
        try:
            status = (self._index / "meta.json").stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def short_file(self) -> str:
        """Which of the engine's files is missing or has lost its end; empty if none has. Nobody may
        write meanwhile. It takes some 0.02 ms a file.
        """
        try:
            check_index(self._index, 0)
        except (Damaged, OSError) as error:
            return str(error)
        return ""

    def check_room(self) -> None:
        """Raise OSError if there is no room for what a writer takes: when a disk is full the
        engine may say only that a thread of its own has failed.
        """
        probe = self.folder / "room"
        try:
            with probe.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, WRITER_BYTES)
        except OSError as error:
            if is_for_want_of_room(error):
                raise
        finally:
            with suppress(OSError):
                probe.unlink()

    def create(self) -> tantivy.Index:
        """Create an empty index in place of whatever there is."""
        self.remove()
        self._index.mkdir(parents=True, mode=0o700)
        index = tantivy.Index(SCHEMA, path=str(self._index))
        index.config_reader("manual")
        return index

    @property
    def remain(self) -> bool:
        """Whether `open` may find an index."""
        return self._state.exists()

    def remove(self) -> None:
        """Delete everything, as far as that is possible."""
        self._sum = self._size = 0
        shutil.rmtree(self.folder, ignore_errors=True)

    def save(self, epoch: str, applied: int, new_keys: Mapping[int, str]) -> None:
        """Record what was committed to the index: first the keys, then how far it has come."""
        lines = msgspec.json.Encoder().encode_lines(list(new_keys.items()))
        with self._keys.open("ab") as file:
            if file.tell() > self._size:  # a write that failed, or that nobody recorded
                file.truncate(self._size)
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        self._sum, self._size = zlib.crc32(lines, self._sum), self._size + len(lines)
        state = State(epoch, applied, self._size, self._sum)
        draft = self._state.with_suffix(".new")
        draft.write_bytes(state.text())
        draft.replace(self._state)


def is_for_want_of_room(error: BaseException) -> bool:
    """Whether a write failed because the disk, or a quota, is full."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return (isinstance(error, OSError) and error.errno in full) or any(
        os.strerror(number) in str(error)
        for number in full  # tantivy has only texts
    )


def is_for_want_of_means(error: BaseException) -> bool:
    """Whether something failed because there was no more memory, or there were no more
    descriptors: no file is the cause.
    """
    short = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in short)


@contextmanager
def _reading(what: Path) -> Iterator[None]:
    """Raise Unusable for whatever goes wrong with files, also in the engine, which panics."""
    try:
        yield
    except (Unusable, KeyboardInterrupt):
        raise
    except BaseException as error:
        if is_for_want_of_means(error):
            raise
        raise Unusable(f"{what} cannot be read: {error}") from error


_PAIRS = msgspec.json.Decoder(tuple[int, str])


def _read_keys(file: Path, state: State) -> KeyTable:
    _check_keys(file, state)  # first: a number that was damaged may be enormous
    keys, rest = KeyTable(), b""
    for data in _pieces(file, state.keys):
        lines, newline, rest = (rest + data).rpartition(b"\n")
        for number, key in _PAIRS.decode_lines(lines + newline):
            keys.put(number, key)
    return keys


def _check_keys(file: Path, state: State) -> None:
    """Raises ValueError if a file of keys is not what was written."""
    size = found = 0
    for data in _pieces(file, state.keys):
        size, found = size + len(data), zlib.crc32(data, found)
    if size < state.keys:
        raise ValueError(f"{file} has {size} bytes, not {state.keys}")
    if found != state.sum:
        raise ValueError(f"{file} has been changed")


def _pieces(file: Path, size: int) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while size and (data := stream.read(min(size, KEYS_READ))):
            size -= len(data)
            yield data
