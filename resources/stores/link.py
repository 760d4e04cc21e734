"""The blocking side of the Redis client: one connection, used by one thread at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import redis
import redis.connection
from attrs import define
from redis.backoff import NoBackoff
from redis.retry import Retry

from .direct import Command, Direct, direct
from .scripts import all_scripts, in_full

SOCKET_SECONDS = 5.0  # to connect, and for each answer: a server that hangs counts as gone


class Link(Protocol):
    """The blocking side; only ever used by one thread at a time."""

    def connect(self) -> None:
        """Raises redis.RedisError."""

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """The result of each command, or the error that the server answered it with, as a value.

        Raises:
            redis.RedisError: The connection broke.
        """

    def direct(self) -> Direct | None:
        """The connection for use without a thread, and from then on only so; None where there is no such use."""

    def close(self) -> None:
        """Never raises."""


@define
class NodeLink:
    """One connection to one server; `seconds` bound connecting and each answer."""

    url: str
    seconds: float = SOCKET_SECONDS
    _connection: Any = None

    def connect(self) -> None:
        """Connect where that is not done."""
        if self._connection is None:
            options: dict[str, Any] = {
                "socket_timeout": self.seconds,
                "protocol": 2,
                "retry": Retry(NoBackoff(), 0),
            }
            if not self.url.startswith("unix"):
                options["socket_connect_timeout"] = self.seconds
            connection = redis.ConnectionPool.from_url(self.url, **options).make_connection()
            connection.connect()
            exchange_on(connection, [("SCRIPT", "LOAD", script.text) for script in all_scripts()])
            self._connection = connection

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send all, then read all."""
        assert self._connection is not None
        return exchange_on(self._connection, commands)

    def direct(self) -> Direct | None:
        """The socket itself."""
        return direct(self._connection, self.seconds)

    def close(self) -> None:
        """Close the socket."""
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None


def exchange_on(connection: Any, commands: Sequence[Command]) -> list[Any]:
    """One pipeline over one connection. A script that the server has forgotten is sent in full, after the other commands."""
    connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    results = [_read(connection) for _ in commands]
    for index, result in enumerate(results):
        if isinstance(result, redis.exceptions.NoScriptError):
            connection.send_packed_command(connection.pack_commands([in_full(commands[index])]), check_health=False)
            results[index] = _read(connection)
    return results


def _read(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


def link_to(url: str, seconds: float = SOCKET_SECONDS) -> Link:
    """The blocking side for a URL."""
    if url.startswith("redis+cluster://"):
        from .cluster import ClusterLink

        return ClusterLink("redis://" + url.removeprefix("redis+cluster://"), seconds)
    return NodeLink(url, seconds)
