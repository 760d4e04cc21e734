"""The rows of a file that is imported: JSON Lines, or CSV with a header row.

Files are read from any row on, so that an import can be resumed, and row by row, however large they
are. A row that cannot be read is reported with its line, and the next ones are read.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from attrs import define, field, frozen

from resources.text import visible

from ..admin.strict_json import parse, problem_in

BOM = b"\xef\xbb\xbf"
LINE_MAX = 1 << 20  # bytes of a row; a longer one is invalid
RECORD_LINES = 1000  # of a CSV row, whose texts may have several; more: a quote is not closed
COLUMNS_MAX = 1100  # a contact may have 1,000 fields
DELIMITERS = ",;\t"
GROUPS_SPLIT = ";"  # between the names in a cell


class Unreadable(Exception):
    """The file as a whole cannot be imported; the text says why."""


@frozen
class Row:
    """One row, or what is wrong with it.

    Attributes:
        line: The line that it begins on, from 1.
        value: Its fields; anything else that is JSON will be refused by the server.
        end: Where the next one begins, in bytes.
        last_line: The line that it ends on.
    """

    line: int
    value: Any
    error: str
    end: int
    last_line: int


def json_rows(file: BinaryIO, start: int, lines: int) -> Iterator[Row]:
    """The rows of JSON Lines from `start` on, after `lines` lines. Blank lines are skipped."""
    file.seek(start)
    number = lines
    while line := file.readline(LINE_MAX + 1):
        number += 1
        value, error = None, ""
        if len(line) > LINE_MAX and not line.endswith(b"\n"):
            _skip_line(file)
            error = f"the line has more than {LINE_MAX} bytes"
        elif line.strip():
            value, error = _json(line.removeprefix(BOM) if number == 1 else line)
        else:
            continue
        yield Row(number, value, error, file.tell(), number)


def _json(line: bytes) -> tuple[Any, str]:
    try:
        row = parse(line)
    except ValueError as error:
        return None, f"not JSON: {error}"
    return row, problem_in(row)


def _skip_line(file: BinaryIO) -> None:
    while (rest := file.readline(LINE_MAX)) and not rest.endswith(b"\n"):
        pass


@frozen
class Header:
    """The first row of a CSV file: its columns, and where the second row begins."""

    columns: Sequence[str]
    delimiter: str
    end: int
    lines: int


@frozen
class Columns:
    """What a CSV file may have as columns.

    Attributes:
        names: Known ones.
        prefixes: What other columns may begin with.
        needed: Those that it must have.
    """

    names: Sequence[str]
    prefixes: tuple[str, ...] = ()
    needed: Sequence[str] = ()


def read_header(file: BinaryIO, known: Columns) -> Header:
    """Read the first row of a CSV file.

    Raises:
        Unreadable: It is no header, or has columns that nobody knows.
    """
    file.seek(0)
    line = file.readline(LINE_MAX).removeprefix(BOM)
    end = file.tell()
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise Unreadable(
            "line 1 is not UTF-8: save the file as CSV in UTF-8 (not Unicode text or ANSI)"
        ) from None
    delimiter = max(DELIMITERS, key=text.count) if text.strip() else ","
    try:
        (found,) = csv.reader([text.rstrip("\r\n")], delimiter=delimiter, strict=True)
    except (csv.Error, ValueError) as error:
        raise Unreadable(f"line 1: expected a row with the names of the columns: {error}") from None
    columns = [name.strip() for name in found]
    if problem := _header_problem(columns, known):
        raise Unreadable(f"line 1: {problem}")
    return Header(columns, delimiter, end, 1)


def _header_problem(columns: Sequence[str], known: Columns) -> str:
    names = [*known.names, *(f"{prefix}NAME" for prefix in known.prefixes)]
    if not any(columns):
        return "expected a row with the names of the columns"
    if len(columns) > COLUMNS_MAX:
        return f"expected {COLUMNS_MAX} columns at most, got {len(columns)}"
    for number, name in enumerate(columns, 1):
        is_own = any(name.startswith(one) and name != one for one in known.prefixes)
        if name not in known.names and not is_own:
            close = difflib.get_close_matches(name[:100].lower(), known.names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(names)}"
            return f"column {number}: there is no field {visible(name[:100])!r}; {hint}"
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        return f"two columns are named {visible(twice[:100])!r}"
    missing = [name for name in known.needed if name not in columns]
    return f"there is no column {missing[0]!r}" if missing else ""


@define
class _Lines:
    """Feeds a CSV reader, line by line, and knows how far it has read."""

    file: BinaryIO
    number: int
    size: int = field(default=0, init=False)  # bytes of the row so far
    count: int = field(default=0, init=False)  # lines of it

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self.count >= RECORD_LINES or self.size > LINE_MAX:
            raise csv.Error(_TOO_LONG)
        line = self.file.readline(LINE_MAX + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.count += 1
        self.size += len(line)
        if len(line) > LINE_MAX:
            raise csv.Error(_TOO_LONG)
        return line.decode()

    def begin(self) -> None:
        self.size = self.count = 0


_TOO_LONG = f"more than {LINE_MAX} bytes or {RECORD_LINES} lines: is a quote not closed?"


def csv_rows(file: BinaryIO, start: int, lines: int, header: Header) -> Iterator[Row]:
    """The rows of a CSV file from `start` on, after `lines` lines, as objects of texts by
    column. Empty cells are left out, and empty rows skipped. After a row that cannot be read, the
    next line is taken to begin a row.
    """
    if start < header.end:
        start, lines = header.end, header.lines
    file.seek(start)
    feed = _Lines(file, lines)
    reader = _reader(feed, header)
    while True:
        begin, line = file.tell(), feed.number + 1
        feed.begin()
        cells, error = list[str](), ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except UnicodeDecodeError:
            error = "not UTF-8"
        except csv.Error as wrong:
            is_open = str(wrong) == "unexpected end of data"
            error = "not CSV: a quote is not closed" if is_open else f"not CSV: {wrong}"
        if error:
            file.seek(begin)
            if not file.readline(LINE_MAX).endswith(b"\n"):
                _skip_line(file)
            feed.number = line
            reader = _reader(feed, header)
        elif not any(cell.strip() for cell in cells):
            continue
        elif len(cells) != len(header.columns):
            error = f"expected {len(header.columns)} cells as in line 1, got {len(cells)}"
        value = {} if error else _fields(header.columns, cells)
        yield Row(line, value, error, file.tell(), feed.number)


def _reader(feed: _Lines, header: Header) -> Any:
    csv.field_size_limit(LINE_MAX)
    return csv.reader(feed, delimiter=header.delimiter, strict=True)


def _fields(columns: Sequence[str], cells: Sequence[str]) -> Mapping[str, Any]:
    found: dict[str, Any] = {
        name: cell for name, cell in zip(columns, cells, strict=True) if cell.strip()
    }
    if "groups" in found:
        names = (name.strip() for name in found["groups"].split(GROUPS_SPLIT))
        found["groups"] = [name for name in names if name]
    return found
