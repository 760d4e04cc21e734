"""Listening sockets: those that the service manager held for us, else new ones."""

from __future__ import annotations

import trio

from ..config.units import Address
from ..errors import CannotStart
from ..host.systemd import Systemd

BACKLOG = 512  # clients that wait while nobody accepts, during a restart for one


async def listen(setting: str, address: Address, manager: Systemd) -> list[trio.SocketListener]:
    """Listen at an address (a name may stand for several), and have the manager hold the sockets.

    Raises:
        CannotStart: The address cannot be had; the text names `setting`.
    """
    listeners = [
        trio.SocketListener(trio.socket.from_stdlib_socket(held)) for held in manager.take(address)
    ]
    if not listeners:
        try:
            listeners = await trio.open_tcp_listeners(
                address.port, host=address.host, backlog=BACKLOG
            )
        except OSError as error:
            raise CannotStart(f"{setting}: cannot listen on {address}: {error.strerror}") from error
    for listener in listeners:
        manager.keep(setting, listener.socket.fileno())
    return listeners
