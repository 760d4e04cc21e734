"""Text files that a config is made of: read with a bound, and only where reading ends."""

from __future__ import annotations

import os
import stat
from pathlib import Path

CHUNK = 1 << 20
FILE_MAX = 16 << 20  # bytes of an app or a config value
BOM = b"\xef\xbb\xbf"


class Unreadable(Exception):
    """A file cannot be had as text; the text says why, without its name."""


def read_text(file: Path, most: int) -> str:
    """The text of a regular file of at most `most` bytes of UTF-8; a byte order mark is not part of
    it.

    Line ends are as in Python's own text files. Never waits for a pipe or a device.

    Raises:
        Unreadable: It cannot be read, or is not that.
    """
    try:
        data = _read(file, most)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    except ValueError as error:  # NUL in its name, or half of a surrogate pair
        raise Unreadable(f"its name cannot be one: {error}") from error
    try:
        text = data.removeprefix(BOM).decode()
    except UnicodeDecodeError as error:
        raise Unreadable("it is not UTF-8 text") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read(file: Path, most: int) -> bytes:
    _check_kind(os.stat(file))  # noqa: PTH116  # before it is opened: to open a device may do something
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as stream:  # noqa: PTH123
        _check_kind(os.fstat(descriptor))
        parts, size = [], 0
        # files of /proc have no size, and give what they have bit by bit
        while part := stream.read(CHUNK):
            size += len(part)
            if size > most:
                raise Unreadable(f"it is larger than {most} bytes")
            parts.append(part)
    if part is None:
        raise Unreadable("it has nothing to read at the moment")
    return b"".join(parts)


def _check_kind(found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise Unreadable("it is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise Unreadable("it is no regular file")
