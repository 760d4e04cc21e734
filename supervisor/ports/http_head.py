"""The head of an HTTP/1.1 request, parsed strictly and in linear time."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from attrs import frozen

LINES_MAX = 100  # headers of one request
LENGTH_DIGITS = 18

_REQUEST = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([!-~]+) HTTP/([0-9])\.([0-9])")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NEVER = re.compile(rb"[\x00\r]")
_ORIGIN = re.compile(rb"https?://[^/?]*", re.IGNORECASE)


class Unacceptable(Exception):
    """A request that cannot be answered as it asks; `status` is the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@frozen
class Head:
    """A request without its body.

    Attributes:
        path: Decoded; `query` is as it came.
        headers: Names in lower case.
        length: Of the body in bytes; None: it comes in chunks.
    """

    method: str
    path: str
    raw_path: bytes
    query: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    length: int | None
    keeps_alive: bool
    awaits_continue: bool


def parse_head(block: bytes) -> Head:
    """Parse a head from its bytes, up to and including the empty line.

    Raises:
        Unacceptable: It is malformed, or asks for what this server does not support.
    """
    first, *lines = [line.removesuffix(b"\r") for line in block.split(b"\n")[:-2]]
    if len(lines) > LINES_MAX:
        raise Unacceptable(431, f"expected at most {LINES_MAX} headers")
    request = _REQUEST.fullmatch(first)
    if request is None:
        raise Unacceptable(400, "the first line is not a request line")
    if request[3] != b"1":
        raise Unacceptable(505, "expected HTTP/1.1")
    version = "1.0" if request[4] == b"0" else "1.1"
    headers = [_header(line) for line in lines]
    hosts = _values(headers, b"host")
    if len(hosts) > 1 or (version == "1.1" and not hosts):
        raise Unacceptable(400, "expected one Host header")
    raw_path, path, query = _target(request[2])
    options = _items(headers, b"connection")
    return Head(
        method=request[1].decode(),
        path=path,
        raw_path=raw_path,
        query=query,
        version=version,
        headers=headers,
        length=_length(headers, version),
        keeps_alive=b"keep-alive" in options if version == "1.0" else b"close" not in options,
        awaits_continue=version == "1.1" and b"100-continue" in _items(headers, b"expect"),
    )


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or _NAME.fullmatch(name) is None or _NEVER.search(value):
        raise Unacceptable(400, "a line of the head is not a header")
    return name.lower(), value.strip(b" \t")


def _values(headers: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for given, value in headers if given == name]


def _items(headers: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """The items of a header that is a list, in lower case."""
    return [item.strip() for item in b",".join(_values(headers, name)).lower().split(b",")]


def _target(target: bytes) -> tuple[bytes, str, bytes]:
    """The path as it came, the path decoded, and the query."""
    if origin := _ORIGIN.match(target):
        target = target[origin.end() :] or b"/"
    raw, _, query = target.partition(b"?")
    if not raw.startswith(b"/"):
        raise Unacceptable(400, "expected a path")
    try:
        return raw, unquote_to_bytes(raw).decode(), query
    except UnicodeDecodeError as error:
        raise Unacceptable(400, "the path is not UTF-8 text") from error


def _length(headers: list[tuple[bytes, bytes]], version: str) -> int | None:
    lengths, codings = _values(headers, b"content-length"), _values(headers, b"transfer-encoding")
    if codings:
        # Given both, servers disagree about where the body ends; HTTP/1.0 has no chunks.
        if lengths or version == "1.0":
            raise Unacceptable(400, "expected one length of the body")
        if [coding.lower() for coding in codings] != [b"chunked"]:
            raise Unacceptable(501, "expected the transfer encoding to be chunked")
        return None
    if not lengths:
        return 0
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > LENGTH_DIGITS:
        raise Unacceptable(400, "Content-Length: expected one number of bytes")
    return int(lengths[0])
