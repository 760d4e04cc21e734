"""Between the HTTP engine (httpcore2 on h11) and a connection: what arrives is handed over in
bounded pieces.

h11 parses whatever it is given in one step, and for some input that takes quadratic time: a header
of 16 KiB of spaces takes two seconds. So a head is handed over whole, after checks, and never with
a piece of the body; a chunked body is handed over in pieces so small that no line in them can be
long. Between two pieces, everything else gets to run.
"""

from __future__ import annotations

import re

import httpcore2
from attrs import define, field

from .connection import READ, Connection
from .errors import EgressError, excerpt, not_http
from .pace import Work

HEAD_MAX = 100 * 1024  # bytes, of all heads of one answer
LINES_MAX = 500  # likewise
BLANKS_MAX = 256  # spaces and tabs in a row, in a head
INFORMATIONAL_MAX = 32  # answers such as 100 Continue before the answer itself
CHUNK_LINE_MAX = 1024  # bytes; also of the headers after a body in chunks
PIECE = 1024  # bytes of a body in chunks that are parsed at once

_BEGINNING = b"HTTP/"
_END = re.compile(rb"\n\r?\n")
_BLANKS = re.compile(rb"[ \t]{%d}" % (BLANKS_MAX + 1))
_INFORMATIONAL = re.compile(rb"HTTP/[0-9.]+ 1")
_SWITCHING = re.compile(rb"HTTP/[0-9.]+ 101")


@define(eq=False)
class EngineStream(httpcore2.AsyncNetworkStream):
    """The stream that the engine reads and writes: one connection, one request after another."""

    connection: Connection
    is_over: bool = field(default=False, init=False)  # the server has closed its side
    # bytes of this answer handed over, its heads included
    received: int = field(default=0, init=False)
    _work: Work | None = field(default=None, init=False)
    _piece: int = field(default=0, init=False)  # 0: the head is not complete
    _size: int = field(default=0, init=False)  # bytes of the heads so far
    _lines: int = field(default=0, init=False)
    _informational: int = field(default=0, init=False)

    def begin(self, work: Work) -> None:
        """Prepare for a request. Reading its answer is part of `work`, which is entered while the
        engine runs.
        """
        self._work = work
        self.received = self._piece = self._size = self._lines = self._informational = 0

    def begin_body(self, *, is_chunked: bool) -> None:
        """Prepare for the body, once the head is complete."""
        self._piece = PIECE if is_chunked else READ

    async def read(
        self,
        max_bytes: int,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109  # the interface's
    ) -> bytes:
        """Return the next piece; empty at the end."""
        assert self._work is not None
        if self._work.is_over():
            await self._work.rest()
        piece = await self._body(min(max_bytes, self._piece)) if self._piece else await self._head()
        self.received += len(piece)
        return piece

    async def _head(self) -> bytes:
        """Return the bytes up to and including the next empty line."""
        buffer = self.connection.buffer
        searched = 0
        while True:
            beginning = buffer[: len(_BEGINNING)]
            if beginning != _BEGINNING[: len(beginning)]:
                line = buffer.partition(b"\n")[0]
                raise not_http(f"it begins with {excerpt(line)!r}")
            end = _END.search(buffer, searched)
            if self._size + (len(buffer) if end is None else end.end()) > HEAD_MAX:
                raise EgressError(f"the answer has headers of more than {HEAD_MAX} bytes")
            if end is not None:
                return self._checked(self._take(end.end()))
            searched = max(0, len(buffer) - 2)
            if not await self._receive():
                raise EgressError("the answer was cut off in its headers")

    def _checked(self, head: bytes) -> bytes:
        self._size += len(head)
        self._lines += head.count(b"\n")
        if self._lines > LINES_MAX:
            raise EgressError(f"the answer has more than {LINES_MAX} header lines")
        if _BLANKS.search(head):
            raise EgressError(f"a header has more than {BLANKS_MAX} spaces in a row")
        if _SWITCHING.match(head):
            raise EgressError("the server switches to another protocol (101) without being asked")
        if _INFORMATIONAL.match(head):
            self._informational += 1
            if self._informational > INFORMATIONAL_MAX:
                raise EgressError(
                    f"the server sent more than {INFORMATIONAL_MAX} informational answers (1xx), "
                    "and no other"
                )
        return head

    async def _body(self, most: int) -> bytes:
        if not self.connection.buffer and not await self._receive():
            self.is_over = True
            return b""
        return self._take(most)

    def _take(self, most: int) -> bytes:
        piece = bytes(self.connection.buffer[:most])
        del self.connection.buffer[:most]
        return piece

    async def _receive(self) -> bool:
        """Wait for more; meanwhile others may work."""
        assert self._work is not None
        await self._work.leave()
        received = await self.connection.receive()
        await self._work.enter()
        return received

    async def write(
        self,
        buffer: bytes,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109  # the interface's
    ) -> None:
        """Send. If the server has hung up, reading its answer will show it."""
        await self.connection.send(buffer)

    async def aclose(self) -> None:
        """Close the socket."""
        self.connection.close()

    def get_extra_info(self, info: str) -> object:  # noqa: ARG002  # the interface's
        """Nothing: the pool finds out whether a kept connection is still usable."""
        return None


class Engine(httpcore2.AsyncHTTP11Connection):
    """HTTP/1.1 on one connection. Heads come whole, so only a line about a chunk is incomplete."""

    MAX_INCOMPLETE_EVENT_SIZE = CHUNK_LINE_MAX

    def has_more(self) -> bool:
        """Whether something arrived after the answer."""
        return bool(self._h11_state.trailing_data[0])
