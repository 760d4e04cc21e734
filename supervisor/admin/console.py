"""The console: a web page that is a client of the rest of the admin port.

The page holds no data, so it needs no token; its requests do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..host.version import describe
from .bodies import answer

FOLDER = Path(__file__).with_name("web")
FILES = {
    "/": ("index.html", "text/html"),
    "/console.js": ("console.js", "text/javascript"),
    "/console.css": ("console.css", "text/css"),
}
# It loads only these files, talks only to this port and to gateways, and no site may frame it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    " connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@frozen
class ConsoleAdmin:
    """GET / and its files, and /v1/info."""

    gateway_url: Callable[[], str]

    def routes(self) -> list[Route]:
        """The requests that it answers."""
        return [*(Route(path, self.file) for path in FILES), Route("/v1/info", self.info)]

    async def file(self, request: Request) -> Response:
        """A file of the page."""
        name, kind = FILES[request.scope["path"]]
        return Response((FOLDER / name).read_bytes(), media_type=kind, headers=HEADERS)

    async def info(self, _: Request) -> Response:
        """The version that runs, and its gateway's URL."""
        return answer({**describe(), "gateway": self.gateway_url()})
