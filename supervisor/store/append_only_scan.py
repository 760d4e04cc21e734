"""Find the whole commands in an append-only file.

It holds nothing else, until a full disk or a power cut:

- The last command is cut short, or followed by zeros or garbage. What is not a whole command is
  lost; a MULTI without its EXEC counts as one command.
- There are zeros between two commands. After a short write Valkey truncates the file to its last
  whole command, but goes on writing where the short write ended (9.1: an increment is not opened
  for appending until a restart). What follows the hole was answered and is as good as what precedes
  it, so it is kept. Valkey's own tool (valkey-check-aof) would cut there.

Reading ends at anything else between two commands: if we searched garbage for the next command, a
value that an app has written could be run as one.
"""

from __future__ import annotations

import os
from pathlib import Path

from attrs import frozen

MULTI, EXEC = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"
LINE_MAX = 1024  # bytes of an annotation
NUMBER_MAX = 24  # bytes of a line with a length
ARGUMENTS_MAX = 1 << 20  # of one command
CHUNK = 1 << 20  # bytes read at a time


@frozen
class Scan:
    """What can be kept of an increment: ranges of bytes, from and to. `lost`: bytes of commands
    that cannot be kept.
    """

    size: int
    kept: tuple[tuple[int, int], ...]
    lost: int

    @property
    def is_whole(self) -> bool:
        """Whether all of it can be kept."""
        return self.kept_bytes == self.size

    @property
    def kept_bytes(self) -> int:
        """How many bytes can be kept."""
        return sum(end - start for start, end in self.kept)


def scan(file: Path) -> Scan:
    """Find the whole commands of an increment. It is read, not mapped, so that a disk error is an
    OSError.
    """
    with file.open("rb", buffering=0) as opened:
        return _scan(_Window(opened.fileno()), os.fstat(opened.fileno()).st_size)


class _Window:
    """Any bytes of a file; those that follow are read ahead."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._start, self._data = 0, b""

    def get(self, at: int, size: int) -> bytes:
        """`size` bytes from a position; fewer at the end of the file."""
        begin = at - self._start
        if begin < 0 or begin + size > len(self._data):
            self._start, self._data = at, os.pread(self._descriptor, max(size, CHUNK), at)
            begin = 0
        return self._data[begin : begin + size]


def _scan(data: _Window, size: int) -> Scan:
    kept, lost = list[tuple[int, int]](), 0
    start = at = 0  # where the current range began; where we are
    multi: int | None = None  # where a transaction began that has not ended yet
    while at < size:
        kind = data.get(at, 1)
        end = _end_of(data, at, size) if kind in (b"*", b"#") else None
        if end is not None:
            word = data.get(at, end - at).upper() if end - at <= len(MULTI) else b""
            multi = at if word == MULTI else None if word == EXEC else multi
            at = end
            continue
        whole = at if multi is None else multi
        kept.append((start, whole))
        lost += at - whole
        multi = None
        following = _skip_zeros(data, at, size) if kind == b"\0" else at
        if following == at or (following < size and data.get(following, 1) not in (b"*", b"#")):
            lost += _last_not_zero(data, at, size) - at
            return Scan(size, _pieces(kept), lost)
        start = at = following
    whole = size if multi is None else multi
    kept.append((start, whole))
    return Scan(size, _pieces(kept), lost + at - whole)


def _pieces(found: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    return tuple((start, end) for start, end in found if end > start)


def _end_of(data: _Window, at: int, size: int) -> int | None:
    """Where the command or annotation at a position ends; None if there is no whole one."""
    if data.get(at, 1) == b"#":
        end = data.get(at, LINE_MAX).find(b"\n")
        return None if end < 0 else at + end + 1
    count, at = _number(data, at, b"*")
    if not 0 < count <= ARGUMENTS_MAX:
        return None
    for _ in range(count):
        length, at = _number(data, at, b"$")
        if length < 0 or at + length + 2 > size or data.get(at + length, 2) != b"\r\n":
            return None
        at += length + 2
    return at


def _number(data: _Window, at: int, sign: bytes) -> tuple[int, int]:
    """The number after the sign at a position (-1: none), and where the next line begins."""
    line, found, _ = data.get(at, NUMBER_MAX).partition(b"\r\n")
    if not found or line[:1] != sign or not line[1:].isdigit():
        return -1, at
    return int(line[1:]), at + len(line) + 2


def _skip_zeros(data: _Window, at: int, size: int) -> int:
    while at < size:
        piece = data.get(at, CHUNK)
        rest = piece.lstrip(b"\0")
        at += len(piece) - len(rest)
        if rest or not piece:
            return at
    return size


def _last_not_zero(data: _Window, at: int, size: int) -> int:
    end = size
    while end > at:
        begin = max(at, end - CHUNK)
        rest = data.get(begin, end - begin).rstrip(b"\0")
        if rest:
            return begin + len(rest)
        end = begin
    return at
