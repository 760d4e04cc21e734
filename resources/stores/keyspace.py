"""An account's key-value store: JSON texts under names, with a quota of keys that no race can break."""

from __future__ import annotations

from enum import Enum

from attrs import field, frozen

from .keys import account_key
from .redis import Redis
from .scripts import Script, script


class Warn(Enum):
    """What a write tells about the quota; each at most once an hour for an account."""

    NONE = 0
    SOFT = 1
    HARD = 2


class KeyspaceFull(Exception):
    """The key would be one too many.

    Attributes:
        warn: Whether the app's log should say so.
    """

    def __init__(self, warn: Warn) -> None:
        super().__init__("too many keys")
        self.warn = warn


class NotAnInteger(Exception):
    """The value, or the sum, is no integer of 64 bits. The text is the server's."""


@frozen
class Quota:
    """How many keys an account may have."""

    hard: int
    soft: int


@frozen
class Keyspace:
    """The key-value stores of all accounts. Every method may raise `redis.StoreError`."""

    redis: Redis
    _set: Script = field(factory=lambda: script("kv_set"), init=False)
    _incr: Script = field(factory=lambda: script("kv_incr"), init=False)
    _delete: Script = field(factory=lambda: script("kv_delete"), init=False)

    async def get(self, account: str, name: str) -> bytes | None:
        """The JSON text under a name, or None."""
        value: bytes | None = await self.redis.execute("GET", account_key(account, "kv", name))
        return value

    async def set(self, account: str, name: str, value: bytes, seconds: int | None, quota: Quota) -> Warn:
        """Store a JSON text, for good or for some seconds.

        Raises:
            KeyspaceFull: The name is new and the quota used up.
        """
        lifetime = "" if seconds is None else seconds
        stored, warn = await self.redis.run(
            self._set, _keys(account, name), name, value, lifetime, quota.hard, quota.soft
        )
        if not stored:
            raise KeyspaceFull(Warn(warn))
        return Warn(warn)

    async def incr(self, account: str, name: str, amount: int, quota: Quota) -> tuple[int, Warn]:
        """Add to an integer; one that does not exist is 0. Returns the new value.

        Raises:
            KeyspaceFull: The name is new and the quota used up.
            NotAnInteger: The value stays as it was.
        """
        stored, warn, value = await self.redis.run(
            self._incr, _keys(account, name), name, amount, quota.hard, quota.soft
        )
        if stored < 0:
            raise NotAnInteger(value.decode().removeprefix("ERR "))
        if not stored:
            raise KeyspaceFull(Warn(warn))
        return int(value), Warn(warn)

    async def delete(self, account: str, name: str) -> bool:
        """Whether the key existed."""
        return bool(await self.redis.run(self._delete, _keys(account, name)[:2], name))


def _keys(account: str, name: str) -> tuple[str, str, str]:
    return account_key(account, "kv", name), account_key(account, "kvkeys"), account_key(account, "kvwarned")
