"""The connection of the Redis client, made again with back-off whenever it is lost.

Connecting blocks, so it is done in a worker thread; so are the exchanges of a connection that
cannot be used without a thread (a cluster's, or one through TLS).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import trio
from attrs import define, field

from ..fence import note
from .link import Link, words_of
from .resp import Command

if TYPE_CHECKING:
    from .direct import Direct

BACKOFF = (0.05, 1.0)  # seconds between attempts to connect: first, most
AGAIN = (1.0, 30.0)  # seconds between new connections to a server that refuses all: first, most
AGAIN_SETTLED = 60.0  # seconds without such a refusal after which AGAIN begins with the first again
REMIND = 60.0  # seconds between two log lines about a server that stays away

log = logging.getLogger(__name__)


@define(eq=False)
class Reconnecting:
    """A link, whether it stands, and why not. One task connects and exchanges.

    Attributes:
        on_reconnect: Called when the connection stands again after it was lost: what was in flight
            then may or may not have been carried out.
        is_up: Whether the connection stands.
        why_away: Why it does not.
        count: How often it was made.
    """

    _link: Link
    on_reconnect: list[Callable[[], None]] = field(factory=list, init=False)
    is_up: bool = field(default=False, init=False)
    why_away: str = field(default="there is no connection to Redis yet", init=False)
    count: int = field(default=0, init=False)
    _direct: Direct | None = field(default=None, init=False)
    _thread: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(1), init=False)
    _ending: threading.Lock = field(factory=threading.Lock, init=False)
    # a thread is connecting; if we are closed meanwhile, it closes the link itself
    _is_connecting: bool = field(default=False, init=False)
    _is_closed: bool = field(default=False, init=False)
    _connected_at: float = field(default=0.0, init=False)
    _reminded_at: float = field(default=-REMIND, init=False)
    # the earliest time to leave a server that refuses all once more
    _again_at: float = field(default=0.0, init=False)
    _again_pause: float = field(default=AGAIN[0], init=False)

    async def connect(self, failed: Callable[[], None]) -> None:
        """Connect, however long it takes; does nothing if the connection stands.

        Args:
            failed: Called after each attempt that failed.
        """
        pause = BACKOFF[0]
        while not self.is_up:
            try:
                self._is_connecting = True
                await trio.to_thread.run_sync(
                    self._connect_link, limiter=self._thread, abandon_on_cancel=True
                )
                self._direct = self._link.direct()
            # whatever it is, it may be over at the next attempt
            except Exception as error:  # noqa: BLE001
                self._disconnect()
                self.why_away = f"Redis cannot be reached: {words_of(error)}"
                self._remind(pause)
                failed()
                await trio.sleep(pause)
                pause = min(pause * 2, BACKOFF[1])
            else:
                self.is_up = True
                self._connected_at = trio.current_time()
                self._reminded_at = self._connected_at - REMIND
                self.count += 1
                if self.count > 1:
                    self.announce()

    def _connect_link(self) -> None:
        """In a thread, which nobody waits for if the client is closed meanwhile."""
        try:
            self._link.connect()
        finally:
            with self._ending:
                self._is_connecting = False
                if self._is_closed:
                    self._link.close()

    def _remind(self, pause: float) -> None:
        now = trio.current_time()
        if now - self._reminded_at >= REMIND:
            self._reminded_at = now
            log.warning("%s; next attempt in %.2f s", self.why_away, pause)

    def announce(self) -> None:
        """Call the listeners of `on_reconnect`."""
        for call in self.on_reconnect:
            try:
                call()
            # the other listeners are called all the same
            except Exception as error:  # noqa: BLE001
                note("store", error, "reporting a new connection")

    async def exchange(self, commands: Sequence[Command], packed: bytes) -> list[Any]:
        """Send commands, and return the answer to each. Raises as `Link.exchange` does.

        Cancellation: leaves the connection unfit for use.
        """
        if self._direct is not None:
            return await self._direct.exchange(commands, packed)
        return await trio.to_thread.run_sync(
            self._link.exchange, commands, packed, limiter=self._thread
        )

    def can_write(self, key: str) -> bool | None:
        """Whether writes to a key have a chance, as `Link.can_write` has it."""
        return self.is_up and self._link.can_write(key)

    def end_overdue(self) -> None:
        """End an exchange that has waited too long for the server; to be called now and then. One
        in a thread ends by itself.
        """
        if self._direct is not None:
            self._direct.end_overdue()

    async def pause_if_new(self) -> None:
        """After a connection that failed at once: pause, so that no loop spins."""
        if trio.current_time() - self._connected_at < BACKOFF[1]:
            await trio.sleep(BACKOFF[0])

    @property
    def is_stale(self) -> bool:
        """Whether the server has closed the connection. Asked between two exchanges; always False
        for one that needs a thread.
        """
        return self._direct is not None and self._direct.is_stale

    def move_on(self, reason: str) -> None:
        """Drop the connection to a server that refuses, with growing pauses between: the address
        may lead to another server by now.
        """
        now = trio.current_time()
        if now >= self._again_at:
            if now > self._again_at + AGAIN_SETTLED:
                self._again_pause = AGAIN[0]
            self._again_at = now + self._again_pause
            self._again_pause = min(self._again_pause * 2, AGAIN[1])
            log.warning("connecting to Redis again, since it refuses: %s", reason)
            self.lose(reason)

    def lose(self, reason: str) -> None:
        """Close the connection; the next `connect` makes a new one."""
        self._disconnect()
        if self.is_up:
            self.is_up = False
            self.why_away = f"the connection to Redis is lost: {reason}"

    def _disconnect(self) -> None:
        self._close_direct()
        self._link.close()

    def _close_direct(self) -> None:
        if self._direct is not None:
            self._direct.close()
            self._direct = None

    def abandon(self) -> None:
        """Close for good, while others may still use it: whoever waits for the server, or for a
        thread that does, gets an error.
        """
        with self._ending:
            self._is_closed = True
            self._link.abandon()

    def close(self) -> None:
        """Close after `abandon`; at most a thread that is still connecting uses it now."""
        self._close_direct()
        with self._ending:
            if not self._is_connecting:
                self._link.close()
        self.is_up = False
