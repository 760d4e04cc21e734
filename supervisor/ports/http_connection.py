"""A client of a port that speaks HTTP/1.1: reads its requests and writes its answers, within bounds
of bytes and time.

A client that is silent, or that takes its answer too slowly, loses its connection. At most `READ`
bytes and one head of what it sends are held; the parts of a body are passed on as they come.
"""

from __future__ import annotations

import re
from contextlib import suppress
from enum import Enum
from time import perf_counter

import trio
from attrs import define, field

from .http_head import Head, Unacceptable, parse_head

HEAD_SECONDS = 5.0  # for a whole head, from accept or from the end of the previous answer
BODY_SECONDS = 60.0  # for a whole body
WRITE_SECONDS = 10.0  # for the client to take `WRITE` bytes
# For a client to read the last answer, before what it still sends would reset the connection.
LINGER_SECONDS = 1.0
HEAD_MAX = 16 << 10  # bytes
BODY_MAX = 16 << 20  # bytes
READ, WRITE = 64 << 10, 16 << 10  # bytes at a time
SLICE = 0.005  # seconds of work on what one client sent, until other tasks run
LINE_MAX = 1 << 10  # bytes of the line before a chunk, or of a header after the body
TRAILERS_MAX = 20  # headers after the body
STEPS = 500  # of reading a chunked body, without a pause

_END = re.compile(rb"\n\r?\n")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00\r\n]*)?\r?\n")


class Gone(OSError):
    """The client closed the connection, or is too slow."""


@define(eq=False)
class HttpConnection:
    """One client, and what was received of it already. `has_answered`: something was sent to it."""

    stream: trio.abc.Stream
    received: bytes = b""
    has_answered: bool = field(default=False, init=False)
    _buffer: bytearray = field(init=False)
    _is_at_end: bool = field(default=False, init=False)  # the client sends no more
    _since: float = field(factory=perf_counter, init=False)

    def __attrs_post_init__(self) -> None:
        self._buffer = bytearray(self.received)

    async def head(self) -> Head | None:
        """Wait for the head of the next request; None if there will be none.

        Raises:
            Unacceptable: What came is not a request. No other can follow.
        """
        block = None
        with trio.move_on_after(HEAD_SECONDS):
            block = await self._block()
        if block is None:
            if self._buffer and not self._is_at_end:
                raise Unacceptable(408, f"no request came in {HEAD_SECONDS:g} s")
            return None
        return parse_head(block)

    async def _block(self) -> bytes | None:
        """Read up to and including the next empty line; None if the client closes before that."""
        searched = 0
        while True:
            if self._buffer.startswith((b"\r", b"\n")):  # some send an empty line after a body
                del self._buffer[: len(self._buffer) - len(self._buffer.lstrip(b"\r\n"))]
            end = _END.search(self._buffer, searched)
            if (len(self._buffer) if end is None else end.end()) > HEAD_MAX:
                raise Unacceptable(431, f"the head has more than {HEAD_MAX} bytes")
            if end is not None:
                block = bytes(self._buffer[: end.end()])
                del self._buffer[: end.end()]
                return block
            searched = max(0, len(self._buffer) - 2)
            if not await self.receive():
                return None

    async def give_way(self) -> None:
        """Let other tasks run, once this client has kept us busy for `SLICE` seconds."""
        if perf_counter() - self._since > SLICE:
            await trio.lowlevel.checkpoint()
            self._since = perf_counter()

    async def receive(self) -> bool:
        """Read some more; return whether there was more."""
        await self.give_way()
        data = b""
        if not self._is_at_end:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                data = bytes(await self.stream.receive_some(READ))
        self._since = perf_counter()
        self._is_at_end = not data
        self._buffer += data
        return bool(data)

    async def wait_gone(self) -> None:
        """Wait until the client closes its end. What it sends meanwhile is kept for later, as far
        as there is room.
        """
        while len(self._buffer) < HEAD_MAX:
            if not await self.receive():
                return
        await trio.sleep_forever()

    async def send(self, data: bytes) -> None:
        """Write all of it. Raises Gone."""
        view = memoryview(data)
        for start in range(0, len(data), WRITE):
            with trio.move_on_after(WRITE_SECONDS) as scope:
                try:
                    self.has_answered = True
                    await self.stream.send_all(view[start : start + WRITE])
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    raise Gone("the client has gone") from error
            if scope.cancelled_caught:
                raise Gone("the client reads too slowly")

    async def linger(self) -> None:
        """After the last answer, close our end, then read what the client still sends: unread, it
        would make TCP drop the answer.
        """
        with trio.move_on_after(LINGER_SECONDS):
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                if isinstance(self.stream, trio.SocketStream):
                    await self.stream.send_eof()
                else:
                    await self.stream.aclose()
            while await self.receive():
                self._buffer.clear()

    def take(self, most: int) -> bytes:
        """Take up to `most` of the bytes that were read."""
        part = bytes(self._buffer[:most])
        del self._buffer[: len(part)]
        return part

    def take_line(self, pattern: re.Pattern[bytes], most: int) -> re.Match[bytes] | None:
        """Take a line of at most `most` bytes from what was read; None if it is not whole yet.

        Raises:
            Unacceptable: It is too long, or does not match the pattern.
        """
        end = self._buffer.find(b"\n", 0, most)
        if end < 0 and len(self._buffer) < most:
            return None
        found = pattern.fullmatch(bytes(self._buffer[: end + 1])) if end >= 0 else None
        if found is None:
            raise Unacceptable(400, "the body is not in well-formed chunks")
        del self._buffer[: end + 1]
        return found


_EMPTY = re.compile(rb"\r?\n")
_ANY = re.compile(rb"[^\n]*\n")


class _Next(Enum):
    """What comes next in a body."""

    DATA = "bytes of the body, or of a chunk"
    LINE_END = "the line end after a chunk"
    CHUNK = "the line before a chunk"
    TRAILER = "a header after the body, or the empty line after those"


@define(eq=False)
class Body:
    """The body of one request. `is_read`: it was read to its end."""

    connection: HttpConnection
    head: Head
    is_read: bool = field(init=False)
    _left: int = field(init=False)  # bytes of the body, or of the chunk
    _size: int = field(default=0, init=False)
    _next: _Next = field(init=False)
    _trailers: int = field(default=0, init=False)
    _is_hungry: bool = field(default=False, init=False)  # more must be read first
    _awaits_continue: bool = field(init=False)
    _deadline: float = field(factory=lambda: trio.current_time() + BODY_SECONDS, init=False)

    def __attrs_post_init__(self) -> None:
        self._left = self.head.length or 0
        self._next = _Next.DATA if self.head.length is not None else _Next.CHUNK
        self.is_read = self.head.length == 0
        self._awaits_continue = self.head.awaits_continue and not self.is_read

    async def part(self) -> bytes:
        """Wait for the next part; empty at the end.

        Raises:
            Unacceptable: The body is too large, comes too slowly, or is not what its head says.
            Gone: The client closed the connection.
        """
        while not self.is_read:
            await self.connection.give_way()
            self._check_size()
            if self._awaits_continue:
                self._awaits_continue = False
                await self.connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            part = self._take()
            if part:
                return part
            if self._is_hungry:
                await self._more()
        return b""

    async def read_away(self, most: int) -> bool:
        """Read what the application left of it, up to `most` bytes of the body; return whether that
        was all.
        """
        if self._awaits_continue:
            return False
        while not self.is_read and self._size + self._left <= most:
            await self.part()
        return self.is_read

    async def _more(self) -> None:
        with trio.move_on_at(self._deadline) as scope:
            if not await self.connection.receive():
                raise Gone("the client has gone")
        if scope.cancelled_caught:
            raise Unacceptable(408, f"the body did not come in {BODY_SECONDS:g} s")

    def _take(self) -> bytes:
        """Take what was read of the body, if anything; of many short chunks, only some."""
        self._is_hungry = False
        parts = []
        for _ in range(STEPS):
            if self.is_read or self._is_hungry:
                break
            parts.append(self._step())
        part = b"".join(parts)
        self._size += len(part)
        return part

    def _step(self) -> bytes:
        match self._next:
            case _Next.DATA:
                return self._data()
            case _Next.LINE_END:
                if self._line(_EMPTY, len(b"\r\n")) is not None:
                    self._next = _Next.CHUNK
            case _Next.CHUNK:
                if (line := self._line(_CHUNK, LINE_MAX)) is not None:
                    self._left = int(line[1], 16)
                    self._next = _Next.DATA if self._left else _Next.TRAILER
                    self._check_size()
            case _Next.TRAILER:
                if (line := self._line(_ANY, LINE_MAX)) is not None:
                    self._trailers += 1
                    self.is_read = not line[0].strip()
                    if self._trailers > TRAILERS_MAX:
                        text = f"expected at most {TRAILERS_MAX} headers after the body"
                        raise Unacceptable(431, text)
        return b""

    def _data(self) -> bytes:
        part = self.connection.take(min(self._left, READ))
        self._left -= len(part)
        self._is_hungry = not part
        if not self._left:
            self.is_read = self.head.length is not None
            self._next = _Next.LINE_END
        return part

    def _line(self, pattern: re.Pattern[bytes], most: int) -> re.Match[bytes] | None:
        line = self.connection.take_line(pattern, most)
        self._is_hungry = line is None
        return line

    def _check_size(self) -> None:
        if self._size + self._left > BODY_MAX:
            raise Unacceptable(413, f"the body has more than {BODY_MAX} bytes")
