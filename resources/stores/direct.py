"""Redis without a thread: pipelines over an open connection, in Trio's own thread.

redis-py connects (addresses, passwords, databases, the greeting), which blocks. After that it is
bytes on a socket, encoded and parsed by hiredis. A batch costs a fifth of what it costs through a
worker thread (benchmarks/redis_client.py).
"""

from __future__ import annotations

import math
import select
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import redis
import trio
from attrs import define, field

from ..clock import clock
from .resp import EXCHANGE_TIMES, READ, Answers, Command, NotSent, forgotten, pack, socket_of
from .scripts import in_full


@define(eq=False)
class Direct:
    """A connection for one task; `seconds` bounds each wait for the server, as far as
    `end_overdue` is called.
    """

    _socket: socket.socket  # which never blocks
    _seconds: float
    _answers: Answers = field(factory=Answers, init=False)
    _poll: select.poll = field(factory=select.poll, init=False)
    # when the exchange in progress began, and when it last got on; infinite if there is none
    _began: float = field(default=math.inf, init=False)
    _since: float = field(default=math.inf, init=False)
    _is_overdue: bool = field(default=False, init=False)
    _now: Callable[[], float] = field(factory=clock, init=False)

    def __attrs_post_init__(self) -> None:
        self._poll.register(self._socket.fileno(), select.POLLIN)

    @property
    def is_stale(self) -> bool:
        """Whether the server has closed the connection, or sent something unasked. To be asked
        between two batches.
        """
        return bool(self._poll.poll(0))

    async def exchange(self, commands: Sequence[Command], packed: bytes) -> list[Any]:
        """Send commands, and return the answer to each; an `ErrorAnswer` is one, too. Scripts that
        the server no longer knows are sent again in full, after the other commands.

        Raises:
            NotSent: The connection was gone before anything was sent.
            redis.RedisError, OSError: The connection broke, or the server does not answer, or not
                in RESP.

        Cancellation: leaves the connection unfit for use.
        """
        if self.is_stale:
            raise NotSent("the server closed the connection")
        answers = await self._pipeline(packed, len(commands))
        again = forgotten(commands, answers)
        if again:
            in_order = await self._pipeline(pack([in_full(commands[n]) for n in again]), len(again))
            for n, answer in zip(again, in_order, strict=True):
                answers[n] = answer
        return answers

    async def _pipeline(self, packed: bytes, count: int) -> list[Any]:
        # Without Trio's own socket: after each call that need not wait it goes through the event
        # loop, and it tries to read what cannot have come yet. Without a scope for the time: it
        # would cost more than the rest.
        answers = list[Any]()
        self._began = self._since = self._now()
        try:
            await self._send(packed)
            while len(answers) < count:
                self._answers.feed(await self._receive(), answers, count)
        except (redis.ConnectionError, OSError):
            if self._is_overdue:
                text = f"the server did not answer in {self._seconds:g} s"
                raise redis.TimeoutError(text) from None
            raise
        finally:
            self._began = self._since = math.inf
        return answers

    async def _send(self, packed: bytes) -> None:
        left = memoryview(packed)
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)
            else:
                if left:
                    self._since = self._now()

    async def _receive(self) -> bytes:
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                data = self._socket.recv(READ)
            except BlockingIOError:
                continue
            if not data:
                raise redis.ConnectionError("the server closed the connection")
            self._since = self._now()
            return data

    def end_overdue(self) -> None:
        """End an exchange that has waited too long for the server; to be called now and then."""
        now = self._now()
        is_late = now > self._since + self._seconds
        if is_late or now > self._began + EXCHANGE_TIMES * self._seconds:
            self._is_overdue = True
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket; who waits for it gets an error."""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


def direct(connection: Any, seconds: float) -> Direct | None:
    """Take the socket of a redis-py connection, which must not be used afterwards; None if it is
    not a plain socket (TLS).
    """
    plain = socket_of(connection)
    if plain is None or isinstance(plain, ssl.SSLSocket):
        return None
    own = plain.dup()
    own.settimeout(0)
    return Direct(own, seconds)
