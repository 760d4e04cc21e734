"""Undoing Content-Encoding: gzip and deflate, also nested, in small pieces."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

from attrs import define, field

from .charsets import charset_of
from .errors import EgressError, excerpt
from .head import Head

ENCODINGS_MAX = 5  # of one body, one inside the other
MEMBERS_MAX = 10_000  # of one gzip body
PIECE = 64 * 1024  # bytes that are unpacked at a time
GZIP = frozenset({"gzip", "x-gzip"})
NONE = frozenset(
    {"identity", "none", "binary", "7bit", "8bit"}
)  # what servers send to mean none; some send a charset

_MAGIC = b"\x1f\x8b"
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


def layers_of(head: Head, most: int) -> list[Layer]:
    """Return what undoes the encodings of a body, the outermost first.

    Args:
        head: The head of the answer.
        most: Bytes that the unpacked body may have.

    Raises:
        EgressError: There are too many, or an unknown one.
    """
    named = [item.decode("latin-1") for item in reversed(head.items(b"content-encoding"))]
    named = [name for name in named if name not in NONE and charset_of(name) is None]
    if len(named) > ENCODINGS_MAX:
        raise EgressError(
            f"the body is encoded {len(named)} times over, at most {ENCODINGS_MAX} are undone"
        )
    for name in named:
        if name != "deflate" and name not in GZIP:
            raise EgressError(
                f"the body is encoded as {excerpt(name)!r}; gzip and deflate can be read"
            )
    return [Layer(name, _input_max(most)) for name in named]


def unpacked(layers: Sequence[Layer], data: bytes) -> Iterator[bytes]:
    """Unpack one more piece of the body through all layers."""
    if not layers:
        yield data
        return
    for piece in layers[0].feed(data):
        yield from unpacked(layers[1:], piece)


def _input_max(most: int) -> int:
    """Return how many bytes a layer may take in: sane ones take little more than they give."""
    return 2 * most + PIECE


@define(eq=False)
class Layer:
    """One encoding. The name is gzip or deflate."""

    _name: str
    _most: int
    _fed: int = field(default=0, init=False)
    # the first bytes, until there are enough to tell the format
    _start: bytes = field(default=b"", init=False)
    _members: int = field(default=0, init=False)
    _inner: zlib._Decompress | None = field(default=None, init=False)
    _over: bool = field(default=False, init=False)  # whatever comes now is padding

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Unpack some more, piece by piece; pieces may be empty."""
        self._fed += len(data)
        if self._fed > self._most:
            raise EgressError(
                f"the {self._name} body has more than {self._most} bytes and little in them"
            )
        while not self._over:
            if self._inner is None:
                data = self._start + data
                self._start = b""
                if len(data) < len(_MAGIC):
                    self._start = data
                    return
                self._inner = self._begin(data)
                if self._inner is None:
                    return
            try:
                piece = self._inner.decompress(data, PIECE)
            except zlib.error as error:
                raise EgressError(
                    f"the body is not {self._name}, as declared, or is damaged"
                ) from error
            yield piece
            if self._inner.eof:
                data = self._inner.unused_data
                self._inner = None
                self._over = self._name not in GZIP
            else:
                data = self._inner.unconsumed_tail
                if not data and len(piece) < PIECE:
                    return

    def finish(self) -> None:
        """Raise EgressError if the body was cut off."""
        in_a_member = self._inner is not None or self._start[:1] == _MAGIC[:1]
        if not self._over and self._fed and (in_a_member or not self._members):
            raise EgressError(f"the {self._name} body was cut off")

    def _begin(self, data: bytes) -> zlib._Decompress | None:
        """Return what unpacks a member that begins so, or None if it is padding."""
        self._members += 1
        if self._name not in GZIP:
            # Some servers send the bare stream, without the two bytes that zlib begins with.
            is_deflate = data[0] & 15 == 8  # noqa: PLR2004  # RFC 1950
            is_zlib = is_deflate and int.from_bytes(data[:2], "big") % 31 == 0
            return zlib.decompressobj(_ZLIB if is_zlib else _RAW)
        if not data.startswith(_MAGIC):
            if self._members == 1:
                raise EgressError(f"the body is not {self._name}, as declared")
            self._over = True
            return None
        if self._members > MEMBERS_MAX:
            raise EgressError(f"the {self._name} body has more than {MEMBERS_MAX} members")
        return zlib.decompressobj(_GZIP)
