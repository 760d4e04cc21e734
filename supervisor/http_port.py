"""A port that speaks HTTP: an ASGI application, served on Trio."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anycorn
import trio
from starlette.types import ASGIApp, Receive, Scope, Send

from .config.units import Address
from .errors import CannotStart


@asynccontextmanager
async def open_http(app: ASGIApp, setting: str, address: Address, log: str, stop_seconds: float) -> AsyncIterator[int]:
    """Serve; gives the port number. At the end answers under way have `stop_seconds` to end.

    Raises:
        CannotStart: The address cannot be had; the text names `setting`.
    """

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        # Nothing is started or stopped with the port; Starlette's own handler takes a cancellation for a failure.
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
        else:
            await app(scope, receive, send)

    settings = anycorn.Config()
    settings.bind = [str(address)]
    settings.accesslog = None
    settings.errorlog = logging.getLogger(log)
    settings.graceful_timeout = stop_seconds
    application: Any = served
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        serve = partial(anycorn.serve, application, settings, mode="asgi", shutdown_trigger=stop.wait)
        try:
            binds = await nursery.start(serve)
        except OSError as error:
            raise CannotStart(f"{setting}: cannot listen on {address}: {error.strerror}") from error
        try:
            yield int(binds[0].rpartition(":")[2])
        finally:
            stop.set()
            nursery.cancel_scope.deadline = trio.current_time() + stop_seconds
