"""The head of an answer, bounded in bytes, lines and informational answers before it.

Parsed here, in linear time: h11 tries a line such as "a:", many spaces and a NUL anew from each
character.
"""

from __future__ import annotations

import re
from enum import Enum

from attrs import frozen

from .connection import Connection
from .errors import EgressError, excerpt, not_http
from .pace import Work

HEAD_MAX = 100 * 1024  # bytes, of all heads of one answer
LINES_MAX = 500  # likewise
SMALL = 50  # lines that are parsed at once
INFORMATIONAL_MAX = 32  # answers such as 100 Continue before the answer itself
LENGTH_DIGITS = 18
SWITCHING_PROTOCOLS = 101
NO_BODY = frozenset({204, 304})

_BEGINNING = b"HTTP/"
_END = re.compile(rb"\n\r?\n")
_STATUS = re.compile(rb"HTTP/([0-9]\.[0-9]) ([1-9][0-9][0-9])(?: .*)?", re.DOTALL)
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NEVER = re.compile(rb"[\x00\r]")


class Length(Enum):
    """How long a body is, where it is not a number of bytes."""

    CHUNKED = "in chunks"
    UNTIL_CLOSE = "until the connection is closed"


@frozen
class Head:
    """An answer without its body."""

    version: bytes
    status: int
    headers: list[tuple[bytes, bytes]]  # names in lower case

    def header(self, name: bytes) -> bytes | None:
        """Return the value of a header, of several the last, or None."""
        values = self.values(name)
        return values[-1] if values else None

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of a header that may be given several times."""
        return [value for given, value in self.headers if given == name]

    def items(self, name: bytes) -> list[bytes]:
        """Return the items of a header that is a list, in lower case."""
        items = b",".join(self.values(name)).lower().split(b",")
        return [item for item in map(bytes.strip, items) if item]

    def length(self, method: str) -> int | Length:
        """Return how long the body is.

        Raises:
            EgressError: It cannot be known.
        """
        if method == "HEAD" or self.status in NO_BODY:
            return 0
        transfer = [item for item in self.items(b"transfer-encoding") if item != b"identity"]
        if transfer == [b"chunked"]:
            return Length.CHUNKED
        if transfer:
            raise not_http(f"a transfer encoding that is not chunked: {excerpt(transfer[0])!r}")
        lengths = set(self.items(b"content-length"))
        if not lengths:
            return Length.UNTIL_CLOSE
        length = lengths.pop()
        if lengths or not length.isdigit() or len(length) > LENGTH_DIGITS:
            raise not_http("a Content-Length that is no length")
        return int(length)

    def keeps_alive(self) -> bool:
        """Whether the server takes another request on this connection."""
        return (
            self.version >= b"1.1"
            and b"close" not in self.items(b"connection")
            # With both lengths, servers differ about where the body ends.
            and not (self.values(b"transfer-encoding") and self.values(b"content-length"))
        )


async def read_head(connection: Connection, work: Work) -> Head:
    """Read up to the end of the headers; what is in the buffer after them belongs to the body.

    Raises:
        EgressError: There is no head, or none that can be taken.
    """
    size = lines = 0
    for _ in range(INFORMATIONAL_MAX + 1):
        block = await _block(connection, HEAD_MAX - size)
        size += len(block)
        lines += block.count(b"\n")
        if lines > LINES_MAX:
            raise EgressError(f"the answer has more than {LINES_MAX} header lines")
        async with work:
            if lines > SMALL:
                await work.rest()
            head = _parse(block)
        if head.status >= 200:  # noqa: PLR2004  # the first that is not informational
            return head
        if head.status == SWITCHING_PROTOCOLS:
            raise EgressError("the server switches to another protocol (101), which nobody asked for")
    raise EgressError(f"the server sent more than {INFORMATIONAL_MAX} informational answers (1xx), and no other")


async def _block(connection: Connection, most: int) -> bytes:
    """The bytes up to the next empty line, with it."""
    buffer = connection.buffer
    searched = 0
    while True:
        beginning = buffer[: len(_BEGINNING)]
        if beginning != _BEGINNING[: len(beginning)]:
            line = buffer.partition(b"\n")[0]
            raise not_http(f"it begins with {excerpt(line)!r}")
        end = _END.search(buffer, searched)
        if (len(buffer) if end is None else end.end()) > most:
            raise EgressError(f"the answer has headers of more than {HEAD_MAX} bytes")
        if end is not None:
            block = bytes(buffer[: end.end()])
            del buffer[: end.end()]
            return block
        searched = max(0, len(buffer) - 2)
        if not await connection.receive():
            raise EgressError("the answer was cut off in its headers")


def _parse(block: bytes) -> Head:
    first, *lines = [line.removesuffix(b"\r") for line in block.split(b"\n")[:-2]]
    status = _STATUS.fullmatch(first)
    if status is None:
        raise not_http(f"its first line is {excerpt(first)!r}")
    fields: list[list[bytes]] = []  # the lines of each header: a value may go on in lines that begin with a space
    for line in lines:
        if _NEVER.search(line):
            raise not_http(f"a header has a NUL or a carriage return: {excerpt(line)!r}")
        if not line.startswith((b" ", b"\t")):
            fields.append([line])
        elif fields:
            fields[-1].append(line.strip(b" \t"))
        else:
            raise not_http("its first header begins with a space")
    return Head(status[1], int(status[2]), [_field(b" ".join(parts)) for parts in fields])


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or _NAME.fullmatch(name) is None:
        raise not_http(f"a header line is {excerpt(line)!r}")
    return name.lower(), value.strip(b" \t")
