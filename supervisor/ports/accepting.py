"""Accepting connections on a port: counted from accept to close, bounded as a whole and per
address, each inside a fence.

A client that connects while the port is full is turned away at once, in plain HTTP, and costs no
descriptor. After `GRACE_SECONDS`, a connection that has not yet shown that it is more than an open
socket makes way for a newer one; if there is none, one that is kept open between two requests. No
error of one connection, or of accepting one, ends the port.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import resource
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import trio
from attrs import define, field, frozen

from resources.fence import fence, note

from .crowding import WITHIN, Crowding

GRACE_SECONDS = 1.0  # in which a new connection does not have to make way
# Connections beyond the bound, while all others are known; they are refused in the port's own
# protocol.
SURPLUS = 16
PAUSE = (0.05, 1.0)  # seconds until accept is tried again: first, most
# Bytes read before a connection is refused; if any are left, TCP resets it and the answer is lost.
READ_AWAY = 64 << 10
LEAST = 8  # connections that a port takes, however few descriptors there are

REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 21\r\n\r\ntoo many connections\n"
)

log = logging.getLogger(__name__)


@frozen
class Bounds:
    """How many connections a port takes.

    Attributes:
        most: In all.
        per_address: From one address. Loopback is exempt: behind a proxy on this host every client
            comes from there.
        part: They take this part of our file descriptors at most.
    """

    most: int
    per_address: int
    part: float = 1 / 2


@define(eq=False)
class Visit:
    """One connection, from accept to close.

    Attributes:
        stream: The plain socket.
        address: The client's IP address.
        is_surplus: The port is full: the client may be told so, and must not be served.
        has_answered: Something was sent to the client; set by whoever serves it. If not, the client
            gets `REFUSAL` when it has to make way.
    """

    stream: trio.SocketStream
    address: str
    door: Door
    is_surplus: bool = False
    has_answered: bool = False
    since: float = field(factory=trio.current_time)
    scope: trio.CancelScope = field(factory=trio.CancelScope, init=False)

    def become_known(self) -> None:
        """The client has shown who it is: from now on it does not have to make way."""
        self.door.strangers.pop(self, None)

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """The client asks for nothing in this block. A known one makes way then, if there is nobody
        else who must.
        """
        if self in self.door.strangers or not self.has_answered:
            yield
            return
        self.since = trio.current_time()
        self.door.resting[self] = None
        try:
            yield
        finally:
            self.door.resting.pop(self, None)


Serve = Callable[[Visit], Awaitable[None]]


def _unnoticed(_: trio.SocketStream) -> None:
    """Do nothing: nobody else counts these connections."""


@define(eq=False)
class Door:
    """The connections of one port.

    Attributes:
        where: The name of the port's fence.
        gone: Called with each connection that was accepted, once it is closed.
    """

    where: str
    bounds: Bounds
    gone: Callable[[trio.SocketStream], None] = _unnoticed
    strangers: dict[Visit, None] = field(factory=dict, init=False)
    """Connections that are not known yet, oldest first."""
    resting: dict[Visit, None] = field(factory=dict, init=False)
    """Known connections whose clients ask for nothing now, longest first."""
    crowding: Crowding = field(factory=Crowding, init=False)
    _inside: set[Visit] = field(factory=set, init=False)
    _by_address: Counter[str] = field(factory=Counter, init=False)

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._inside)

    @property
    def problem(self) -> str:
        """What a person should know of a port that is, or was, full; empty if it was not."""
        count = self.crowding.lately()
        if not count:
            return ""
        return (
            f"{self.where}: {count} connections were turned away, or made way for others, in the"
            f" last {WITHIN} s, the last from {self.crowding.address}; {self.open} are open, of"
            f" {self.bounds.most} at most; {len(self.strangers)} have not shown who they are"
        )

    async def accept(
        self, listener: trio.abc.Listener[trio.SocketStream], serve: Serve, clients: trio.Nursery
    ) -> None:
        """Accept on one listener until it is closed; serve each connection in a task in `clients`.

        Cancellation: the listener is closed, connections go on.
        """
        async with listener:
            pause = PAUSE[0]
            while True:
                try:
                    stream = await listener.accept()
                except trio.ClosedResourceError:
                    return
                # a connection is gone, or the host is out of something
                except Exception as error:  # noqa: BLE001
                    if pause == PAUSE[0]:  # else it is logged already
                        note(f"{self.where}.accept", error, "it is tried again")
                    await trio.sleep(pause)
                    pause = min(pause * 2, PAUSE[1])
                else:
                    pause = PAUSE[0]
                    self._take(stream, serve, clients)

    def _take(self, stream: trio.SocketStream, serve: Serve, clients: trio.Nursery) -> None:
        visit = None
        with suppress(OSError):  # it may have gone already
            visit = self.admit(stream, str(stream.socket.getpeername()[0]))
        if visit is None:
            turn_away(stream)
            self.gone(stream)
        else:
            clients.start_soon(self._visit, visit, serve)

    def admit(self, stream: trio.SocketStream, address: str) -> Visit | None:
        """Count an accepted connection; return None if there is no room for it. Never waits."""
        visit = Visit(stream, address, self)
        name = counted_as(address)
        if name and self._by_address[name] >= self.bounds.per_address and not self._make_way(name):
            self.crowding.note(address)
            return None
        if len(self._inside) >= self.bounds.most and not self._make_way():
            self.crowding.note(address)
            if self.strangers or len(self._inside) >= self.bounds.most + SURPLUS:
                return None
            visit.is_surplus = True
        self._inside.add(visit)
        self._by_address[name] += 1
        self.strangers[visit] = None
        return visit

    def leave(self, visit: Visit) -> None:
        """Count a connection no more; does nothing the second time."""
        if visit in self._inside:
            self._inside.discard(visit)
            self.strangers.pop(visit, None)
            self.resting.pop(visit, None)
            name = counted_as(visit.address)
            self._by_address[name] -= 1
            if not self._by_address[name]:
                del self._by_address[name]

    def _make_way(self, name: str | None = None) -> bool:
        """End the oldest stranger (of one address, if given) whose grace is over, or, if all are
        known, the one that rests longest; return whether there was one.
        """
        latest = trio.current_time() - GRACE_SECONDS
        resting = {} if self.strangers and name is None else self.resting
        for visits in (self.strangers, resting):
            for visit in visits:
                if visit.since > latest:
                    break
                if name is None or counted_as(visit.address) == name:
                    self.crowding.note(visit.address)
                    self.leave(visit)
                    visit.scope.cancel()
                    return True
        return False

    async def _visit(self, visit: Visit, serve: Serve) -> None:
        try:
            with fence(self.where, visit.address), visit.scope:
                await serve(visit)
            if visit.scope.cancelled_caught and not visit.has_answered:
                turn_away(visit.stream)
        finally:
            self.leave(visit)
            visit.stream.socket.close()
            self.gone(visit.stream)


def turn_away(stream: trio.SocketStream, answer: bytes = REFUSAL) -> None:
    """Send as much of an answer as can be sent at once, and close. Never waits, never raises
    OSError.
    """
    with suppress(OSError):
        os.read(stream.socket.fileno(), READ_AWAY)
    with suppress(OSError):
        os.write(stream.socket.fileno(), answer)
    stream.socket.close()


def is_loopback(address: str) -> bool:
    """Whether an IP address is a loopback address."""
    ip = _ip(address)
    return ip is not None and ip.is_loopback


def counted_as(address: str) -> str:
    """The name that connections from an address count under: IPv4, the address; IPv6, its /64;
    loopback, which has no bound, "".
    """
    ip = _ip(address)
    if ip is None:
        return address
    if ip.is_loopback:
        return ""
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ipaddress.IPv6Address(int(ip) >> 64 << 64))


def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip


def affordable(setting: str, most: int, part: float = 1 / 2) -> int:
    """Lower a number of connections to `part` of our file descriptors, if it is higher: sandboxes,
    the store and the other port need theirs.
    """
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    share = int(descriptors * part)
    if descriptors == resource.RLIM_INFINITY or most <= share:
        return most
    fewer = max(share, LEAST)
    log.warning(
        "%s is %d, but this process may open only %d files: at most %d connections are taken",
        setting, most, descriptors, fewer,
    )  # fmt: skip
    return fewer
