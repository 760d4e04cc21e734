"""Redis without a thread: pipelines over a connection that stands, from Trio's own thread.

redis-py connects (addresses, passwords, databases, the server's greeting) and blocks while it does; what follows is bytes on a socket, which
hiredis, its own parser, makes and reads. A batch costs a fifth of what it does through a worker thread (benchmarks/redis_client.py).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from typing import Any

import hiredis
import redis
import redis.connection
import trio
from attrs import define, field

from .scripts import in_full

READ = 64 << 10

Command = tuple[Any, ...]
"""A Redis command and its arguments: bytes, str, int or float."""

_MORE = object()


def _reader() -> Any:
    return hiredis.Reader(
        protocolError=redis.InvalidResponse,
        replyError=redis.connection.DefaultParser.parse_error,
        notEnoughData=_MORE,
    )


@define(eq=False)
class Direct:
    """A connection on which one task exchanges batches; `seconds` bound each wait for the server."""

    _socket: trio.socket.SocketType
    _seconds: float
    _parser: Any = field(factory=_reader, init=False)

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """The result of each command, or the error that the server answered it with. A script that the server has forgotten is sent in full,
        after the other commands.

        Raises:
            redis.RedisError, OSError: The connection broke, or the server does not answer.
        """
        results = await self._pipeline(commands)
        for index, result in enumerate(results):
            if isinstance(result, redis.exceptions.NoScriptError):
                (results[index],) = await self._pipeline([in_full(commands[index])])
        return results

    async def _pipeline(self, commands: Sequence[Command]) -> list[Any]:
        await self._send(b"".join([hiredis.pack_command(command) for command in commands]))
        results: list[Any] = []
        while len(results) < len(commands):
            result = self._parser.gets()
            if result is _MORE:
                self._parser.feed(await self._receive())
            elif isinstance(result, redis.ConnectionError):  # the server is there, and takes no commands
                raise result
            else:
                results.append(result)
        return results

    async def _send(self, data: bytes) -> None:
        left = memoryview(data)
        with trio.move_on_after(self._seconds) as waiting:
            while left:
                left = left[await self._socket.send(left) :]
        if waiting.cancelled_caught:
            raise redis.TimeoutError(f"the server took nothing for {self._seconds:g} s")

    async def _receive(self) -> bytes:
        with trio.move_on_after(self._seconds) as waiting:
            data: bytes = await self._socket.recv(READ)
        if waiting.cancelled_caught:
            raise redis.TimeoutError(f"the server did not answer in {self._seconds:g} s")
        if not data:
            raise redis.ConnectionError("the server closed the connection")
        return data

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def direct(connection: Any, seconds: float) -> Direct | None:
    """What stands below a connection of redis-py's, which is to be used no more; None where it is not a plain socket (TLS)."""
    plain = getattr(connection, "_sock", None)
    if not isinstance(plain, socket.socket) or isinstance(plain, ssl.SSLSocket):
        return None
    own = plain.dup()
    return Direct(trio.socket.from_stdlib_socket(own), seconds)
