"""The console: a page for people, a client of the rest of the admin port. It holds no data itself,
and so needs no token; what it asks for does.
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
# Nothing but these files, no other site may frame it, and it talks to this port and to gateways
# only.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self' ws: wss:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
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
        """For the admin port."""
        return [*(Route(path, self.file) for path in FILES), Route("/v1/info", self.info)]

    async def file(self, request: Request) -> Response:
        """A file of the page."""
        name, kind = FILES[request.scope["path"]]
        return Response((FOLDER / name).read_bytes(), media_type=kind, headers=HEADERS)

    async def info(self, _: Request) -> Response:
        """What runs, and where its gateway is."""
        return answer({**describe(), "gateway": self.gateway_url()})
