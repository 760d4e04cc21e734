"""Redis without a thread: pipelines over an open connection, in Trio's own thread.

redis-py connects (addresses, passwords, databases, the greeting), which blocks. After that it is
bytes on a socket, encoded and parsed by hiredis. A batch costs a fifth of what it costs through a
worker thread (benchmarks/redis_client.py).
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Sequence
from typing import Any

import hiredis
import redis
import trio
from attrs import define, field

from .errors import NotEncodable, code_of
from .scripts import in_full, is_known

READ = 64 << 10
INTEGER_MAX = 1 << 1024  # larger integers are not sent; Redis itself has 64 bits
EXCHANGE_TIMES = 6  # a whole batch may take this many times the bound of a single wait

Command = tuple[Any, ...]
"""A Redis command and its arguments: bytes, str, int or float."""

_MORE = object()


class ErrorAnswer(redis.ResponseError):
    """The server answered a command with an error. The text is its own, with the code."""


class NotSent(redis.ConnectionError):
    """Before anything was sent, the connection was gone or no node answered."""


class Lost(redis.ConnectionError):
    """Stands in for an answer: this command's node did not answer, though others may have.

    Attributes:
        sent: Whether the command may have run.
    """

    def __init__(self, text: str, *, sent: bool) -> None:
        super().__init__(text)
        self.sent = sent


def pack(commands: Sequence[Command]) -> bytes:
    """Encode commands as the bytes to send.

    Raises:
        NotEncodable: One of them cannot be encoded, or is empty.
    """
    try:
        wrong = _wrong(commands)
        packed = b"" if wrong else b"".join(map(hiredis.pack_command, commands))
    except Exception as error:
        raise NotEncodable(str(error)) from error
    if wrong:
        raise NotEncodable(wrong)
    return packed


def _wrong(commands: Sequence[Command]) -> str:
    """Describe a mistake that hiredis would not notice; "" if none."""
    for command in commands:
        if not command:
            # servers do not answer it: its caller would get the next command's answer
            return "it is empty"
        for part in command:
            if part.__class__ is int and not -INTEGER_MAX < part < INTEGER_MAX:
                # more than Python converts to text: hiredis would crash the process
                return "an integer has too many digits"
    return ""


@define(eq=False)
class Answers:
    """Parses what the server sends into answers."""

    _reader: Any = field(
        factory=lambda: hiredis.Reader(
            protocolError=redis.InvalidResponse, replyError=ErrorAnswer, notEnoughData=_MORE
        ),
        init=False,
    )

    def feed(self, data: bytes, answers: list[Any], most: int) -> None:
        """Append the answers that this data completes to a list, until it holds `most`.

        Raises:
            redis.InvalidResponse: It is not RESP, or there are more answers than commands.
        """
        reader = self._reader
        try:
            reader.feed(data)
            while len(answers) < most:
                answer = reader.gets()
                if answer is _MORE:
                    return
                answers.append(answer)
        except redis.InvalidResponse as error:
            raise redis.InvalidResponse(
                f"the server's answer is not of its protocol: {error}"
            ) from error
        except Exception as error:  # hiredis, of answers no server sends: a map with a list as key
            raise redis.InvalidResponse(f"the server's answer cannot be read: {error}") from error
        if reader.has_data():  # from here on, nobody knows which answer is whose
            raise redis.InvalidResponse("the server answered more than it was asked")


def forgotten(commands: Sequence[Command], answers: Sequence[Any]) -> list[int]:
    """Return the places of the commands whose script the server does not know (any more)."""
    return [
        n
        for n, answer in enumerate(answers)
        if isinstance(answer, ErrorAnswer)
        and code_of(str(answer)) == "NOSCRIPT"
        and is_known(commands[n])
    ]


@define(eq=False)
class Direct:
    """A connection for one task; `seconds` bounds each wait for the server."""

    _socket: trio.socket.SocketType
    _seconds: float
    _answers: Answers = field(factory=Answers, init=False)
    _poll: select.poll = field(factory=select.poll, init=False)

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
        answers = list[Any]()
        end = trio.current_time() + EXCHANGE_TIMES * self._seconds
        with trio.move_on_after(self._seconds) as waiting:
            left = memoryview(packed)
            while left:
                left = left[await self._socket.send(left) :]
                if left:
                    self._prolong(waiting, end)
            while True:
                data = await self._socket.recv(READ)
                if not data:
                    raise redis.ConnectionError("the server closed the connection")
                self._answers.feed(data, answers, count)
                if len(answers) == count:
                    break
                self._prolong(waiting, end)
        if waiting.cancelled_caught:
            raise redis.TimeoutError(f"the server did not answer in {self._seconds:g} s")
        return answers

    def _prolong(self, waiting: trio.CancelScope, end: float) -> None:
        waiting.deadline = min(trio.current_time() + self._seconds, end)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def direct(connection: Any, seconds: float) -> Direct | None:
    """Take the socket of a redis-py connection, which must not be used afterwards; None if it is
    not a plain socket (TLS).
    """
    plain = socket_of(connection)
    if plain is None or isinstance(plain, ssl.SSLSocket):
        return None
    return Direct(trio.socket.from_stdlib_socket(plain.dup()), seconds)


def socket_of(connection: Any) -> socket.socket | None:
    """The socket of a redis-py connection: the only one of its internals used here
    (pyproject.toml bounds the version).
    """
    found = getattr(connection, "_sock", None)
    return found if isinstance(found, socket.socket) else None


def is_readable(plain: socket.socket | trio.socket.SocketType) -> bool:
    """Whether there is something to read, or the end of the stream."""
    poll = select.poll()
    poll.register(plain.fileno(), select.POLLIN)
    return bool(poll.poll(0))
