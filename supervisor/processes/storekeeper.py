"""The process that keeps the embedded store for all others. It ends when it is told to, and when
nobody is left who could use the store: each process and the parent hold the writing end of a pipe.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import AsyncIterator

import trio

from resources.kernel import end_in

from .. import early
from ..config import Config
from ..host.systemd import Systemd
from ..store.copies import remove_copies
from ..store.valkey import open_valkey
from . import line
from .parent import STOP_MORE, STORE_SECONDS

log = logging.getLogger(__name__)


async def keep_store(config: Config, ours: socket.socket, users: int) -> None:
    """Run the embedded store until SIGTERM, or until all have gone who hold the other end of the
    pipe `users`.

    Raises:
        CannotStart: It does not come up, and waiting will not help.
    """
    ours.settimeout(0)
    systemd = Systemd(watchdog=30.0, socket=ours)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_signal, signals, nursery.cancel_scope)
            nursery.start_soon(_until_alone, users, nursery.cancel_scope)
            nursery.start_soon(systemd.show_life)
            nursery.start_soon(_hear, ours, config.gateway.drain + STOP_MORE + STORE_SECONDS)
            if signal.SIGTERM in early.taken():
                nursery.cancel_scope.cancel()
            await trio.to_thread.run_sync(remove_copies, config.data_dir)
            reserve = config.redis.disk_reserve
            opening = open_valkey(
                config.data_dir, config.redis.fsync, reserve=reserve, tell=systemd.starting
            )
            async with opening:
                systemd.ready("the store is up")
                await trio.sleep_forever()


async def _until_signal(signals: AsyncIterator[int], end: trio.CancelScope) -> None:
    async for _ in signals:
        end.cancel()


async def _until_alone(users: int, end: trio.CancelScope) -> None:
    while True:
        await trio.lowlevel.wait_readable(users)
        if not os.read(users, 1):
            log.error("nobody is left who uses the store: it ends")
            end.cancel()
            return


async def _hear(ours: socket.socket, seconds: float) -> None:
    """Read away what the parent says: nothing. When it has gone the others may use the store until
    they end, for some seconds at most.
    """
    while True:
        await trio.lowlevel.wait_readable(ours)
        if (heard := line.receive(ours)) is not None and not heard[0]:
            end_in(seconds)
            return
