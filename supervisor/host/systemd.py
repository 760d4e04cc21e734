"""Talk to systemd: sd_notify(3), the watchdog, and listening sockets that outlive a restart.

Without systemd (no NOTIFY_SOCKET, no LISTEN_FDS) none of this does anything.
"""

from __future__ import annotations

import array
import errno
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence

import trio
from attrs import define, field

from ..config.units import Address

START_MORE_USEC = 60_000_000  # by which each message about a start extends its timeout
FIRST_FD = 3  # SD_LISTEN_FDS_START
WAITING_MAX = 64  # datagrams; beyond that the oldest is lost, but for those that begin with OURS
OURS = b"JSBOX_"  # to a parent of our own: a few words about each reload, and it waits for them
VALUE_MAX = 2000  # characters
RETRY_SECONDS = 1.0
# of a message that can be sent later: the socket, the memory, or what may be under way is full
LATER = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})

log = logging.getLogger(__name__)


@define(eq=False)
class Systemd:
    """The service manager that started us, if any. Made by `from_environment`, or with a connected
    socket to a parent of our own that stands in for it.
    """

    _path: str = ""
    watchdog: float = 0.0  # seconds, at most, between two signs of life; 0: none are wanted
    _sockets: list[tuple[str, socket.socket]] = field(factory=list)
    # Messages, each with the descriptors that go with it.
    _waiting: deque[tuple[bytes, list[int]]] = field(factory=deque, init=False)
    # Kept open, so that the watchdog can be notified when there are no descriptors left.
    _socket: socket.socket | None = None

    def __attrs_post_init__(self) -> None:
        if self._path:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the notify socket; what waits, and whatever is sent after that, is lost."""
        while self._waiting:
            self._drop()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def tell(self, **words: str) -> None:
        """Send assignments (READY="1"). Never blocks; what cannot be delivered is dropped."""
        self.say(words)

    def say(self, words: Mapping[str, str], given: Sequence[int] = ()) -> None:
        """Send assignments, with descriptors that are closed once they are sent, as `tell` does."""
        lines = ((name, " ".join(value.split())[:VALUE_MAX]) for name, value in words.items())
        self._send("".join(f"{name}={value}\n" for name, value in lines), given)

    def ready(self, status: str) -> None:
        """Report that we serve, after a start or a reload."""
        self.tell(READY="1", STATUS=status)

    def starting(self, status: str) -> None:
        """Report that we are still starting, and ask for more time."""
        self.tell(STATUS=status, EXTEND_TIMEOUT_USEC=str(START_MORE_USEC))

    def reloading(self) -> None:
        """Report that a reload began; `ready` reports its end."""
        self.tell(
            RELOADING="1",
            MONOTONIC_USEC=str(time.monotonic_ns() // 1000),
            STATUS="reading the config again",
        )

    def stopping(self, status: str) -> None:
        """Report that we are about to end."""
        self.tell(STOPPING="1", STATUS=status)

    @property
    def is_there(self) -> bool:
        """Whether a service manager wants to be notified."""
        return self._socket is not None

    def take(self, address: Address) -> list[socket.socket]:
        """Take the listening sockets that it held for an address."""
        taken = [held for held in self._sockets if _is_at(held[1], address)]
        for held in taken:
            self._sockets.remove(held)
        return [held for _, held in taken]

    def keep(self, name: str, descriptor: int) -> None:
        """Have it hold a listening socket while we restart, so that clients wait instead of being
        refused. It holds no socket twice.
        """
        try:
            own = os.dup(descriptor)
        except OSError as error:
            log.warning("systemd cannot hold a socket for us: %s", error.strerror)
            return
        self._send(f"FDSTORE=1\nFDNAME={name}\n", [own])

    def drop(self, name: str) -> None:
        """Have it hold a socket no longer; does nothing if it holds none of that name."""
        self.tell(FDSTOREREMOVE="1", FDNAME=name)

    def close_rest(self) -> None:
        """Close the sockets that nobody took: their addresses are no longer in the config."""
        for name, held in self._sockets:
            log.info("closing a socket that systemd held: nothing uses %s now", held.getsockname())
            held.close()
            self.tell(FDSTOREREMOVE="1", FDNAME=name)
        self._sockets.clear()

    async def show_life(self) -> None:
        """Notify the watchdog, as often as it wants, while the event loop runs; send what had to
        wait.
        """
        while self._socket is not None:
            self._flush()
            if self.watchdog and not self._waiting:
                self.tell(WATCHDOG="1")
            await trio.sleep(min(self.watchdog / 3 or RETRY_SECONDS, RETRY_SECONDS))

    def _send(self, text: str, given: Sequence[int]) -> None:
        """Send a datagram, after those that wait already, and close the descriptors that go with
        it. Never blocks: if the socket is full, `show_life` sends it later.
        """
        if self._socket is None:
            for descriptor in given:
                os.close(descriptor)
            return
        self._waiting.append((text.encode("utf-8", "backslashreplace"), [*given]))
        self._flush()
        if len(self._waiting) > WAITING_MAX:
            for place, (data, _) in enumerate(self._waiting):
                if not data.startswith(OURS):
                    self._forget(f"{WAITING_MAX} messages wait already", place)
                    return

    def _flush(self) -> None:
        path = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        address = (path,) if path else ()
        while self._waiting and self._socket is not None:
            data, descriptors = self._waiting[0]
            rights = (
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
                if descriptors
                else []
            )
            try:
                self._socket.sendmsg([data], rights, socket.MSG_DONTWAIT, *address)
            except OSError as error:
                if error.errno in LATER:
                    return
                if not path:  # a parent of our own, which has gone
                    self.close()
                    return
                self._forget(str(error))
            else:
                self._drop()

    def _forget(self, reason: str, place: int = 0) -> None:
        line = self._waiting[place][0].partition(b"\n")[0].decode()
        self._drop(place)
        log.warning("cannot send %r to systemd: %s", line, reason)

    def _drop(self, place: int = 0) -> None:
        _, descriptors = self._waiting[place]
        del self._waiting[place]
        for descriptor in descriptors:
            os.close(descriptor)


def from_environment(environment: Mapping[str, str] = os.environ) -> Systemd:
    """The service manager named by the environment."""
    mine = str(os.getpid())
    wanted = environment.get("WATCHDOG_USEC", "")
    is_mine = environment.get("WATCHDOG_PID", mine) == mine
    watchdog = int(wanted) / 1e6 if wanted.isdigit() and is_mine else 0.0
    sockets = []
    if environment.get("LISTEN_PID") == mine and environment.get("LISTEN_FDS", "").isdigit():
        names = environment.get("LISTEN_FDNAMES", "").split(":")
        for place in range(int(environment["LISTEN_FDS"])):
            descriptor = FIRST_FD + place
            # the standard library's own parameter
            os.set_inheritable(descriptor, False)  # noqa: FBT003
            name = names[place] if place < len(names) else ""
            sockets.append((name, socket.socket(fileno=descriptor)))
    return Systemd(environment.get("NOTIFY_SOCKET", ""), watchdog, sockets)


def _is_at(found: socket.socket, address: Address) -> bool:
    if found.family not in {socket.AF_INET, socket.AF_INET6} or found.type != socket.SOCK_STREAM:
        return False
    host, port = found.getsockname()[:2]
    if port != address.port or not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    try:
        host_asked = address.host or "0.0.0.0"  # noqa: S104  # compared, not bound
        found_all = socket.getaddrinfo(host_asked, port, type=socket.SOCK_STREAM)
        wanted = {each[4][0] for each in found_all}
    except OSError:
        return False
    return host in wanted
