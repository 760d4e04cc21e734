"""Connections that are kept for the next request of the same app on the same way."""

from __future__ import annotations

from collections import Counter

import trio
from attrs import define, field

from .connection import Connection

KEEP_ALIVE = 5.0  # seconds that an idle connection is kept
KEPT_MAX = 32  # idle connections of one app

Key = tuple[object, ...]
"""The app first, then whatever else must be equal."""


@define(eq=False)
class Kept:
    """The idle connections of all apps, the oldest first."""

    _all: dict[Connection, tuple[Key, float]] = field(
        factory=dict, init=False
    )  # with the time at which they are closed
    _by_key: dict[Key, list[Connection]] = field(factory=dict, init=False)
    _by_app: Counter[object] = field(factory=Counter, init=False)

    def __len__(self) -> int:
        return len(self._all)

    def put(self, key: Key, connection: Connection) -> None:
        """Keep a connection, or close it if the app has enough of them."""
        self.close_expired()
        if self._by_app[key[0]] >= KEPT_MAX:
            connection.close()
            return
        self._all[connection] = (key, trio.current_time() + KEEP_ALIVE)
        self._by_key.setdefault(key, []).append(connection)
        self._by_app[key[0]] += 1

    def take(self, key: Key) -> Connection | None:
        """Return the connection used last, from now on the caller's to close, or None."""
        self.close_expired()
        connections = self._by_key.get(key)
        if not connections:
            return None
        connection = connections[-1]
        self._remove(connection)
        return connection

    def close_expired(self) -> None:
        """Close what has been idle for too long, of any app."""
        now = trio.current_time()
        while self._all:
            connection, (_, until) = next(iter(self._all.items()))
            if until > now:
                return
            self._remove(connection)
            connection.close()

    def close_all(self) -> None:
        """Close every connection."""
        for connection in list(self._all):
            self._remove(connection)
            connection.close()

    def _remove(self, connection: Connection) -> None:
        key, _ = self._all.pop(connection)
        connections = self._by_key[key]
        connections.remove(connection)
        if not connections:
            del self._by_key[key]
        self._by_app[key[0]] -= 1
        if not self._by_app[key[0]]:
            del self._by_app[key[0]]
