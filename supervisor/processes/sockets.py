"""The ports of a server of several processes: bound first, so that one that is in use ends the
start before anything is touched; listened at once there is somebody to answer.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack

from ..config.units import Address
from ..errors import CannotStart
from ..host.systemd import Systemd


def bound(setting: str, address: Address, systemd: Systemd) -> list[socket.socket]:
    """Sockets at an address (a name may stand for several): those that systemd held, which listen,
    or new ones, which do not yet.

    Raises:
        CannotStart: The address cannot be used; the text names `setting`.
    """
    if held := systemd.take(address):
        return held
    made: list[socket.socket] = []
    with ExitStack() as stack:
        try:
            for family, kind, protocol, _, place in _places(address):
                one = stack.enter_context(socket.socket(family, kind, protocol))
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.bind(place)
                made.append(one)
        except OSError as error:
            raise cannot_listen(setting, address, error) from error
        stack.pop_all()
    return made


def cannot_listen(setting: str, address: Address, error: OSError) -> CannotStart:
    """The end of a start because of a port."""
    return CannotStart(f"{setting}: cannot listen on {address}: {error.strerror}")


def _places(address: Address) -> list[tuple[int, int, int, str, tuple[str, int]]]:
    found = socket.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return list(dict.fromkeys(found))  # type: ignore[arg-type]
