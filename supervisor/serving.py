"""A service from its start to the signal that ends it."""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import Callable

import trio

from .config import Config
from .service import Service, open_service
from .systemd import from_environment

log = logging.getLogger(__name__)


async def run(config: Config, read_config: Callable[[], Config], ready: Callable[[Service], None]) -> None:
    """Serve until SIGTERM or SIGINT: the first lets what is in hand end, the second does not wait. SIGHUP reloads."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with open_service(config, read_config, from_environment()) as service, trio.open_nursery() as nursery:
            gc.collect()
            gc.freeze()  # what is there by now stays: the collector need not look at it again and again
            ready(service)
            stopping = False
            async for number in signals:
                if number == signal.SIGHUP:
                    nursery.start_soon(service.reload)
                elif stopping:
                    break
                else:
                    stopping = True
                    nursery.start_soon(_drain_and_stop, service, nursery.cancel_scope)
            nursery.cancel_scope.cancel()


async def _drain_and_stop(service: Service, scope: trio.CancelScope) -> None:
    log.info("stopping: the runs in hand may end")
    await service.drain()
    scope.cancel()
