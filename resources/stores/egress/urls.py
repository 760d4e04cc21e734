"""URLs as apps and servers write them, parsed in a bounded time."""

from __future__ import annotations

import re
from urllib.parse import urljoin

import httpx2

from ...text import clean

URL_MAX = 32 * 1024  # bytes, with what has to be escaped
AUTHORITY_MAX = 2048  # characters of user, host and port

_PARTS = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*:)?(?://[^/?#]*)?)([^?#]*)(.*)", re.DOTALL)
# What a path, and what a query or fragment, cannot have as it is.
_NOT_IN_PATH = re.compile(r"[^!#-;=@-_a-z|~]+")
_NOT_IN_QUERY = re.compile(r"[^!#-;=?-~]+")


def url_of(text: str) -> httpx2.URL:
    """Return the URL that a text is; what is not ASCII in its path and query is sent as UTF-8.

    It is escaped here beforehand: httpx2 does that character by character, which takes long.

    Raises:
        httpx2.InvalidURL: It is not a URL, or too long.
    """
    if len(text) > URL_MAX:
        raise httpx2.InvalidURL(f"longer than {URL_MAX} bytes")
    found = _PARTS.fullmatch(clean(text))
    assert found is not None
    front, path, rest = found.groups()
    if len(front) > AUTHORITY_MAX:
        raise httpx2.InvalidURL(f"a host of more than {AUTHORITY_MAX} characters")
    text = front + _NOT_IN_PATH.sub(_escaped, path) + _NOT_IN_QUERY.sub(_escaped, rest)
    if len(text) > URL_MAX:
        raise httpx2.InvalidURL(f"longer than {URL_MAX} bytes")
    return httpx2.URL(text)


def joined(base: httpx2.URL, location: str) -> httpx2.URL:
    """Return the URL that a Location leads to, seen from the URL that answered with it.

    Raises:
        httpx2.InvalidURL: The result is not a URL.
    """
    if len(location) > URL_MAX:
        raise httpx2.InvalidURL(f"longer than {URL_MAX} bytes")
    try:
        return url_of(urljoin(str(base), clean(location)))
    except ValueError as error:
        raise httpx2.InvalidURL(str(error)) from error


def location_text(value: bytes) -> str:
    """Return a Location as text: UTF-8, as most servers write it, else Latin-1."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _escaped(found: re.Match[str]) -> str:
    data = found[0].encode()
    # Control characters are left to be refused.
    is_control = min(data) < 0x20 or 0x7F in data  # noqa: PLR2004  # ASCII's
    return found[0] if is_control else "%" + data.hex("%").upper()
