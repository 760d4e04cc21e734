"""A stream that can be corked: while it is, it gathers what is sent, and afterwards sends all of it
as one write.

trio-websocket writes each frame by itself: three frames would be three system calls and packets.
"""

from __future__ import annotations

import trio
from attrs import define, field


@define(eq=False)
class Corked(trio.abc.Stream):
    """Wraps a socket's stream. One task corks; any may send."""

    _plain: trio.SocketStream | trio.SSLStream[trio.SocketStream]
    _held: bytearray = field(factory=bytearray, init=False)
    _is_corked: bool = field(default=False, init=False)
    _sending: trio.Lock = field(factory=trio.Lock, init=False)

    def cork(self) -> None:
        """Gather from now on."""
        self._is_corked = True

    def uncork(self) -> None:
        """Stop gathering; what was gathered goes out with the next `send_all`, even of nothing."""
        self._is_corked = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, or gather while corked."""
        self._held += data
        if self._is_corked:
            return
        async with self._sending:
            while self._held:
                held, self._held = self._held, bytearray()
                await self._plain.send_all(held)

    async def wait_send_all_might_not_block(self) -> None:
        """See trio.abc.SendStream."""
        async with self._sending:
            await self._plain.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """See trio.abc.ReceiveStream."""
        return await self._plain.receive_some(max_bytes)

    async def aclose(self) -> None:
        """Close the socket; what was gathered is lost."""
        await self._plain.aclose()
