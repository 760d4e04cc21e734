"""Whether tantivy's files are whole. It writes a checksum at the end of each, but opens files
without looking at it, and then gives wrong answers or fails at a query.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

# The parts of a segment, those first that decide what is found.
_PARTS = ("idx", "term", "fast", "pos", "fieldnorm", "store")
_MAGIC = 1337  # the last four bytes of a file; before it the length of the footer, and that
_TAIL = 8
_CHUNK = 1 << 20


class Damaged(Exception):
    """A file is missing, or not as it was written; the text says which."""


def check_index(folder: Path, most: int | None = None) -> None:
    """Read the files of an index, at most `most` bytes of them; that each is there and has its end
    is checked in any case.

    Raises:
        Damaged: Something is wrong with one of them.
        OSError: One cannot be read.
    """
    left = most
    for file in _files(folder):
        try:
            size = file.stat().st_size
        except FileNotFoundError:
            raise Damaged(f"{file} is missing") from None
        expected, length = _footer(file, size)
        if left is None or length <= left:
            left = left and left - length
            if _sum(file, length) != expected:
                raise Damaged(f"{file} has been changed")


def _files(folder: Path) -> list[Path]:
    try:
        segments = json.loads((folder / "meta.json").read_bytes())["segments"]
        names = [(one["segment_id"].replace("-", ""), one["deletes"]) for one in segments]
        deleted = [f"{name}.{gone['opstamp']}.del" for name, gone in names if gone is not None]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{folder}/meta.json cannot be read: {error}") from error
    every = [f"{name}.{part}" for part in _PARTS for name, _ in names]
    return [folder / name for name in (*deleted, *every)]


def _footer(file: Path, size: int) -> tuple[int, int]:
    """The checksum that a file should have, and of how many bytes."""
    with file.open("rb") as stream:
        stream.seek(max(size - _TAIL, 0))
        tail = stream.read(_TAIL)
        length = int.from_bytes(tail[:4], "little")
        if len(tail) < _TAIL or int.from_bytes(tail[4:], "little") != _MAGIC:
            raise Damaged(f"{file} is cut short")
        begin = size - _TAIL - length
        if begin < 0:
            raise Damaged(f"{file} is cut short")
        stream.seek(begin)
        try:
            return int(json.loads(stream.read(length))["crc"]), begin
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{file} has no checksum: {error}") from error


def _sum(file: Path, length: int) -> int:
    found = 0
    with file.open("rb") as stream:
        while length and (data := stream.read(min(_CHUNK, length))):
            found, length = zlib.crc32(data, found), length - len(data)
    return found
