"""Connections that are kept for the next request of the same app on the same route."""

from __future__ import annotations

from collections import Counter

import trio
from attrs import define, field

from .exchange import Exchanges

KEEP_ALIVE = 5.0  # seconds that an idle connection is kept
KEPT_MAX = 32  # idle connections of one app

Key = tuple[object, ...]
"""The app, then everything else that must be equal."""


@define(eq=False)
class Kept:
    """The idle connections of all apps, the oldest first."""

    # with the time at which they are closed
    _all: dict[Exchanges, tuple[Key, float]] = field(factory=dict, init=False)
    _by_key: dict[Key, list[Exchanges]] = field(factory=dict, init=False)
    _by_app: Counter[object] = field(factory=Counter, init=False)

    def __len__(self) -> int:
        return len(self._all)

    def put(self, key: Key, kept: Exchanges) -> None:
        """Keep a connection, or close it if the app has enough of them."""
        self.close_expired()
        if self._by_app[key[0]] >= KEPT_MAX:
            kept.connection.close()
            return
        self._all[kept] = (key, trio.current_time() + KEEP_ALIVE)
        self._by_key.setdefault(key, []).append(kept)
        self._by_app[key[0]] += 1

    def take(self, key: Key) -> Exchanges | None:
        """Return the connection used last, or None; the caller must close it from now on."""
        self.close_expired()
        connections = self._by_key.get(key)
        if not connections:
            return None
        kept = connections[-1]
        self._remove(kept)
        return kept

    def close_expired(self) -> None:
        """Close the connections of all apps that have been idle for too long."""
        now = trio.current_time()
        while self._all:
            kept, (_, until) = next(iter(self._all.items()))
            if until > now:
                return
            self._remove(kept)
            kept.connection.close()

    def close_all(self) -> None:
        """Close every connection."""
        for kept in list(self._all):
            self._remove(kept)
            kept.connection.close()

    def _remove(self, kept: Exchanges) -> None:
        key, _ = self._all.pop(kept)
        connections = self._by_key[key]
        connections.remove(kept)
        if not connections:
            del self._by_key[key]
        self._by_app[key[0]] -= 1
        if not self._by_app[key[0]]:
            del self._by_app[key[0]]
