"""A connection to a server or a proxy: bytes out, bytes in, closed without waiting."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

import trio
from attrs import define, field

from ..hosts import IPAddress
from .errors import EgressError, Unanswered, explain

READ = 64 * 1024  # bytes at a time


class Transport(Protocol):
    """What TLS is spoken on."""

    silent: int  # bytes since the last that contained data


@define(eq=False)
class Connection:
    """One connection. `buffer` has the bytes that arrived and are not used yet."""

    stream: trio.abc.Stream
    socket: trio.socket.SocketType
    address: IPAddress
    transports: list[Transport] = field(factory=list, init=False)
    buffer: bytearray = field(factory=bytearray, init=False)
    _answered: bool = field(default=False, init=False)
    _lost: BaseException | None = field(default=None, init=False)

    async def send(self, data: bytes) -> None:
        """Send a request. If the server has hung up, `receive` says so: it may have answered."""
        self._answered = False
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._lost = error

    async def receive(self) -> bool:
        """Add what arrives to the buffer; return False at the end of the stream.

        Raises:
            Unanswered: The connection ended, and nothing had come since the last `send`.
            EgressError: It broke after that.
        """
        try:
            data = await self.stream.receive_some(READ)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            if self._answered:
                raise EgressError(f"the answer was cut off: {explain(error)}") from error
            raise Unanswered(explain(error)) from error
        if not data and not self._answered:
            if self._lost is not None:
                raise Unanswered(explain(self._lost)) from self._lost
            raise Unanswered("the server closed the connection without an answer")
        self._answered = True
        for transport in self.transports:
            transport.silent = 0
        self.buffer += data
        return bool(data)

    def is_clean(self) -> bool:
        """Whether the request was sent whole, and nothing followed its answer."""
        return self._lost is None and not self.buffer

    async def is_usable(self) -> bool:
        """Whether a kept connection is still open, and nothing unasked has arrived."""
        if self.socket.is_readable():
            return False
        if isinstance(self.stream, trio.SSLStream):
            # What was received already may not be decrypted yet. A deadline set inside of the scope
            # leaves time for that and no more; a scope that begins with one is cancelled before.
            with trio.CancelScope() as scope:
                scope.deadline = trio.current_time()
                with suppress(trio.BrokenResourceError):
                    await self.stream.receive_some(1)
                return False
        return True

    def close(self) -> None:
        """Close the socket, without waiting: safe after a cancellation, too."""
        self.socket.close()
