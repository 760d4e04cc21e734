"""What a server of mode standby shows while it does not have the store: only its admin port is
open, which says that it lives and what it waits for. The console says so too, and is there at once
when the server takes over.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio
from attrs import define, field
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resources.forever import keep_running
from resources.stores.lease import Lease

from .admin.bodies import answer, text_answer
from .admin.console import file_routes
from .admin.gauges import LEASE_HELD
from .admin.guard import TRUSTED, Guard, Tokens
from .config import Address, Config
from .host.systemd import Systemd
from .ports.http import open_http
from .ports.listening import listen, must_be_free, tls_of
from .store.holding import wait_turn

STOP_SECONDS = 1.0  # for answers in progress
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

log = logging.getLogger(__name__)


@define(eq=False)
class Standby:
    """The admin port of a server that may have to wait. Made by `open_standby`.

    Attributes:
        problem: Why it is not ready.
    """

    _config: Config
    _systemd: Systemd
    _nursery: trio.Nursery
    _sockets: Sequence[socket.socket]
    problem: str = field(default="the server starts", init=False)
    _is_shown: bool = field(default=False, init=False)
    _is_over: trio.Event = field(factory=trio.Event, init=False)  # it is to answer no more
    _is_hidden: trio.Event = field(factory=trio.Event, init=False)  # it answers no more

    @property
    def url(self) -> str:
        """The URL of the admin port."""
        listen_at = self._config.listen
        port = self._sockets[0].getsockname()[1]
        return listen_at.admin_url(Address(listen_at.admin.host, port))

    def listeners(self) -> list[trio.SocketListener]:
        """The admin port's listening sockets, to be used and closed by one that serves it."""
        own = [trio.socket.from_stdlib_socket(each.dup()) for each in self._sockets]
        return [trio.SocketListener(each) for each in own]

    def show(self) -> None:
        """Answer at the admin port from now on; does nothing if we do."""
        self.problem = "the server starts"
        if self._is_shown:
            return
        self._is_shown = True
        self._is_over, self._is_hidden = trio.Event(), trio.Event()
        self._nursery.start_soon(self._serve, self._is_over, self._is_hidden)

    async def hide(self) -> None:
        """Answer no more: the service has the port now."""
        self._is_shown = False
        self._is_over.set()
        await self._is_hidden.wait()

    async def wait_turn(self, lease: Lease) -> None:
        """Wait for the lease, and say so.

        Raises:
            CannotStart: The gateway's address cannot be used; better to fail now than at the
                take-over.
        """

        def tell(line: str) -> None:
            self.problem = line
            log.info("standing by: admin %s, %s", self.url, line)
            self._systemd.ready(f"standing by: {line}; admin {self.url}")

        # Whoever connects to the gateway is to go to the server that has the store.
        self._systemd.close_rest()
        self._systemd.drop("listen.gateway")
        if not self._systemd.is_there:  # which may still be closing the socket that it held
            await must_be_free("listen.gateway", self._config.listen.gateway)
        await wait_turn(lease, tell)
        self.problem = "the server takes over"
        log.info("taking over: no other server has the store")
        self._systemd.ready("taking over the store")

    async def _serve(self, is_over: trio.Event, is_hidden: trio.Event) -> None:
        listen_at = self._config.listen
        app = _app(lambda: self.problem, lambda: listen_at.admin_tokens)
        context = tls_of(listen_at)
        try:
            async with open_http(app, self.listeners(), "admin", STOP_SECONDS, context):
                await is_over.wait()
        finally:
            is_hidden.set()


@asynccontextmanager
async def open_standby(config: Config, systemd: Systemd) -> AsyncIterator[Standby]:
    """Listen at the admin port, for as long as the block runs, and answer there until `hide`.

    Raises:
        CannotStart: The address cannot be used, or the certificate.
    """
    tls_of(config.listen)
    listeners = await listen("listen.admin", config.listen.admin, systemd)
    sockets = [_taken(each) for each in listeners]
    try:
        async with trio.open_nursery() as nursery:
            standby = Standby(config, systemd, nursery, sockets)
            if systemd.is_there:
                nursery.start_soon(keep_running, "watchdog", systemd.show_life)
            standby.show()
            yield standby
            nursery.cancel_scope.cancel()
    finally:
        for each in sockets:
            each.close()


def _taken(listener: trio.SocketListener) -> socket.socket:
    """The socket of a listener that is not used."""
    held = listener.socket
    return socket.socket(held.family, held.type, held.proto, held.detach())


def _app(problem: Callable[[], str], tokens: Tokens) -> Starlette:
    """The admin port of a server that waits, as an ASGI app."""
    registry = CollectorRegistry()
    Gauge(*LEASE_HELD, registry=registry).set(0)

    async def livez(_: Request) -> Response:
        return text_answer("ok\n")

    async def readyz(request: Request) -> Response:
        line = problem() if request.scope[TRUSTED] else "not ok"
        return text_answer(f"not ready:\nstandby: {line}\n", 503)

    async def metrics(_: Request) -> Response:
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response(generate_latest(registry), media_type=kind)

    async def other(_: Request) -> Response:
        return answer({"error": f"this server stands by: {problem()}", "standby": True}, 503)

    routes = [
        Route("/livez", livez),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
        *file_routes(),
        Route("/{path:path}", other, methods=METHODS),
    ]
    app = Starlette(routes=routes, middleware=[Middleware(Guard, tokens=tokens)])
    app.router.redirect_slashes = False
    return app
