"""Who may use a channel: clients with one of its tokens; without tokens, programs on this host."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from urllib.parse import urlsplit

from ..ports.accepting import is_loopback

Headers = Iterable[tuple[bytes, bytes]]


def token_in(headers: Headers, schemes: tuple[bytes, ...]) -> str | None:
    """The token of an Authorization header with one of these schemes, in lower case."""
    for key, value in headers:
        scheme, _, token = value.partition(b" ")
        if key.lower() == b"authorization" and scheme.lower() in schemes:
            return token.strip().decode("latin-1")
    return None


def is_known(token: str, digests: Iterable[str]) -> bool:
    """Whether a token is one of those with these digests."""
    digest = hashlib.sha256(token.encode()).hexdigest()
    # Every token is compared, so that the time taken does not tell which one matches.
    known = [hmac.compare_digest(digest, one) for one in digests]
    return any(known)


def local_problem(address: str, headers: Headers) -> str:
    """What is wrong with a client of a channel without tokens; empty if nothing is. Such a channel
    is for programs on this host, but not for web pages from elsewhere that a browser on it shows.
    """
    if not is_loopback(address):
        return "this channel has no tokens, so only clients on the host may use it"
    origins = (value.decode("latin-1") for key, value in headers if key.lower() == b"origin")
    origin = next(origins, None)
    if origin is not None and _host_of(origin) not in ("localhost", "127.0.0.1", "::1"):
        return f"the web page {origin!r} may not use a channel without tokens"
    return ""


def _host_of(origin: str) -> str | None:
    """The host of a web page; None if the origin is malformed."""
    try:
        return urlsplit(origin).hostname
    except ValueError:
        return None
