"""The body of an answer, as text: its end found, unpacked and decoded, in slices of work."""

from __future__ import annotations

from collections.abc import Sequence

from .charsets import decoded
from .connection import Connection
from .errors import TooLarge
from .framing import Framing, framing_of
from .head import Head
from .pace import Work
from .unpack import Layer, layers_of, unpacked


async def read_body(connection: Connection, head: Head, method: str, most: int, work: Work) -> str:
    """Read a body to its end.

    Raises:
        TooLarge: It has more than `most` bytes, as soon as that is known.
        EgressError: It was cut off, or is not what it says it is.
    """
    length = head.length(method)
    if isinstance(length, int) and length > most:
        raise TooLarge(length, most)
    if length == 0:
        return ""
    framing, layers, body = framing_of(length), layers_of(head, most), bytearray()
    while not framing.done:
        async with work:
            await _take(connection.buffer, framing, layers, body, most, work)
        if not framing.done and not await connection.receive():
            framing.end()
    for layer in layers:
        layer.finish()
    return await _text(body, head, work)


def skip_body(connection: Connection, head: Head, method: str) -> bool:
    """Skip a body that nobody reads, if all of it is here already; return whether it was."""
    length = head.length(method)
    if not isinstance(length, int) or length > len(connection.buffer):
        return False
    del connection.buffer[:length]
    return True


async def _take(
    buffer: bytearray, framing: Framing, layers: Sequence[Layer], body: bytearray, most: int, work: Work
) -> None:
    """Add what the buffer has of the body."""
    for data in framing.feed(buffer):
        for piece in unpacked(layers, data):
            body += piece
            if len(body) > most:
                raise TooLarge(len(body), most)
            if work.is_over():
                await work.rest()
        if work.is_over():
            await work.rest()


async def _text(body: bytearray, head: Head, work: Work) -> str:
    content_type = (head.header(b"content-type") or b"").decode("latin-1")
    texts = []
    async with work:
        for text in decoded(body, content_type):
            texts.append(text)
            if work.is_over():
                await work.rest()
    return "".join(texts)
