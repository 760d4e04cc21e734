"""kv: a small JSON store for each account, kept in Redis. Apps of one account share it."""

from __future__ import annotations

from attrs import frozen
from msgspec import Raw, json

from .contract import Caller, Refused, Resource, command
from .messages import shown
from .parameters import Json, parameter
from .stores.keyspace import Keyspace, KeyspaceFull, NotAnInteger, Quota, Warn
from .text import json_line

KEY_MAX = 1024  # characters
INTEGER = range(-(2**63), 2**63)
SECONDS_MAX = 100 * 365 * 86400
NULL = Raw(b"null")


@frozen
class KvSettings:
    """What an account may store: keys, bytes of JSON text each, bytes of all names and texts."""

    keys_hard: int
    keys_soft: int
    value_max: int
    bytes_max: int

    @property
    def quota(self) -> Quota:
        """The part that the store enforces."""
        return Quota(self.keys_hard, self.keys_soft, self.bytes_max)


def key_field() -> str:
    """All kv commands name a key."""
    field: str = parameter(
        missing="'key' must be given, as a string",
        wrong=f"'key' must be a string of at most {KEY_MAX} characters",
        check=lambda key: len(key) <= KEY_MAX,
    )
    return field


@frozen
class Get:
    """kv.get, kv.delete."""

    key: str = key_field()


@frozen
class Set:
    """kv.set."""

    key: str = key_field()
    value: Json = None
    seconds: int | None = parameter(
        None,
        wrong=lambda value: (
            f"'seconds' must be an integer of 0 to {SECONDS_MAX}, or null, not {shown(value)}"
        ),
        check=lambda seconds: seconds is None or 0 <= seconds <= SECONDS_MAX,
    )


@frozen
class Incr:
    """kv.incr."""

    key: str = key_field()
    amount: int = parameter(
        1, wrong="'amount' must be an integer of 64 bits", check=lambda amount: amount in INTEGER
    )


@frozen
class Value:
    """The value of a key."""

    value: Raw | int


@frozen
class Deleted:
    """Whether the key existed."""

    existed: bool


@frozen
class Done:
    """Nothing but success."""


@frozen
class Kv(Resource):
    """The kv commands."""

    keyspace: Keyspace

    @command("kv.get")
    async def get(self, caller: Caller, request: Get) -> Value:
        """Retrieve the value of a key; null if it does not exist."""
        value = await self.keyspace.get(caller.account, request.key)
        try:
            return Value(reply_of(value))
        except ValueError:
            raise Refused(f"the value of {shown(request.key)} in the store is not JSON") from None

    @command("kv.set")
    async def set(self, caller: Caller, request: Set) -> Done:
        """Store a value under a key, for good or for some seconds (0 and null: for good)."""
        settings = caller.setting(KvSettings)
        text = json.encode(request.value)
        if len(text) > settings.value_max:
            raise Refused(
                f"'value' has {len(text)} bytes as JSON, {settings.value_max} may be stored "
                "(kv.value_max)"
            )
        try:
            warn = await self.keyspace.set(
                caller.account, request.key, text, request.seconds or None, settings.quota
            )
        except KeyspaceFull as full:
            await self._say(caller, full.warn)
            raise Refused(_reason(full, settings)) from full
        await self._say(caller, warn)
        return Done()

    @command("kv.incr")
    async def incr(self, caller: Caller, request: Incr) -> Value:
        """Atomically add to the integer under a key; a missing key counts as 0."""
        settings = caller.setting(KvSettings)
        try:
            value, warn = await self.keyspace.incr(
                caller.account, request.key, request.amount, settings.quota
            )
        except KeyspaceFull as full:
            await self._say(caller, full.warn)
            raise Refused(_reason(full, settings)) from full
        except NotAnInteger as error:
            raise Refused(str(error)) from error
        await self._say(caller, warn)
        return Value(value)

    @command("kv.delete")
    async def delete(self, caller: Caller, request: Get) -> Deleted:
        """Delete a key."""
        return Deleted(await self.keyspace.delete(caller.account, request.key))

    async def _say(self, caller: Caller, warn: Warn) -> None:
        settings = caller.setting(KvSettings)
        if warn is Warn.SOFT:
            await caller.log(
                30,
                f"Redis soft limit of {settings.keys_soft} keys reached for sandbox "
                f"{caller.account}. "
                f"Once the hard limit of {settings.keys_hard} is reached no more keys can be "
                "written.",
            )
        elif warn is Warn.HARD:
            await caller.log(
                40,
                f"Redis hard limit of {settings.keys_hard} keys reached for sandbox "
                f"{caller.account}. "
                "No more keys can be written.",
            )
        elif warn is Warn.BYTES:
            await caller.log(
                40,
                f"The key-value store of account {caller.account} holds the {settings.bytes_max} "
                "bytes that it may "
                "(kv.bytes_max). Nothing that takes more can be written.",
            )


def reply_of(value: bytes | None) -> Raw:
    """The value of a key as an app gets it. Raises ValueError if it is not JSON: somebody else may
    have written it, and a line of the wire must not break.
    """
    return NULL if value is None else Raw(json_line(value))


def _reason(full: KeyspaceFull, settings: KvSettings) -> str:
    if full.is_bytes:
        return f"Too many bytes: {settings.bytes_max} may be stored by the account (kv.bytes_max)"
    return "Too many keys"
