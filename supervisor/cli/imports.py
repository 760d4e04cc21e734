"""The import of a JSON Lines file: read in batches, with its errors and its progress in files.

The progress (FILE.progress) is written after each batch that the server has accepted. A line
without a key gets one derived from the account, the file and its number, so that a batch which was
accepted but not noted overwrites itself when it is sent again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID, uuid5

import msgspec
from attrs import define, field

from ..admin.strict_json import parse, problem_in

BATCH = 500  # lines
BATCH_BYTES = 4 << 20
BOM = b"\xef\xbb\xbf"
LINE_MAX = 1 << 20  # bytes; a longer line is invalid
_NAMES = UUID("6f1a0bbd-52a0-4d5c-9d3c-6a3a7f3f6c11")


class ImportChanged(Exception):
    """The file cannot be imported, or has changed since the import that was interrupted."""


@define
class Summary:
    """Contacts written, and invalid lines."""

    written: int = 0
    failed: int = 0


class _NotedSummary(msgspec.Struct, frozen=True):
    written: int
    failed: int


class _Note(msgspec.Struct, frozen=True):
    """FILE.progress. `done` and `errors` are offsets into the file and FILE.errors, in bytes."""

    account: str
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
    """Some lines: contacts with their line numbers, errors by line number, and where it ends."""

    rows: list[tuple[int, dict[str, Any]]] = field(factory=list)
    errors: dict[int, str] = field(factory=dict)
    end: int = 0
    last_line: int = 0


@define
class Import:
    """The import of one file into one account. Made by `open`."""

    account: str
    _file: BinaryIO
    _errors: BinaryIO
    _note: Path
    _digest: str
    size: int
    done: int = 0  # bytes of the file
    lines: int = 0
    summary: Summary = field(factory=Summary)

    @classmethod
    @contextmanager
    def open(cls, path: Path, account: str, *, restart: bool) -> Iterator[Import]:
        """Begin an import, or resume one that was interrupted.

        Raises:
            ImportChanged: FILE.progress is of other content or another account, or cannot be read.
        """
        note, errors = Path(f"{path}.progress"), Path(f"{path}.errors")
        if not path.is_file():
            raise ImportChanged(f"{path} is no regular file: it is read more than once")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            before = _read_note(note) if note.exists() and not restart else None
            if before is not None and (before.account, before.digest) != (account, digest):
                raise ImportChanged(
                    f"{note} is of an import of other content into {before.account}: use --restart"
                )
            with errors.open(
                "r+b" if before is not None and errors.exists() else "wb"
            ) as errors_file:
                work = cls(account, file, errors_file, note, digest, size)
                if before is not None:
                    work.done, work.lines = before.done, before.lines
                    work.summary = Summary(before.summary.written, before.summary.failed)
                    errors_file.truncate(before.errors)
                    errors_file.seek(0, os.SEEK_END)
                yield work
        if not errors.stat().st_size:
            errors.unlink()

    def batches(self) -> Iterator[Batch]:
        """The rest of the file. Blank lines are skipped."""
        self._file.seek(self.done)
        batch, number, size = Batch(), self.lines, 0
        while line := self._file.readline(LINE_MAX + 1):
            number += 1
            if len(line) > LINE_MAX and not line.endswith(b"\n"):
                self._skip_line()
                batch.errors[number] = f"the line has more than {LINE_MAX} bytes"
            elif line.strip():
                self._add(batch, number, line)
            batch.end, batch.last_line = self._file.tell(), number
            size += len(line)
            if len(batch.rows) + len(batch.errors) >= BATCH or size >= BATCH_BYTES:
                yield batch
                batch, size = Batch(), 0
        if batch.last_line:
            yield batch

    def _skip_line(self) -> None:
        while (rest := self._file.readline(LINE_MAX)) and not rest.endswith(b"\n"):
            pass

    def _add(self, batch: Batch, number: int, line: bytes) -> None:
        try:
            row = parse(line.removeprefix(BOM) if number == 1 else line)
        except ValueError as error:
            batch.errors[number] = f"not JSON: {error}"
            return
        if problem := problem_in(row):
            batch.errors[number] = problem
            return
        if isinstance(row, dict) and row.get("key") is None:
            row["key"] = uuid5(_NAMES, f"{self.account}/{self._digest}/{number}").hex
        batch.rows.append((number, row))

    def finish(self, batch: Batch) -> None:
        """Note the errors and the progress after a batch that the server has accepted."""
        for number, reason in sorted(batch.errors.items()):
            self._errors.write(
                json.dumps({"line": number, "error": reason}, ensure_ascii=False).encode() + b"\n"
            )
        self._errors.flush()
        wrong = len(batch.errors)
        not_json = wrong - sum(number in batch.errors for number, _ in batch.rows)
        self.summary.written += len(batch.rows) - (wrong - not_json)
        self.summary.failed += wrong
        self.done, self.lines = batch.end, batch.last_line
        summary = _NotedSummary(self.summary.written, self.summary.failed)
        note = _Note(
            self.account, self._digest, self.done, self.lines, self._errors.tell(), summary
        )
        draft = self._note.with_name(self._note.name + ".new")
        draft.write_bytes(msgspec.json.encode(note))
        draft.replace(self._note)

    def end(self) -> None:
        """Remove FILE.progress: the whole file is imported."""
        self._note.unlink(missing_ok=True)
