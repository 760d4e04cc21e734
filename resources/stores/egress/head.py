"""The head of an answer: status, headers, and what they say about body and connection."""

from __future__ import annotations

from attrs import frozen

from .errors import not_http

LENGTH_DIGITS = 18
NO_BODY = frozenset({204, 304})


@frozen
class Head:
    """An answer without its body."""

    version: bytes  # such as b"1.1"
    status: int
    headers: list[tuple[bytes, bytes]]  # names in lower case

    def header(self, name: bytes) -> bytes | None:
        """Return the value of a header (the last, if given several times), or None."""
        values = self.values(name)
        return values[-1] if values else None

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of a header that may be given several times."""
        return [value for given, value in self.headers if given == name]

    def items(self, name: bytes) -> list[bytes]:
        """Return the items of a header that is a list, in lower case."""
        items = b",".join(self.values(name)).lower().split(b",")
        return [item for item in map(bytes.strip, items) if item]

    def length(self, method: str) -> int | None:
        """Return how many bytes the body has, or None if the head does not say.

        Raises:
            EgressError: The head gives two lengths, or a bad one.
        """
        if method == "HEAD" or self.status in NO_BODY:
            return 0
        lengths = set(self.items(b"content-length"))
        if self.is_chunked or not lengths:
            return None
        length = lengths.pop()
        if lengths or not length.isdigit() or len(length) > LENGTH_DIGITS:
            raise not_http("a bad Content-Length")
        return int(length)

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return b"chunked" in self.items(b"transfer-encoding")

    def keeps_alive(self) -> bool:
        """Whether the server accepts another request on this connection."""
        return (
            self.version >= b"1.1"
            and b"close" not in self.items(b"connection")
            # With both lengths, servers differ about where the body ends.
            and not (self.values(b"transfer-encoding") and self.values(b"content-length"))
        )
