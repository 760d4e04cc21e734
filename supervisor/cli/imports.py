"""The import of a file: read in batches, with its errors and its progress in files.

The progress (FILE.progress) is written after each batch that the server has accepted. A line
without a key gets one derived from the account, the file and its number, so that a batch which was
accepted but not noted overwrites itself when it is sent again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID, uuid5

import msgspec
from attrs import define, field

from .rows import Columns, Row, csv_rows, json_rows, read_header

BATCH = 500  # rows
BATCH_BYTES = 4 << 20
_NAMES = UUID("6f1a0bbd-52a0-4d5c-9d3c-6a3a7f3f6c11")


class ImportChanged(Exception):
    """The file cannot be imported, or has changed since the import that was interrupted."""


@define
class Summary:
    """Rows written, and invalid ones."""

    written: int = 0
    failed: int = 0


class _NotedSummary(msgspec.Struct, frozen=True):
    written: int
    failed: int


class _Note(msgspec.Struct, frozen=True):
    """FILE.progress. `done` and `errors` are offsets into the file and FILE.errors, in bytes."""

    account: str  # and what it is imported into, unless contacts
    digest: str
    done: int
    lines: int
    errors: int
    summary: _NotedSummary


def _read_note(note: Path) -> _Note:
    try:
        return msgspec.json.decode(note.read_bytes(), type=_Note)
    except ValueError as error:
        raise ImportChanged(f"{note} cannot be read ({error}): use --restart") from error


@define
class Batch:
    """Some rows with their line numbers, errors by line number, and where it ends."""

    rows: list[tuple[int, dict[str, Any]]] = field(factory=list)
    errors: dict[int, str] = field(factory=dict)
    end: int = 0
    last_line: int = 0


@define
class Import:
    """The import of one file into one account. Made by `open`."""

    into: str
    _file: BinaryIO
    _rows: Callable[[int, int], Iterator[Row]]  # from an offset, and the lines before it
    _errors: BinaryIO | None  # None: nothing is to be written
    _note: Path
    _digest: str
    size: int
    is_keyed: bool
    done: int = 0  # bytes of the file
    lines: int = 0
    summary: Summary = field(factory=Summary)

    @classmethod
    @contextmanager
    def open(
        cls,
        path: Path,
        into: str,
        *,
        restart: bool = False,
        is_dry: bool = False,
        columns: Columns | None = None,
        is_keyed: bool = True,
    ) -> Iterator[Import]:
        """Begin an import, or resume one that was interrupted.

        Args:
            path: The file.
            into: Names the account, and what is imported.
            restart: Begin at the first row, whatever was imported before.
            is_dry: Read only: write no file.
            columns: It is CSV, and may have these. None: it is JSON Lines.
            is_keyed: A row without a key gets one.

        Raises:
            ImportChanged: FILE.progress is of other content or another account, or cannot be read.
            Unreadable: The file cannot be imported at all.
        """
        note, errors = Path(f"{path}.progress"), Path(f"{path}.errors")
        if not path.is_file():
            raise ImportChanged(f"{path} is no regular file: it is read more than once")
        with path.open("rb") as file, ExitStack() as stack:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            rows = partial(json_rows, file)
            if columns is not None:
                rows = partial(csv_rows, file, header=read_header(file, columns))
            work = cls(into, file, rows, None, note, digest, size, is_keyed)
            if not is_dry:
                before = _read_note(note) if note.exists() and not restart else None
                if before is not None and (before.account, before.digest) != (into, digest):
                    raise ImportChanged(
                        f"{note} is of an import of other content into {before.account}:"
                        " use --restart"
                    )
                is_there = before is not None and errors.exists()
                opened: BinaryIO = errors.open("r+b") if is_there else errors.open("wb")
                kept = stack.enter_context(opened)
                work._errors = kept
                if before is not None:
                    work.done, work.lines = before.done, before.lines
                    work.summary = Summary(before.summary.written, before.summary.failed)
                    kept.truncate(before.errors)
                    kept.seek(0, os.SEEK_END)
            yield work
        if not is_dry and not errors.stat().st_size:
            errors.unlink()

    def batches(self) -> Iterator[Batch]:
        """The rest of the file."""
        batch, before = Batch(), self.done
        for row in self._rows(self.done, self.lines):
            if row.error:
                batch.errors[row.line] = row.error
            else:
                self._add(batch, row)
            batch.end, batch.last_line = row.end, row.last_line
            if len(batch.rows) + len(batch.errors) >= BATCH or row.end - before >= BATCH_BYTES:
                yield batch
                batch, before = Batch(), row.end
        if batch.last_line:
            yield batch

    def _add(self, batch: Batch, row: Row) -> None:
        value = row.value
        if self.is_keyed and isinstance(value, dict) and value.get("key") is None:
            value["key"] = uuid5(_NAMES, f"{self.into}/{self._digest}/{row.line}").hex
        batch.rows.append((row.line, value))

    def finish(self, batch: Batch) -> None:
        """Note the errors and the progress after a batch that the server has accepted."""
        wrong = len(batch.errors)
        unread = wrong - sum(number in batch.errors for number, _ in batch.rows)
        self.summary.written += len(batch.rows) - (wrong - unread)
        self.summary.failed += wrong
        self.done, self.lines = batch.end, batch.last_line
        if self._errors is None:
            return
        for number, reason in sorted(batch.errors.items()):
            self._errors.write(
                json.dumps({"line": number, "error": reason}, ensure_ascii=False).encode() + b"\n"
            )
        self._errors.flush()
        summary = _NotedSummary(self.summary.written, self.summary.failed)
        note = _Note(self.into, self._digest, self.done, self.lines, self._errors.tell(), summary)
        draft = self._note.with_name(self._note.name + ".new")
        draft.write_bytes(msgspec.json.encode(note))
        draft.replace(self._note)

    def end(self) -> None:
        """Remove FILE.progress: the whole file is imported."""
        if self._errors is not None:
            self._note.unlink(missing_ok=True)
