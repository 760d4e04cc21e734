"""Addresses that have opted out of messages."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from attrs import field, frozen

from ..fence import fence
from .errors import raise_wide
from .keys import account_key
from .redis import Redis
from .room import OVERHEAD, Room
from .scripts import Script, script


class OptOut(msgspec.Struct, frozen=True):
    """When an address was opted out, and by which message."""

    message_id: str
    created_at: str


class Row(msgspec.Struct, frozen=True):
    """An opt-out, with its address."""

    address_type: str
    address_value: str
    message_id: str
    created_at: str


class TooManyOptOuts(Exception):
    """The account may have no more opt-outs."""


@frozen
class OptOuts:
    """The opt-outs of all accounts, by type and value of the address. Every coroutine may raise
    `redis.StoreError`.
    """

    redis: Redis
    room: Room = field(factory=Room)
    _set: Script = field(factory=lambda: script("optout_set"), init=False)
    _clear: Script = field(factory=lambda: script("optout_clear"), init=False)

    async def get(self, account: str, kind: str, value: str) -> OptOut | None:
        """The opt-out of an address."""
        text = await self.redis.execute("HGET", _hash(account), _name(kind, value))
        return None if text is None else msgspec.json.decode(text, type=OptOut)

    async def which(
        self, account: str, addresses: Sequence[Sequence[tuple[str, str]]]
    ) -> list[bool]:
        """Whether each of several addresses is opted out. An address is given as all the types and
        values under which it may be stored.
        """
        names = [_name(*one) for address in addresses for one in address]
        answers = iter(await self.redis.execute("HMGET", _hash(account), *names) if names else [])
        # A list, so that all the answers for an address are taken.
        return [
            any([next(answers) is not None for _ in address])  # noqa: C419
            for address in addresses
        ]

    async def set(self, account: str, kind: str, value: str, optout: OptOut, most: int) -> None:
        """Opt an address out, replacing an earlier opt-out. Raises TooManyOptOuts."""
        text = msgspec.json.encode(optout)
        self.room.check(len(text), is_urgent=True)
        stored = await self.redis.run(self._set, [_hash(account)], _name(kind, value), text, most)
        if not stored:
            raise TooManyOptOuts(_too_many(most))

    async def set_many(
        self, account: str, new: Sequence[tuple[str, str, OptOut]], most: int
    ) -> dict[int, str]:
        """Opt out addresses, each a type and a value, in order. Return why some are not opted out,
        by their index.

        Raises:
            StoreError: The store took some or none, and that is not for what they are.
        """
        texts = [(_name(kind, value), msgspec.json.encode(one)) for kind, value, one in new]
        self.room.check(
            sum(len(name) + len(text) + OVERHEAD for name, text in texts), is_urgent=True
        )
        key = [_hash(account)]
        commands = [self._set.call(key, name, text, most) for name, text in texts]
        answers = await self.redis.attempt(commands)
        raise_wide(answers)
        found = (
            str(answer) if isinstance(answer, Exception) else "" if answer else _too_many(most)
            for answer in answers
        )
        return {n: reason for n, reason in enumerate(found) if reason}

    async def page(self, account: str, cursor: int, size: int) -> tuple[list[Row], int | None]:
        """About `size` opt-outs, and the cursor of the next page; None after the last one. The
        first cursor is 0. One that is there throughout is returned at least once. One that cannot
        be read, because another program wrote it, is left out and logged.
        """
        after, flat = await self.redis.execute("HSCAN", _hash(account), cursor, "COUNT", size)
        rows = []
        for name, text in zip(flat[::2], flat[1::2], strict=True):
            with fence("optouts", f"one of account {account} is left out of a list"):
                kind, value = msgspec.json.decode(name, type=tuple[str, str])
                found = msgspec.json.decode(text, type=OptOut)
                rows.append(Row(kind, value, found.message_id, found.created_at))
        return rows, int(after) or None

    async def cancel(self, account: str, kind: str, value: str) -> None:
        """Opt an address in again; does nothing if it was not out."""
        await self.redis.run(self._clear, [_hash(account)], _name(kind, value))

    async def count(self, account: str) -> int:
        """How many opt-outs there are."""
        return int(await self.redis.execute("HLEN", _hash(account)))


def _too_many(most: int) -> str:
    return f"an account may have {most} opt-outs"


def _hash(account: str) -> str:
    return account_key(account, "optouts")


def _name(kind: str, value: str) -> bytes:
    """A name that no other type and value have."""
    return msgspec.json.encode((kind, value))
