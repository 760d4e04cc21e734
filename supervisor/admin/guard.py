"""Who may use the admin port."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from ..ports.http import KNOWN
from .bodies import answer
from .console import FILES

OPEN = ("/livez", "/readyz", *FILES)  # anybody who can reach the port may see these
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
TRUSTED = "jsbox.trusted"  # in the ASGI scope: whether the client may see everything


class Guard:
    """Lets in clients with a token; if no tokens are configured, programs on this host, but no web
    pages.
    """

    def __init__(self, app: ASGIApp, tokens: tuple[str, ...]) -> None:
        self.app = app
        self.tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with what is missing (ASGI)."""
        problem = self._problem({key: value.decode("latin-1") for key, value in scope["headers"]})
        if problem is not None and scope["path"] not in OPEN:
            await answer({"error": problem[1]}, problem[0])(scope, receive, send)
            return
        if problem is None and scope["path"] not in OPEN:
            scope[KNOWN]()
        scope[TRUSTED] = problem is None
        await self.app(scope, receive, send)

    def _problem(self, headers: Mapping[bytes, str]) -> tuple[int, str] | None:
        if self.tokens:
            kind, _, token = headers.get(b"authorization", "").partition(" ")
            digest = hashlib.sha256(token.strip().encode()).hexdigest()
            # compare all of them
            known = any([hmac.compare_digest(digest, one) for one in self.tokens])  # noqa: C419
            return None if kind.lower() == "bearer" and known else (401, "a bearer token is needed")
        # A web page's author may have a name of theirs resolve to this host (DNS rebinding); the
        # Host header shows it.
        if _host_in(f"//{headers.get(b'host', '')}") not in LOCAL_NAMES:
            text = "without tokens the admin port answers to localhost, 127.0.0.1 and [::1] only"
            return 403, text
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
