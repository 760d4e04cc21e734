"""Partitions of the apps' journals, which several servers share: each has one owner at a time.

An entry's partition follows from its lane, so a user's messages are all in one, and stay in order.
Without sharing there is one, with the name "". Entries from before sharing stay in it, and the
servers that share the store own it like any other partition.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol
from zlib import crc32

from attrs import frozen

from .entries import Entry
from .fencing import Fence
from .keys import account_key, channel_key
from .redis import Redis, StoreError
from .scripts import script

WHOLE = ""  # the partition of a journal that is not shared
AT_ONCE = 200  # partitions taken in one step


@frozen
class Part:
    """A partition of an app's journal."""

    account: str
    app: str
    name: str

    @property
    def owner_key(self) -> str:
        """Where the store says who owns it."""
        return account_key(self.account, "owner", self.app, self.name)

    def __str__(self) -> str:
        return f"{self.account}:{self.app}:{self.name}"


@frozen
class ChannelTurn:
    """What one server at a time does for a channel: it takes in what waits at a broker."""

    channel: str

    @property
    def owner_key(self) -> str:
        """Where the store says who does."""
        return channel_key(self.channel, "owner")


class Ownable(Protocol):
    """What has one owner at a time."""

    @property
    def owner_key(self) -> str:
        """Where the store says who owns it."""


@frozen
class Taken:
    """The answer to taking a partition.

    Attributes:
        owner: Who has it now, as it stands in the store: epoch, host and process.
        is_ours: Whether we have.
    """

    owner: bytes
    is_ours: bool


def parts_of(account: str, app: str, count: int) -> list[Part]:
    """The partitions of an app's journal, including the unnamed one from before sharing."""
    return [Part(account, app, name) for name in (WHOLE, *map(str, range(count)))]


def partition_of(entry: Entry, count: int) -> str:
    """The name of the partition of an entry among `count`; 0: the journal is not shared."""
    return str(crc32(entry.lane.encode("utf-8", "replace")) % count) if count else WHOLE


def split_place(place: str) -> tuple[str, str]:
    """Split a place in a journal into its partition, and its place in that one."""
    partition, _, raw = place.rpartition(":")
    return partition, raw


def whole_place(partition: str, raw: str) -> str:
    """The opposite of `split_place`."""
    return f"{partition}:{raw}" if partition else raw


def first_of(hosts: Sequence[str], what: str) -> str:
    """The host that something falls to, by rendezvous hashing: when a host comes or goes, only what
    falls to it moves. "" without hosts.
    """
    return max(hosts, key=lambda host: _weight(host, what), default="")


def _weight(host: str, what: str) -> bytes:
    return blake2b(f"{host}\0{what}".encode(), digest_size=8).digest()


def host_of(owner: bytes) -> tuple[str, str]:
    """The host and process of an owner."""
    _, host, process = (*owner.decode("utf-8", "replace").split(" "), "", "")[:3]
    return host, process


@frozen
class Ownership:
    """Takes partitions and gives them back, for one process. Every coroutine may raise
    `redis.StoreError`.

    Attributes:
        me: Our host and process.
    """

    redis: Redis
    me: str

    async def take(self, wanted: Sequence[tuple[Ownable, bytes]]) -> list[Taken | StoreError]:
        """Take partitions, each unless another has it, or from an owner that is known to be dead
        (else b""). What the store already says is ours is taken anew, with the next epoch: the
        answer may have been lost. An error of the store may be the answer about one.
        """
        command = script("partition_take")
        answers = list[Taken | StoreError]()
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            found = await self.redis.attempt(
                [command.call((part.owner_key,), self.me, dead) for part, dead in some]
            )
            answers += [one if isinstance(one, StoreError) else _taken(one) for one in found]
        return answers

    async def owners(self, parts: Sequence[Ownable]) -> list[bytes]:
        """Who owns each partition; empty if nobody does, or that cannot be seen."""
        found = await self.redis.attempt([("GET", part.owner_key) for part in parts])
        return [one if isinstance(one, bytes) else b"" for one in found]

    async def give(self, part: Ownable, owner: bytes) -> None:
        """Give a partition back that we own as this owner."""
        await self.redis.run(script("partition_give"), (part.owner_key,), owner)


def _taken(answer: tuple[int, bytes]) -> Taken:
    is_ours, owner = answer
    return Taken(owner, bool(is_ours))


def fence_of(part: Part, owner: bytes, via: str = "") -> Fence:
    """What has to hold for a run of a partition to write."""
    return Fence(part.owner_key, owner, str(part), via)
