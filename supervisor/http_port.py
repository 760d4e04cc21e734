"""A port that speaks HTTP: an ASGI application, served on Trio."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anycorn
import trio
from starlette.types import ASGIApp, Receive, Scope, Send


@asynccontextmanager
async def open_http(
    app: ASGIApp,
    listeners: Sequence[trio.SocketListener],
    log: str,
    stop_seconds: float,
    tls: tuple[Path, Path] | None = None,
) -> AsyncIterator[int]:
    """Serve; gives the port number. At the end answers under way have `stop_seconds` to end. `tls`: certificate and key."""

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        # Nothing is started or stopped with the port; Starlette's own handler takes a cancellation for a failure.
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
        else:
            await app(scope, receive, send)

    settings = anycorn.Config()
    port: int = listeners[0].socket.getsockname()[1]
    settings.bind = [f"fd://{os.dup(listener.socket.fileno())}" for listener in listeners]
    for listener in listeners:
        listener.socket.close()
    if tls is not None:
        settings.certfile, settings.keyfile = map(str, tls)
    settings.accesslog = None
    settings.errorlog = logging.getLogger(log)
    settings.graceful_timeout = stop_seconds
    application: Any = served
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        serve = partial(anycorn.serve, application, settings, mode="asgi", shutdown_trigger=stop.wait)
        await nursery.start(serve)
        try:
            yield port
        finally:
            stop.set()
            nursery.cancel_scope.deadline = trio.current_time() + stop_seconds
