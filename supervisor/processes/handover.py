"""The gateway's connections: the parent accepts them, and hands each to a process.

Not SO_REUSEPORT: it goes by a hash of addresses and ports, so that of four processes with four
gateways one has none nine times in ten (benchmarks/reuseport.py), for days; connections that wait
in the queue of a process that dies are reset; and nobody could count those of one address.
"""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from attrs import define, field

from ..ports.accepting import REFUSAL, counted_as
from . import line
from .children import Child

ACCEPTED_MAX = 64  # connections taken at a time
REST = 0.1  # seconds that nothing is accepted, if the host is out of something
SHORT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

log = logging.getLogger(__name__)


@define(eq=False)
class Handover:
    """Accepts at the gateway's sockets, while there is somebody to accept for.

    Attributes:
        per_address: Connections that one address may have.
        rests_until: When it accepts again.
    """

    _selector: selectors.BaseSelector
    _listeners: Sequence[socket.socket]
    _servers: Sequence[Child]
    per_address: int
    rests_until: float = 0.0
    _is_accepting: bool = field(default=False, init=False)
    _handed: int = field(default=0, init=False)

    def listen(self, backlog: int, held: Callable[[int], None]) -> None:
        """Let clients connect; `held` is called with each descriptor. Raises OSError."""
        for listener in self._listeners:
            listener.settimeout(0)
            listener.listen(backlog)
            held(listener.fileno())

    def follow(self, *, is_open: bool) -> None:
        """Accept if clients are to be let in and a process is ready; else they wait."""
        is_any = any(child.state == "ready" for child in self._servers)
        wanted = is_open and is_any and time.monotonic() >= self.rests_until
        if wanted == self._is_accepting:
            return
        self._is_accepting = wanted
        for listener in self._listeners:
            if wanted:
                accept = partial(self._accept, listener)
                self._selector.register(listener, selectors.EVENT_READ, accept)
            else:
                self._selector.unregister(listener)

    def close(self) -> None:
        """Take no more; what systemd holds stays open for the next server."""
        self.follow(is_open=False)
        for listener in self._listeners:
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTED_MAX):
            try:
                client, place = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in SHORT_OF:
                    log.warning("no connection is accepted for %g s: %s", REST, error.strerror)
                    self.rests_until = time.monotonic() + REST
                    return
                continue  # this one has gone already
            with client:
                self._hand_over(client, counted_as(str(place[0])))

    def _hand_over(self, client: socket.socket, name: str) -> None:
        """Give a connection to the process that has the fewest; of those, to the one that has the
        fewest of this address; of those, to the one that has waited longest for one.
        """
        if name and sum(child.clients[name] for child in self._servers) >= self.per_address:
            with suppress(OSError):
                client.send(REFUSAL, socket.MSG_DONTWAIT)
            return
        able = [child for child in self._servers if child.state == "ready"]
        for child in sorted(able, key=lambda one: (*one.load(name), one.served)):
            if child.send(line.CLIENT + name.encode(), client.fileno()):
                child.clients[name] += 1
                self._handed += 1
                child.served = self._handed
                return
