"""The console: a web page that is a client of the rest of the admin port.

The page holds no data, so it needs no token; its requests do. Its sources are in console/, and
hatch_build.py builds it into FOLDER.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..host.version import describe
from .bodies import answer, text_answer

FOLDER = Path(__file__).with_name("web")
FILES = {
    "/": ("index.html", "text/html"),
    "/console.js": ("console.js", "text/javascript"),
    "/console.css": ("console.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/licences.txt": ("licences.txt", "text/plain"),
}
PAGES = "/ui/"  # below it every path is the page, which shows what the path names
# It loads only these files, talks only to this port and to gateways, and no site may frame it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
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
    """GET / and its files, GET /ui/PAGE, and /v1/info."""

    gateway_url: Callable[[], str]

    def routes(self) -> list[Route]:
        """The requests that it answers."""
        return [
            *file_routes(),
            Route("/v1/info", self.info),
        ]

    async def info(self, _: Request) -> Response:
        """The version that runs, and its gateway's URL."""
        return answer({**describe(), "gateway": self.gateway_url()})


def file_routes() -> list[Route]:
    """The requests for the page and its files."""
    return [*(Route(path, _file) for path in FILES), Route(f"{PAGES}{{page:path}}", _file)]


async def _file(request: Request) -> Response:
    """A file of the page; the page itself for each of its paths."""
    name, kind = FILES.get(request.scope["path"], FILES["/"])
    try:
        data = (FOLDER / name).read_bytes()
    except FileNotFoundError:
        return text_answer("the console was not built: pip install builds it\n", 404)
    return Response(data, media_type=kind, headers=HEADERS)
