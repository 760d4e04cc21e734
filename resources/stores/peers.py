"""The servers that share a store: what each says of itself, who lives, and what the dead leave.

A server lives while its lease does (`jsbox:host:ID`, lease.py). Another that finds the lease run
out declares it dead in one step: from then on it cannot be renewed, however late its owner wakes.
What a server says of itself is in the hash `jsbox:hosts`, until what it left is cleared away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from attrs import frozen

from ..text import visible
from .lease import Holder, end_connections, keys_of_host, read_holder
from .redis import Redis, StoreError, Unavailable
from .resp import Command
from .scripts import script

HOSTS = "jsbox:hosts"
ID = re.compile(rb"[0-9A-Za-z_-]{1,64}")  # of a host
TEXT_MAX = 200  # characters of what another server says of itself
TEXTS = ("name", "admin", "config", "version")
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

    def is_of(self, host: str, holder: Holder) -> bool:
        """Whether it is what the process says that holds the lease of a host."""
        return self.id == host and bool(self.process) and self.process == holder.nonce


@frozen
class Seen:
    """The servers as they were at one look.

    Attributes:
        alive: Those that live, by id.
        gone: The ids of those that do not.
        unknown: The ids of those of which nobody knows: a node of the cluster is lost.
        partitions: How many each journal has, as text: "" if the store has forgotten it; None if it
            does not say.
    """

    alive: Mapping[str, Record]
    gone: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    partitions: str | None = None


@frozen
class Peers:
    """The servers of a store. Every coroutine may raise `redis.StoreError`."""

    redis: Redis
    ours: Holder

    async def fix_partitions(self, count: int) -> str:
        """Return how many partitions each journal has, as it stands in the store; the first server
        to ask sets `count`.
        """
        _, found = await self.redis.execute_many(
            [("SET", PARTITIONS, count, "NX"), ("GET", PARTITIONS)]
        )
        return _shown(found)

    async def say(self, record: Record) -> None:
        """Say something of ourselves."""
        await self.redis.execute("HSET", HOSTS, record.id, msgspec.json.encode(record))

    async def look(self) -> Seen:
        """Look who lives. What is no server's, whoever wrote it there, is passed over."""
        asked: list[Command] = [("HGETALL", HOSTS), ("GET", PARTITIONS)]
        flat, partitions = await self.redis.attempt(asked)
        if isinstance(flat, StoreError):
            raise flat
        rows = zip(flat[::2], flat[1::2], strict=True)
        records = {key.decode(): _record(text) for key, text in rows if ID.fullmatch(key)}
        leases: list[Command] = [("GET", keys_of_host(host)[0]) for host in records]
        found = await self.redis.attempt(leases) if leases else []
        alive, gone, unknown = dict[str, Record](), list[str](), list[str]()
        for (host, record), lease in zip(records.items(), found, strict=True):
            if isinstance(lease, Unavailable):
                unknown.append(host)
            elif lease is None:
                gone.append(host)
            elif isinstance(lease, bytes) and record.is_of(host, read_holder(lease)):
                alive[host] = record  # else it starts, or is dead
        said = None if isinstance(partitions, StoreError) else _shown(partitions or b"")
        return Seen(alive, tuple(gone), tuple(unknown), said)

    async def lives(self, host: str, process: str) -> bool:
        """Whether a process has the lease of its host."""
        lease = await self.redis.execute("GET", keys_of_host(host)[0])
        return lease is not None and read_holder(lease).nonce == process

    async def is_back(self, host: str) -> bool:
        """Whether a host has a lease again that was declared dead."""
        return await self.redis.execute("GET", keys_of_host(host)[0]) is not None

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

    async def now(self) -> float:
        """The time of the store, which is the same for all of them: seconds since 1970."""
        seconds, micros = await self.redis.execute("TIME")
        return int(seconds) + int(micros) / 1e6

    async def tell(self, host: str, what: Any) -> None:
        """Tell a server something (`inbox.py`), and wait until the store has passed it on."""
        await self.redis.execute("PUBLISH", channel_of(host), msgspec.json.encode(what))

    def tell_soon(self, host: str, what: Any) -> None:
        """Tell a server something (`inbox.py`); what is lost on the way, it finds out later."""
        self.redis.post([("PUBLISH", channel_of(host), msgspec.json.encode(what))], _untold)


def channel_of(host: str) -> str:
    """The channel on which a server is told something."""
    return f"jsbox:host:{host}"


def _record(text: bytes) -> Record:
    try:
        found = msgspec.json.decode(text, type=Record)
    except (ValueError, RecursionError):
        return Record()
    cleaned = {name: visible(getattr(found, name))[:TEXT_MAX] for name in TEXTS}
    return msgspec.structs.replace(found, **cleaned)


def _shown(text: bytes) -> str:
    return visible(text.decode("utf-8", "replace"))[:TEXT_MAX]


def _untold(_: Exception) -> None:
    """Do nothing: see `tell_soon`."""
