"""The body of an answer, as text: unpacked and decoded, in slices of work."""

from __future__ import annotations

from collections.abc import AsyncIterator

from attrs import define, field

from .charsets import decoded
from .errors import EgressError, TooLarge
from .head import Head
from .http11 import EngineStream
from .pace import Work
from .unpack import layers_of, unpacked

SMALL_PIECES_MAX = 4096  # of a body, beyond those of 32 bytes and more
# bytes about chunks beyond what bodies are worth, as in Go: 16 a chunk and 2 a byte are free
EXCESS_MAX = 16 * 1024


@define(eq=False)
class _Worth:
    """Checks that a body is worth the cost of its chunks."""

    _stream: EngineStream
    _before: int = field(init=False)
    _free: int = field(default=EXCESS_MAX, init=False)
    _pieces_left: int = field(default=SMALL_PIECES_MAX, init=False)

    def __attrs_post_init__(self) -> None:
        self._before = self._stream.received

    def check(self, piece: bytes) -> None:
        """Raise EgressError if the chunks are too many, or have too much around them."""
        self._free += 16 + 3 * len(piece)
        self._pieces_left += len(piece) // 32 - 1
        if self._stream.received - self._before > self._free:
            raise EgressError("the answer has more about its chunks than in them")
        if self._pieces_left < 0:
            raise EgressError(f"the answer has more than {SMALL_PIECES_MAX} chunks of a few bytes")


async def read_body(
    pieces: AsyncIterator[bytes],
    head: Head,
    method: str,
    most: int,
    stream: EngineStream,
    work: Work,
) -> str:
    """Read a body to its end, and return it as text. `work` is entered.

    Raises:
        TooLarge: It has more than `most` bytes, as soon as that is known.
        EgressError: It was cut off, or is not what it says it is.
    """
    length = head.length(method)
    if length is not None and length > most:
        raise TooLarge(length, most)
    layers, body, worth = layers_of(head, most), bytearray(), _Worth(stream)
    async for data in pieces:
        if head.is_chunked:
            worth.check(data)
        for piece in unpacked(layers, data):
            body += piece
            if len(body) > most:
                raise TooLarge(len(body), most)
            if work.is_over():
                await work.rest()
    if length != 0:
        for layer in layers:
            layer.finish()
    return await _text(body, head, work)


async def _text(body: bytearray, head: Head, work: Work) -> str:
    content_type = (head.header(b"content-type") or b"").decode("latin-1")
    texts = []
    for text in decoded(body, content_type):
        texts.append(text)
        if work.is_over():
            await work.rest()
    return "".join(texts)
