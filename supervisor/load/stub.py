"""The app's back ends, played by an HTTP server with the latencies and errors of the campaign."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio
from attrs import define, field
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..config.units import Address
from ..host.systemd import Systemd
from ..ports.accepting import Bounds
from ..ports.http import open_http
from ..ports.listening import listen
from .campaign import Reply, Stub

BOUNDS = Bounds(10_000, 10_000)  # of connections: apps under load have many
STOP_SECONDS = 0.1  # for answers in progress when the run is over
Z99 = 2.3263478740408408  # of the standard normal distribution


@define(eq=False)
class Stubs:
    """All stubs of a campaign behind one port.

    Attributes:
        requests: Answers by status; under 0, requests that no stub matches.
    """

    stubs: Sequence[Stub]
    _random: random.Random
    requests: Counter[int] = field(factory=Counter, init=False)
    port: int = field(default=0, init=False)

    @property
    def hosts(self) -> set[str]:
        """The hosts in the URLs of the stubs."""
        return {_host(stub.url) for stub in self.stubs}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application."""
        if scope["type"] == "http":
            response = await self.answer(Request(scope, receive))
            await response(scope, receive, send)

    async def answer(self, request: Request) -> Response:
        """Answer one request."""
        stub = self._find(request.headers.get("host", ""), request.url.path)
        if stub is None:
            self.requests[0] += 1
            return Response(f"there is no stub for {request.url}\n", 501)
        reply = stub.reply
        await trio.sleep(_delay(reply, self._random))
        draw = self._random.random()
        for status, share in reply.errors.items():
            if draw < share:
                self.requests[int(status)] += 1
                return Response(status_code=int(status))
            draw -= share
        self.requests[reply.status] += 1
        return Response(reply.body, reply.status, media_type=reply.content_type)

    def _find(self, host: str, path: str) -> Stub | None:
        """Find the stub with the longest matching pattern; of another host only if none of this."""
        fitting = [stub for stub in self.stubs if _fits(stub.url, path)]
        own = [
            stub
            for stub in fitting
            if _host(stub.url) == host
            or _host(stub.url).split(":")[0] == host.split(":", maxsplit=1)[0]
        ]
        return max(own or fitting, key=lambda stub: len(stub.url), default=None)


def _bare(url: str) -> str:
    return url.partition("://")[2]


def _host(url: str) -> str:
    return _bare(url).split("/")[0].removesuffix("*")


def _fits(url: str, path: str) -> bool:
    rest = _bare(url)
    pattern = "/" + rest.partition("/")[2] if "/" in rest else "/*"
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern


def _delay(reply: Reply, random_: random.Random) -> float:
    if reply.p99 is None or reply.p99 <= reply.p50:
        return reply.p50
    return random_.lognormvariate(math.log(reply.p50), math.log(reply.p99 / reply.p50) / Z99)


@asynccontextmanager
async def open_stubs(stubs: Sequence[Stub], address: Address, seed: int) -> AsyncIterator[Stubs]:
    """Serve the stubs of a campaign; if there are none, nothing listens."""
    playing = Stubs(stubs, random.Random(seed))  # noqa: S311  # not for secrets
    if not stubs:
        yield playing
        return
    listeners = await listen("run.stubs", address, Systemd())
    async with open_http(playing, listeners, "stub", STOP_SECONDS, bounds=BOUNDS) as playing.port:
        yield playing
