"""RESP, Redis's protocol: commands and their answers as bytes, by hiredis. For processes with an
event loop, and for those without.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from typing import Any

import hiredis
import redis
from attrs import define, field

from .errors import NotEncodable, code_of
from .scripts import is_known

READ = 64 << 10  # bytes at once
EXCHANGE_TIMES = 6  # a whole batch may take this many times the bound of a single wait
INTEGER_MAX = 1 << 1024  # larger integers are not sent; Redis itself has 64 bits

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


def socket_of(connection: Any) -> socket.socket | None:
    """The socket of a redis-py connection: the only one of its internals used here
    (pyproject.toml bounds the version).
    """
    found = getattr(connection, "_sock", None)
    return found if isinstance(found, socket.socket) else None


def is_readable(descriptor: int) -> bool:
    """Whether a socket has something to read, or the end of the stream."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
