"""RESP, as far as a proxy has to know it: where a command ends, and where an answer does."""

from __future__ import annotations

from typing import BinaryIO

Command = tuple[bytes, ...]


def _line(file: BinaryIO) -> bytes:
    line = file.readline()
    if not line.endswith(b"\r\n"):
        raise EOFError
    return line


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise EOFError
    return data


def read_command(file: BinaryIO) -> Command:
    return tuple(_exactly(file, int(_line(file)[1:]) + 2)[:-2] for _ in range(int(_line(file)[1:])))


def read_answer(file: BinaryIO) -> bytes:
    """One answer as it came, of RESP2 or RESP3."""
    line = _line(file)
    kind, rest = line[:1], line[1:-2]
    if kind in b"$=!":
        return line if int(rest) < 0 else line + _exactly(file, int(rest) + 2)
    if kind in b"*~>%|":
        parts = int(rest) * (2 if kind in b"%|" else 1) + (kind == b"|")
        return line + b"".join(read_answer(file) for _ in range(parts))
    return line
