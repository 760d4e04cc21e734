"""Listening sockets: those that systemd held for us, else new ones."""

from __future__ import annotations

import ssl

import trio

from ..config.model import Listen
from ..config.tls import server_context
from ..config.units import Address
from ..errors import CannotStart
from ..host.systemd import Systemd

# Clients that wait to be accepted: during a restart, or a flood. The kernel has a bound of its own;
# one beyond it is not refused, but tries again after 1, 3 and 7 s.
BACKLOG = 4096


async def listen(setting: str, address: Address, systemd: Systemd) -> list[trio.SocketListener]:
    """Listen at an address (a name may stand for several), and have systemd hold the sockets.

    Raises:
        CannotStart: The address cannot be used; the text names `setting`.
    """
    held = map(trio.socket.from_stdlib_socket, systemd.take(address))
    listeners = [trio.SocketListener(each) for each in held]
    if not listeners:
        listeners = await _listen(setting, address)
    for listener in listeners:
        systemd.keep(setting, listener.socket.fileno())
    return listeners


async def must_be_free(setting: str, address: Address) -> None:
    """Check that `listen` would succeed. Raises as it does."""
    for listener in await _listen(setting, address):
        await listener.aclose()


async def _listen(setting: str, address: Address) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(address.port, host=address.host, backlog=BACKLOG)
    except OSError as error:
        raise CannotStart(f"{setting}: cannot listen on {address}: {error.strerror}") from error


def tls_of(settings: Listen) -> ssl.SSLContext | None:
    """Make the context of both ports; None if they speak no TLS.

    Raises:
        CannotStart: The certificate or its key cannot be used.
    """
    if settings.certificate is None or settings.key is None:
        return None
    try:
        return server_context(settings.certificate, settings.key)
    except OSError as error:
        raise CannotStart(f"listen.certificate: {error}") from error
