"""Reading the text files of a config: with a bound, and never from a pipe or device."""

from __future__ import annotations

import os
import stat
from pathlib import Path

CHUNK = 1 << 20  # bytes read at a time
FILE_MAX = 16 << 20  # bytes of an app or a config value
BOM = b"\xef\xbb\xbf"


class Unreadable(Exception):
    """A file cannot be read as text; the message says why, without the file's name."""


def read_text(file: Path, most: int) -> str:
    """Read a regular file of at most `most` bytes of UTF-8, without its byte order mark.

    Line ends become newlines. Never waits for a pipe or a device.

    Raises:
        Unreadable: It cannot be read, is too large, or is not a regular file of UTF-8.
    """
    try:
        data = _read(file, most)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    except ValueError as error:  # NUL, or half of a surrogate pair, in its name
        raise Unreadable(f"its name cannot be one: {error}") from error
    try:
        text = data.removeprefix(BOM).decode()
    except UnicodeDecodeError as error:
        raise Unreadable("it is not UTF-8 text") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read(file: Path, most: int) -> bytes:
    _check_kind(os.stat(file))  # noqa: PTH116  # before opening it: opening a device may act
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as stream:  # noqa: PTH123  # a descriptor
        _check_kind(os.fstat(descriptor))
        parts, size = [], 0
        # files in /proc report no size and are read piece by piece
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
        raise Unreadable("it is not a regular file")
