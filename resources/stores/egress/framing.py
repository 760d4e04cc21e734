"""Where a body ends: after so many bytes, after its last chunk, or with the connection."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

from attrs import define, field

from .errors import EgressError, not_http
from .head import Length

PIECE = 16 * 1024  # bytes at a time
CHUNKS = 256  # likewise, chunks
SMALL_CHUNKS_MAX = 16 * 1024  # of a body, beyond those of 4 bytes and more
CHUNK_LINE_MAX = 4096
EXCESS_MAX = 16 * 1024  # bytes of chunk lines beyond what bodies are worth, as in Go: 16 a chunk and 2 a byte are free
TRAILER_MAX = 16 * 1024

_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*+(?:;[^\r\n]*+)?+\r\n")
_END = re.compile(rb"\n\r?\n")
_NOT_ENDED = "the answer was cut off: its last chunk did not come"


class Framing(Protocol):
    """The rule for the end of one body."""

    @property
    def done(self) -> bool:
        """Whether the body is complete."""

    def feed(self, buffer: bytearray) -> Iterator[bytes]:
        """Take what belongs to the body from the buffer, piece by piece; pieces may be empty."""

    def end(self) -> None:
        """The connection has ended. Raises EgressError where more was to come."""


def framing_of(length: int | Length) -> Framing:
    """Return the rule for a body of this length."""
    if isinstance(length, int):
        return _Sized(length)
    return _Chunked() if length is Length.CHUNKED else _UntilClose()


@define(eq=False)
class _Sized:
    _size: int
    _left: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._left = self._size

    @property
    def done(self) -> bool:
        return not self._left

    def feed(self, buffer: bytearray) -> Iterator[bytes]:
        while self._left and buffer:
            piece = bytes(buffer[: min(PIECE, self._left)])
            del buffer[: len(piece)]
            self._left -= len(piece)
            yield piece

    def end(self) -> None:
        raise EgressError(f"the answer was cut off: {self._size - self._left} of {self._size} bytes came")


@define(eq=False)
class _UntilClose:
    done: bool = field(default=False, init=False)

    def feed(self, buffer: bytearray) -> Iterator[bytes]:
        while buffer:
            piece = bytes(buffer[:PIECE])
            del buffer[: len(piece)]
            yield piece

    def end(self) -> None:
        self.done = True


@define(eq=False)
class _Chunked:
    done: bool = field(default=False, init=False)
    _left: int = field(default=0, init=False)  # bytes of this chunk
    _closing: bool = field(default=False, init=False)  # a chunk is complete but for its line end
    _in_trailer: bool = field(default=False, init=False)
    _excess: int = field(default=0, init=False)
    _chunks_left: int = field(default=SMALL_CHUNKS_MAX, init=False)

    def feed(self, buffer: bytearray) -> Iterator[bytes]:
        while buffer and not self.done:
            if self._in_trailer:
                self._trailer(buffer)
                return
            pieces: list[bytes] = []
            used = self._chunks(buffer, pieces)
            del buffer[:used]
            yield b"".join(pieces)
            if not used:
                return

    def end(self) -> None:
        raise EgressError(_NOT_ENDED)

    def _chunks(self, buffer: bytearray, pieces: list[bytes]) -> int:
        """Read some chunks, or what there is of one; return how many bytes they took."""
        at = 0
        for _ in range(CHUNKS):
            if not self._left:
                begins = self._line(buffer, at)
                if not begins:
                    break
                at = begins
                if not self._left:
                    self._in_trailer = True
                    break
            piece = bytes(buffer[at : at + min(self._left, PIECE)])
            pieces.append(piece)
            at += len(piece)
            self._left -= len(piece)
            self._closing = not self._left
            if self._left or len(piece) == PIECE:
                break
        return at

    def _line(self, buffer: bytearray, at: int) -> int:
        """Read the line before the next chunk; return where it ends, or 0 if more must come."""
        if self._closing:
            ending = buffer[at : at + 2]
            if ending != b"\r\n":
                if b"\r\n".startswith(ending):
                    return 0
                raise not_http("a chunk does not end where it says")
            at += 2
        line = _CHUNK.match(buffer, at, at + CHUNK_LINE_MAX)
        if line is None:
            if buffer.find(b"\n", at, at + CHUNK_LINE_MAX) >= 0:
                raise not_http("a chunk does not begin with its size")
            if len(buffer) - at >= CHUNK_LINE_MAX:
                raise EgressError(f"the answer has a chunk with {CHUNK_LINE_MAX} bytes or more about it")
            return 0
        self._closing = False
        self._left = int(line[1], 16)
        self._excess = max(0, self._excess + len(line[0]) - 16 - 2 * self._left)
        if self._excess > EXCESS_MAX:
            raise EgressError("the answer has more about its chunks than in them")
        self._chunks_left += self._left // 4 - 1
        if self._chunks_left < 0:
            raise EgressError(f"the answer has more than {SMALL_CHUNKS_MAX} chunks of a few bytes")
        return line.end()

    def _trailer(self, buffer: bytearray) -> None:
        """Skip the headers after the last chunk, up to an empty line."""
        if buffer[:2] == b"\r\n" or buffer[:1] == b"\n":
            end = buffer.index(b"\n") + 1
        else:
            found = _END.search(buffer)
            end = 0 if found is None else found.end()
        if (end or len(buffer)) > TRAILER_MAX:
            raise EgressError(f"the answer has headers of more than {TRAILER_MAX} bytes after its body")
        if end:
            del buffer[:end]
            self.done = True
