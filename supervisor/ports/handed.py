"""Connections that another process accepts, and hands to this one."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import trio
from attrs import define, field


@define
class Place:
    """Stands for the listening socket, which the other process has."""

    _address: tuple[Any, ...]

    def getsockname(self) -> tuple[Any, ...]:
        """Where it is bound."""
        return self._address

    def setsockopt(self, *_: int) -> None:
        """Do nothing: each connection has options of its own."""


@define(eq=False)
class HandedListener(trio.abc.Listener[trio.SocketStream]):
    """Gives connections as a listener does.

    Attributes:
        socket: Only to be asked where it is.
    """

    _channel: trio.MemoryReceiveChannel[tuple[int, str]]  # descriptors, with their addresses
    socket: Place
    _left: Callable[[str], None]
    _open: dict[trio.SocketStream, str] = field(factory=dict, init=False)

    async def accept(self) -> trio.SocketStream:
        """Wait for a connection. Raises ClosedResourceError, OSError."""
        descriptor, address = await self._channel.receive()
        taken = socket.socket(fileno=descriptor)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(taken))
        self._open[stream] = address
        return stream

    def gone(self, stream: trio.SocketStream) -> None:
        """Report that a connection is closed."""
        if (address := self._open.pop(stream, None)) is not None:
            self._left(address)

    async def aclose(self) -> None:
        """Take no more, and close those that wait."""
        with suppress(trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            while True:
                descriptor, address = self._channel.receive_nowait()
                os.close(descriptor)
                self._left(address)
        self._channel.close()
        await trio.lowlevel.checkpoint()
