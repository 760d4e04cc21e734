"""The blocking side of the Redis client: one connection, used by one thread at a time."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import redis
from attrs import define, field, frozen
from redis.backoff import NoBackoff
from redis.retry import Retry

from .errors import code_of
from .resp import (
    EXCHANGE_TIMES,
    READ,
    Answers,
    Command,
    ErrorAnswer,
    NotSent,
    forgotten,
    is_readable,
    pack,
    socket_of,
)
from .scripts import all_scripts, in_full

if TYPE_CHECKING:
    from .direct import Direct

SOCKET_SECONDS = 5.0  # to connect, and for each answer: a server that hangs counts as gone

NOT_YET = frozenset({"LOADING", "MASTERDOWN", "BUSY", "NOAUTH"})
"""Codes of a server that answers but takes no commands yet: it counts as not connected, and
connecting is retried."""

_RUN_ID = re.compile(rb"^run_id:(\w+)\r?$", re.MULTILINE)


class Link(Protocol):
    """The blocking side; only ever used by one thread at a time, but for `abandon`."""

    def connect(self) -> None:
        """Connect if not connected. Raises redis.RedisError, OSError, ValueError (a bad URL)."""

    def exchange(self, commands: Sequence[Command], packed: bytes | None = None) -> list[Any]:
        """Send commands, and return the answer to each: an `ErrorAnswer` if it was refused, a
        `Lost` if its node did not answer and other nodes did.

        Args:
            commands: What to send.
            packed: The same as bytes, if the caller has them.

        Raises:
            resp.NotSent: The connection was gone before anything was sent.
            redis.RedisError, OSError: The connection broke, or the server does not answer.
        """

    def direct(self) -> Direct | None:
        """Hand the connection over for use without a thread; None if it needs one (a cluster, TLS).
        Afterwards `exchange` must not be called.
        """

    def can_write(self, key: str) -> bool | None:
        """Whether writes to a key have a chance, if that depends on the key: the node that has it
        is neither lost nor refuses all. None if there is one server. Can be called from any thread.
        """

    def close(self) -> None:
        """Close all connections; `connect` may follow. Never raises."""

    def abandon(self) -> None:
        """Close for good, from any thread, even while another is in `connect` or `exchange`. Never
        raises.
        """


@frozen
class Place:
    """A connection as its server knows it.

    Attributes:
        server: One start of a server; empty if it does not say.
        client: The number of the connection there.
    """

    server: bytes = b""
    client: int = 0


@define
class NodeLink:
    """One connection to one server. `seconds` bounds each answer, and connecting unless
    `connect_seconds` does.

    Attributes:
        last: The newest connection that was made.
    """

    url: str
    seconds: float = SOCKET_SECONDS
    connect_seconds: float | None = None
    last: Place = Place()
    _connection: Any = field(default=None, init=False)
    _abandoned: bool = field(default=False, init=False)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    def connect(self) -> None:
        """Connect, load the scripts, and make sure that nothing comes any more over the connection
        before.
        """
        if self._connection is None:
            options: dict[str, Any] = {
                "socket_timeout": self.seconds,
                "protocol": 2,
                "retry": Retry(NoBackoff(), 0),
            }
            if not self.url.startswith("unix"):
                options["socket_connect_timeout"] = self.connect_seconds or self.seconds
            connection = redis.ConnectionPool.from_url(self.url, **options).make_connection()
            try:
                connection.connect()
                self._load_scripts(connection)
                self._end_last(connection)
            except BaseException:
                connection.disconnect()
                raise
            self._connection = connection
        if self._abandoned:
            self.close()
            raise redis.ConnectionError("the client is closed")

    def _load_scripts(self, connection: Any) -> None:
        loads: list[Command] = [("SCRIPT", "LOAD", script.text) for script in all_scripts()]
        for answer in self._pipeline(connection, pack(loads), len(loads)):
            if isinstance(answer, ErrorAnswer) and code_of(str(answer)) in NOT_YET:
                raise redis.ConnectionError(str(answer))

    def _end_last(self, connection: Any) -> None:
        """Have the server drop the connection before, if it still has it: a store that hung, or a
        network, may hold commands that were sent over it. They count as failed; carried out after
        those that come now, they would undo what succeeds.
        """
        asked: list[Command] = [("CLIENT", "ID"), ("INFO", "server")]
        number, about = self._pipeline(connection, pack(asked), len(asked))
        found = _RUN_ID.search(about) if isinstance(about, bytes) else None
        if not isinstance(number, int) or found is None:
            return  # it may not say so
        place = Place(found[1], number)
        if self.last.server == place.server:
            kill = pack([("CLIENT", "KILL", "ID", self.last.client)])
            self._pipeline(connection, kill, 1)  # if we may
        self.last = place

    def exchange(self, commands: Sequence[Command], packed: bytes | None = None) -> list[Any]:
        """Send all, then read all. Scripts that the server no longer knows are sent again in full,
        after the other commands.
        """
        connection = self._connection
        if connection is None:
            raise NotSent("there is no connection")
        plain = socket_of(connection)
        # Over TLS, readable data need not be an answer.
        if plain is None or (not isinstance(plain, ssl.SSLSocket) and is_readable(plain.fileno())):
            raise NotSent("the server closed the connection")
        answers = self._pipeline(connection, packed or pack(commands), len(commands))
        again = forgotten(commands, answers)
        if again:
            in_order = self._pipeline(
                connection, pack([in_full(commands[n]) for n in again]), len(again)
            )
            for n, answer in zip(again, in_order, strict=True):
                answers[n] = answer
        return answers

    def _pipeline(self, connection: Any, packed: bytes, count: int) -> list[Any]:
        plain = socket_of(connection)
        if plain is None:
            raise redis.ConnectionError("the connection is closed")
        end = time.monotonic() + EXCHANGE_TIMES * self.seconds
        answers, reader = list[Any](), Answers()
        try:
            plain.sendall(packed)
            while len(answers) < count:
                data = plain.recv(READ)
                if not data:
                    raise redis.ConnectionError("the server closed the connection")
                reader.feed(data, answers, count)
                if len(answers) < count and time.monotonic() > end:
                    raise redis.TimeoutError(
                        f"the server answers too slowly: {len(answers)} of {count}"
                    )
        except TimeoutError as error:
            raise redis.TimeoutError(f"the server did not answer in {self.seconds:g} s") from error
        return answers

    def direct(self) -> Direct | None:
        """The socket itself."""
        from .direct import direct  # a process without an event loop never asks

        return direct(self._connection, self.seconds)

    def can_write(self, key: str) -> None:  # Link's
        """None: there is one server."""

    def close(self) -> None:
        """Close the socket."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.disconnect()

    def abandon(self) -> None:
        """Shut the socket down: a thread that waits for it gets an error."""
        self._abandoned = True
        plain = None if self._connection is None else socket_of(self._connection)
        if plain is not None:
            with suppress(OSError):
                plain.shutdown(socket.SHUT_RDWR)


def words_of(error: BaseException) -> str:
    """Describe what is wrong with a connection in one line; for an error from the server, in its
    own words with its code.
    """
    code = getattr(error, "status_code", None)
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{code} {text}" if isinstance(code, str) and not text.startswith(code) else text
