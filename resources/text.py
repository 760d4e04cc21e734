"""Text from outside: valid Unicode from the door on, and JSON of a bounded depth.

Half of a surrogate pair can be neither encoded nor stored. In text from machines it is replaced
(`clean`); text from people that has one is refused (`is_clean`). JSON is read with `read_json`: by
msgspec, in one step, after its depth was checked.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Any

import msgspec

DEPTH_MAX = 64  # of JSON that comes in from gateways and over the admin port
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")  # of an app, account or channel

_SURROGATE = re.compile("[\ud800-\udfff]")
# In JSON text: a whole pair, or an escape of anything else (group 1, kept), or half of a pair
# (replaced).
_HALF = re.compile(
    rb"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\[^u]|\\u(?![dD][89a-fA-F]))"
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
# as signed: 1 level down, 1 level up
_STEPS = bytes(1 if byte in b"[{" else 255 for byte in range(256))

_decode = msgspec.json.Decoder().decode
_look_over = msgspec.json.Decoder(msgspec.Raw).decode  # builds nothing


class TooDeep(ValueError):
    """JSON is nested too deep. Attributes: most."""

    def __init__(self, most: int) -> None:
        super().__init__(f"expected at most {most} levels of nesting")
        self.most = most


def is_clean(text: str) -> bool:
    """Whether a text can be encoded: it has no half of a surrogate pair."""
    return text.isascii() or _SURROGATE.search(text) is None


def clean(text: str) -> str:
    """A text with U+FFFD for each half of a surrogate pair."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def clean_json(data: bytes) -> bytes:
    r"""JSON text with \ufffd for each escaped half of a surrogate pair (`"\ud83d"`); pairs stay."""
    if b"\\u" not in data:
        return data
    return _HALF.sub(lambda found: found[1] or b"\\ufffd", data)


def is_deeper(data: bytes, most: int) -> bool:
    """Whether JSON text is nested deeper than `most`. Takes linear time, whatever the text."""
    if data.count(b"[") + data.count(b"{") <= most:
        return False
    # Without escaped backslashes, and then escaped quotes, every other piece between quotes is a
    # string. One that does not end takes the rest.
    outside = data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    steps = b"".join(outside).translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")), default=0) > most


def read_json(data: bytes, depth_max: int = DEPTH_MAX) -> Any:
    """A JSON text, with U+FFFD for halves of surrogate pairs.

    Raises:
        TooDeep: It is nested deeper than `depth_max`.
        ValueError: It is not JSON (msgspec.DecodeError), or not UTF-8 (UnicodeDecodeError).
    """
    if is_deeper(data, depth_max):
        raise TooDeep(depth_max)
    try:
        return _decode(data)
    except msgspec.DecodeError:
        cleaned = clean_json(data)
        if cleaned == data:
            raise
        return _decode(cleaned)


def json_line(data: bytes) -> bytes:
    """A JSON text on one line, with U+FFFD for halves of surrogate pairs.

    Raises:
        ValueError: It is not JSON, not UTF-8, or nested so deep that it cannot be read.
    """
    str(data, "utf-8")
    try:
        try:
            _look_over(data)
        except msgspec.DecodeError:
            data = clean_json(data)
            _look_over(data)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    return data.replace(b"\n", b" ").replace(b"\r", b" ")  # in strings they are escaped


def visible(text: str, keep: str = "\t") -> str:
    """A text that is safe on a terminal and cannot look like another line: what is not printable is
    escaped, except for the characters of `keep`.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else repr(char)[1:-1] for char in text
    )


def visible_json(text: str) -> str:
    r"""JSON text with what is not printable as \uXXXX; line ends stay. It says the same."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else _units(char) for char in text)


def _units(char: str) -> str:
    data = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{data[at : at + 2].hex()}" for at in range(0, len(data), 2))
