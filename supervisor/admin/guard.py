"""Who may use the admin port."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from ..config.tokens import AdminToken
from ..ports.http import KNOWN
from .bodies import answer
from .console import FILES, PAGES
from .refusals import Refusals

OPEN = ("/livez", "/readyz", *FILES)  # anybody who can reach the port may see these
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
TRUSTED = "jsbox.trusted"  # in the ASGI scope: whether the client may see everything
FORWARDED = "jsbox.forwarded"  # there too: whom another server, which has let them in, asks for
OPERATOR = "jsbox.operator"  # there too: the name of the client's token
READING = ("GET", "HEAD", "OPTIONS")  # methods that change nothing
LOCAL = "local"  # who it is if no tokens are configured

Tokens = Callable[[], tuple[AdminToken, ...]]


class Guard:
    """Lets in clients with a token that is good for the request; if no tokens are configured,
    programs on this host, but no web pages.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens, refusals: Refusals | None = None) -> None:
        self.app = app
        self.tokens = tokens
        self.refusals = refusals or Refusals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with what is missing (ASGI)."""
        if FORWARDED in scope:
            scope[TRUSTED], scope[OPERATOR] = True, scope[FORWARDED]
            await self.app(scope, receive, send)
            return
        headers = {key: value.decode("latin-1") for key, value in scope["headers"]}
        name, problem = self._look(headers, scope["method"])
        is_open = scope["path"] in OPEN or scope["path"].startswith(PAGES)
        if problem is not None and not is_open:
            self.refusals.note((scope.get("client") or ("", 0))[0])
            await answer({"error": problem[1]}, problem[0])(scope, receive, send)
            return
        if problem is None and not is_open:
            scope[KNOWN]()
        scope[TRUSTED] = problem is None
        scope[OPERATOR] = name
        await self.app(scope, receive, send)

    def _look(self, headers: Mapping[bytes, str], method: str) -> tuple[str, _Problem | None]:
        """Who it is, and why the request is not for them, if it is not."""
        tokens = self.tokens()
        if not tokens:
            return LOCAL, _of_this_host(headers)
        kind, _, text = headers.get(b"authorization", "").partition(" ")
        digest = hashlib.sha256(text.strip().encode()).hexdigest()
        # compare all of them
        known = [one for one in tokens if hmac.compare_digest(digest, one.sha256)]
        if kind.lower() != "bearer" or not known:
            return "", (401, "a bearer token is needed")
        token = known[0]
        if token.is_expired():
            return token.name, (401, f"the token {token.name} expired at {token.expires}")
        if not token.may("read" if method in READING else "operate"):
            return token.name, (403, f"the token {token.name} may only read")
        return token.name, None


_Problem = tuple[int, str]
"""The status of an answer, and its text."""


def _of_this_host(headers: Mapping[bytes, str]) -> _Problem | None:
    # A web page's author may have a name of theirs resolve to this host (DNS rebinding); the Host
    # header shows it.
    if _host_in(f"//{headers.get(b'host', '')}") not in LOCAL_NAMES:
        return 403, "without tokens the admin port answers to localhost, 127.0.0.1 and [::1] only"
    origin = headers.get(b"origin")
    if origin is not None and _host_in(origin) not in LOCAL_NAMES:
        return 403, f"the web page {origin} may not use the admin port"
    return None


def _host_in(url: str) -> str | None:
    """The host of a URL; None if it cannot be split."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
