"""An account's key-value store: JSON texts under names, with a quota of keys and bytes that no race
can break.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from enum import Enum

import trio
from attrs import field, frozen

from ..fence import note
from .keys import account_key
from .redis import Redis, StoreError, StoreRefused
from .room import Room
from .scripts import Script, script

COUNT_PAGE = 200  # names counted in one step
COUNT_EVERY = 30.0  # seconds between two looks for accounts that are not counted yet
COUNT_AGAIN = 5.0  # the same after a failure
_STORED, _TOO_MANY_BYTES, _NO_INTEGER = 1, -1, -2  # of the scripts

log = logging.getLogger(__name__)


class Warn(Enum):
    """What a write reports about the quota; each at most once an hour per account."""

    NONE = 0
    SOFT = 1
    HARD = 2
    BYTES = 3


class KeyspaceFull(Exception):
    """The write would exceed the account's number of keys, or of bytes.

    Attributes:
        warn: What to write to the app's log.
        is_bytes: Whether it is the bytes.
    """

    def __init__(self, warn: Warn, *, is_bytes: bool) -> None:
        super().__init__("too many bytes" if is_bytes else "too many keys")
        self.warn = warn
        self.is_bytes = is_bytes


class NotAnInteger(Exception):
    """The value, or the sum, is not an integer of 64 bits. The text is the server's."""


@frozen
class Quota:
    """How many keys an account may have, and how many bytes of names and values together."""

    hard: int
    soft: int
    most_bytes: int = 1 << 52


@frozen
class Keyspace:
    """The key-value stores of all accounts. Every method may raise `redis.StoreError`.

    Attributes:
        full: When the newest write of an account was refused for its quota, and why.
    """

    redis: Redis
    room: Room = field(factory=Room)
    full: dict[str, tuple[float, str]] = field(factory=dict, init=False)
    _set: Script = field(factory=lambda: script("kv_set"), init=False)
    _incr: Script = field(factory=lambda: script("kv_incr"), init=False)
    _delete: Script = field(factory=lambda: script("kv_delete"), init=False)
    _count: Script = field(factory=lambda: script("kv_count"), init=False)

    async def get(self, account: str, name: str) -> bytes | None:
        """The JSON text under a name, or None."""
        value: bytes | None = await self.redis.execute("GET", account_key(account, "kv", name))
        return value

    async def set(
        self, account: str, name: str, value: bytes, seconds: int | None, quota: Quota
    ) -> Warn:
        """Store a JSON text, for good (None) or for some seconds.

        Raises:
            KeyspaceFull: The quota is used up.
        """
        self.room.check(len(value))
        lifetime = "" if seconds is None else seconds
        limits = (quota.hard, quota.soft, quota.most_bytes)
        code, warn = await self.redis.run(
            self._set, script_keys(account, name), name, value, lifetime, *limits
        )
        if code != _STORED:
            raise self._full(account, warn, code)
        return Warn(warn)

    async def incr(self, account: str, name: str, amount: int, quota: Quota) -> tuple[int, Warn]:
        """Add to an integer; a missing one counts as 0. Return the new value.

        Raises:
            KeyspaceFull: The name is new and the quota used up.
            NotAnInteger: The value stays as it was.
        """
        self.room.check(0)
        limits = (quota.hard, quota.soft, quota.most_bytes)
        code, warn, value = await self.redis.run(
            self._incr, script_keys(account, name), name, amount, *limits
        )
        if code == _NO_INTEGER:
            raise NotAnInteger(value.decode().removeprefix("ERR "))
        if code != _STORED:
            raise self._full(account, warn, code)
        return int(value), Warn(warn)

    def _full(self, account: str, warn: int, code: int) -> KeyspaceFull:
        """The error of a write for which there is no room, which is noted."""
        full = KeyspaceFull(Warn(warn), is_bytes=code == _TOO_MANY_BYTES)
        self.full[account] = (trio.current_time(), str(full))
        return full

    async def delete(self, account: str, name: str) -> bool:
        """Delete a key; return whether it existed."""
        return bool(await self.redis.run(self._delete, script_keys(account, name)[:4], name))

    async def keep_counting(self, accounts: Callable[[], Iterable[str]]) -> None:
        """Count, in the background, what accounts stored before bytes were counted. Runs for ever:
        new accounts may come. An account that cannot be counted is tried again, after the others.
        """
        counted = dict[str, bool]()
        while True:
            try:
                for account in accounts():
                    if not counted.get(account):
                        await self._try_to_count(account, counted)
            except StoreError:
                await trio.sleep(COUNT_AGAIN)  # the store will come back
            else:
                await trio.sleep(COUNT_EVERY)

    async def _try_to_count(self, account: str, counted: dict[str, bool]) -> None:
        """Count an account, and note in `counted` whether that was possible. If something is wrong
        with its own keys, log that, once.

        Raises:
            StoreError: Something is wrong with the store.
        """
        try:
            await self.count(account)
        except StoreError as error:
            if not isinstance(error, StoreRefused) or error.is_wide:
                raise
            if account not in counted:
                log.warning("kv of account %s cannot be counted: %s", account, error.plain)
            counted[account] = False
        except Exception as error:  # noqa: BLE001  # others are counted all the same
            note("keyspace", error, f"account {account}")
        else:
            counted[account] = True

    async def count(self, account: str) -> None:
        """Count the bytes that an account stored before bytes were counted, unless done already."""
        counted = account_key(account, "kvcounted")
        if await self.redis.execute("EXISTS", counted):
            return
        of_all = [account_key(account, name) for name in ("kvkeys", "kvsizes", "kvbytes")]
        cursor = b"0"
        while True:
            cursor, found = await self.redis.execute(
                "ZSCAN", of_all[0], cursor, "COUNT", COUNT_PAGE
            )
            names = [name.decode() for name in found[::2]]
            if names:
                keys = [*of_all, *(account_key(account, "kv", name) for name in names)]
                await self.redis.run(self._count, keys, *names)
            if cursor == b"0":
                break
        await self.redis.execute("SET", counted, 1)


def script_keys(account: str, name: str) -> list[str]:
    """The KEYS of _kv.lua."""
    of_all = [account_key(account, each) for each in ("kvkeys", "kvsizes", "kvbytes", "kvwarned")]
    return [account_key(account, "kv", name), *of_all]
