"""The servers that share a store: what each says of itself, who lives, and what the dead leave.

A server lives while its lease does (`jsbox:host:ID`, lease.py). Another that finds the lease run
out declares it dead in one step: from then on it cannot be renewed, however late its owner wakes.
What a server says of itself is in the hash `jsbox:hosts`, until what it left is cleared away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from attrs import frozen

from .direct import Command
from .lease import Holder, end_connections, keys_of_host, read_holder
from .redis import Redis
from .scripts import script

HOSTS = "jsbox:hosts"
PARTITIONS = "jsbox:partitions"  # how many each journal has, fixed by the first server


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says of itself.

    Attributes:
        id: Of the host.
        process: Which process of the host it is; another after each start.
        name: For people.
        admin: The URL of its admin port; empty while it starts.
        config: A checksum of its config.
        takes: Whether it takes partitions; not while it stops.
    """

    id: str = ""
    process: str = ""
    name: str = ""
    admin: str = ""
    config: str = ""
    version: str = ""
    takes: bool = True


@frozen
class Seen:
    """The servers as they were at one look: those that live, and the ids of the others."""

    alive: Mapping[str, Record]
    gone: tuple[str, ...]


@frozen
class Peers:
    """The servers of a store. Every coroutine may raise `redis.StoreError`."""

    redis: Redis
    ours: Holder

    async def fix_partitions(self, count: int) -> int:
        """Return how many partitions each journal has; we are the first: `count`."""
        _, found = await self.redis.execute_many(
            [("SET", PARTITIONS, count, "NX"), ("GET", PARTITIONS)]
        )
        return int(found)

    async def say(self, record: Record) -> None:
        """Say something of ourselves."""
        await self.redis.execute("HSET", HOSTS, record.id, msgspec.json.encode(record))

    async def look(self) -> Seen:
        """Look who lives."""
        flat = await self.redis.execute("HGETALL", HOSTS)
        records = {key.decode(): text for key, text in zip(flat[::2], flat[1::2], strict=True)}
        leases: list[Command] = [("GET", keys_of_host(host)[0]) for host in records]
        found = await self.redis.execute_many(leases) if leases else []
        alive, gone = dict[str, Record](), list[str]()
        for (host, text), lease in zip(records.items(), found, strict=True):
            record = _record(text)
            if lease is None:
                gone.append(host)
            elif record.process == read_holder(lease).nonce:  # else it starts, or is dead
                alive[host] = record
        return Seen(alive, tuple(gone))

    async def lives(self, host: str, process: str) -> bool:
        """Whether a process has the lease of its host."""
        lease = await self.redis.execute("GET", keys_of_host(host)[0])
        return lease is not None and read_holder(lease).nonce == process

    async def bury(self, host: str) -> bool:
        """Declare a host dead, and end its connections; return whether it was: it may have come
        back.
        """
        # Without our connection: what takes the lease next ends that of who had it before.
        by = msgspec.structs.replace(self.ours, connection="")
        keys = keys_of_host(host)
        answer = await self.redis.run(script("host_bury"), keys, msgspec.json.encode(by))
        if not answer[0]:
            return False
        last = read_holder(answer[1]) if answer[1] else Holder()
        if last.id == host and last.connection:
            await end_connections(self.redis, last.connection)
        return True

    async def forget(self, host: str) -> None:
        """Forget a host whose remains are cleared away."""
        await self.redis.execute("HDEL", HOSTS, host)

    def tell_soon(self, host: str, what: Any) -> None:
        """Tell a server something (`inbox.py`); what is lost on the way, it finds out later."""
        self.redis.post([("PUBLISH", channel_of(host), msgspec.json.encode(what))], _untold)


def channel_of(host: str) -> str:
    """The channel on which a server is told something."""
    return f"jsbox:host:{host}"


def _record(text: bytes) -> Record:
    try:
        return msgspec.json.decode(text, type=Record)
    except msgspec.MsgspecError:
        return Record()


def _untold(_: Exception) -> None:
    """Nothing: see `tell_soon`."""
