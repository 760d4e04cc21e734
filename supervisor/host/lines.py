"""A stream of bytes, split into lines of bounded length. No I/O."""

from __future__ import annotations

from attrs import define, field

from ..errors import ProtocolViolation


@define
class LineReader:
    """Splits a byte stream into lines; holds at most `line_max` bytes of an unfinished line."""

    line_max: int
    _rest: bytearray = field(factory=bytearray, init=False)

    @property
    def has_rest(self) -> bool:
        """Whether it holds an unfinished line."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Add bytes; return the lines that they complete, without their newlines.

        Raises:
            ProtocolViolation: A line has more than `line_max` bytes.
        """
        size = len(self._rest) + len(data)
        lines = data.split(b"\n")
        if self._rest and len(lines) > 1:
            self._rest += lines[0]
            lines[0] = bytes(self._rest)
            self._rest.clear()
        self._rest += lines.pop()
        if size > self.line_max:
            longest = max(len(self._rest), max(map(len, lines), default=0))
            if longest > self.line_max:
                raise ProtocolViolation(
                    f"limits.line = {self.line_max} bytes, measured a line of {longest} or more"
                )
        return lines
