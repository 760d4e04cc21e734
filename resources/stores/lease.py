"""The lease of a store that several servers can reach: only the one that holds it works on it.

The lease is a key that expires. Its holder renews it three times per lease; that of a server that
dies runs out. Who took it last is a second key, which stays: a server that was away (frozen,
or cut off) learns from it whether another had the store meanwhile, even if that one has gone.

A past holder cannot write: its client asks `is_open` before each batch, and over each new
connection it renews the lease before anything else. A batch that it had half sent when it froze
dies with its connection, which the next holder ends (`_end_connections`). That needs a name of the
connection: it has none in a cluster, and if redis.url sets a client_name.

The lease's own client renews it, so that no batch delays that. Time is that of this host since it
booted, and counts from before the lease was asked for.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import trio
from attrs import define, field, frozen

from ..fence import fence
from .gate import boot_time
from .redis import Redis, StoreError, open_redis
from .resp import Command
from .scripts import script

LEASE, LAST = "jsbox:lease", "jsbox:{jsbox:lease}:last"  # the tag keeps both on one node
SHARED = b'{"id":"shared","name":"servers that share it ([cluster] mode = \\"shared\\")"}'
"""What the lease of the store holds while several servers share it."""
RENEWALS = 3  # in the time of a lease
AGAIN = 0.25  # seconds after a renewal that failed
GIVE_SECONDS = 2.0  # that the end waits for the store to take the lease back
NAME_MAX = 200  # characters of another server's name

log = logging.getLogger(__name__)


class LeaseLost(Exception):
    """Another server has the store, or had it meanwhile. The text says which."""


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """A server that has the lease, as the store keeps it.

    Attributes:
        id: Of its data directory.
        boot: Of its host's boot.
        nonce: Of its process.
        name: For people.
        connection: Its client's name in the store's list of clients; empty if it has none.
    """

    id: str = ""
    boot: str = ""
    nonce: str = ""
    name: str = ""
    connection: str = ""


@frozen
class Held:
    """Another server has the lease. `left`: seconds until it runs out; negative: it never does."""

    holder: Holder
    left: float

    @property
    def name(self) -> str:
        """Its name, for people."""
        return self.holder.name


@define(eq=False)
class Lease:
    """Made by `open_lease`; a `Gate` for the client that works on the store.

    Attributes:
        seconds: How long it lasts.
        ours: Who we are to it.
        keys: Of the lease, and of who took it last.
        is_shared: It is the lease of one of the servers that share the store: the lease of the
            store is then held for all of them.
        problem: Why it does not hold at the moment.
    """

    client: Redis
    seconds: float
    ours: Holder
    keys: tuple[str, str] = (LEASE, LAST)
    is_shared: bool = False
    problem: str = field(default="the lease of the store is not taken yet", init=False)
    _value: bytes = field(init=False)
    _held: trio.Event = field(factory=trio.Event, init=False)
    _lost: trio.Event = field(factory=trio.Event, init=False)
    _asked: float = field(default=0.0, init=False)  # when the renewal was asked for that succeeded
    _connection: int = field(default=0, init=False)  # the client's newest that renewed it
    _warned: bool = field(default=False, init=False)
    _was_asked_for: bool = field(default=False, init=False)  # so the store may hold it for us

    def __attrs_post_init__(self) -> None:
        self._value = msgspec.json.encode(self.ours)

    @property
    def was_taken(self) -> bool:
        """Whether we have ever taken it."""
        return self._held.is_set()

    @property
    def is_held(self) -> bool:
        """Whether it is ours at the moment."""
        is_ours = self._held.is_set() and not self._lost.is_set()
        return is_ours and boot_time() < self._asked + self.seconds

    @property
    def is_lost(self) -> bool:
        """Whether another server has taken it."""
        return self._lost.is_set()

    def is_open(self, connection: int) -> bool:
        """Whether it is ours, and the store said so over this connection."""
        return connection == self._connection and self.is_held

    def question(self) -> Sequence[Command]:
        """Name the connection, and renew the lease."""
        if not self._held.is_set() or self._lost.is_set():
            return ()
        name = self.ours.connection
        naming: tuple[Command, ...] = (("CLIENT", "SETNAME", name),) if name else ()
        return (*naming, *self._renewal())

    def answered(self, connection: int, asked: float, answers: Sequence[Any]) -> None:
        """Note the answers to `question`."""
        if self._note(asked, answers[-len(self._renewal()) :]):
            self._connection = connection

    async def take(self) -> Held | None:
        """Try to take it. Returns who has it, or None: it is ours.

        Raises:
            StoreError: The store did not answer, or refused.
        """
        asked, self._was_asked_for = boot_time(), True
        if self.is_shared:
            is_ours, other, left = _verdict(await self.client.execute(*self._sharing()[0]))
            if not is_ours:
                return Held(other, left)
        taken = await self.client.run(
            script("lease_take"), self.keys, self._value, self._milliseconds, 0
        )
        is_ours, other, left = _verdict(taken)
        if not is_ours:
            return Held(other, left)
        if other.connection:
            await end_connections(self.client, other.connection)
        self._hold(asked)
        self._held.set()
        return None

    async def keep(self) -> None:
        """Renew it from when it is taken until it is lost.

        Raises:
            LeaseLost: It is lost.
        """
        await self._held.wait()
        while not self._lost.is_set():
            due = self._asked + self.seconds / RENEWALS - boot_time()
            with trio.move_on_after(max(due, AGAIN)):
                await self._lost.wait()
                break
            with fence("lease"):
                await self._renew()
        raise LeaseLost(self.problem)

    async def give(self) -> None:
        """Give it back, in bounded time, if it is ours."""
        if self._was_asked_for and not self.is_lost:
            with trio.move_on_after(GIVE_SECONDS, shield=True), suppress(StoreError):
                await self.client.run(script("lease_give"), self.keys[:1], self._value)

    @property
    def _milliseconds(self) -> int:
        return max(int(self.seconds * 1000), 1)

    def _renewal(self) -> tuple[Command, ...]:
        """Renew it; and look, for a store that refuses to write."""
        call = script("lease_take").call(self.keys, self._value, self._milliseconds, 1)
        return *self._sharing(), call, ("MGET", *self.keys)

    def _sharing(self) -> tuple[Command, ...]:
        """Hold the store for all that share it."""
        if not self.is_shared:
            return ()
        return (script("store_share").call((LEASE, LAST), SHARED, self._milliseconds),)

    async def _renew(self) -> None:
        asked = boot_time()
        try:
            answers = await self.client.attempt(self._renewal())
            self._note(asked, answers)
        except StoreError as error:
            self._failed(str(error))

    def _note(self, asked: float, answers: Sequence[Any]) -> bool:
        """Note the answers to a renewal; return whether the lease is ours."""
        *sharing, taken, found = answers
        for one in sharing:
            if isinstance(one, list) and not _verdict(one)[0]:
                self.lose(f"another server has taken the store: {_verdict(one)[1].name}")
                return False
        if isinstance(taken, list):
            is_ours, other, _ = _verdict(taken)
            if is_ours:
                self._hold(asked)
            else:
                self.lose(
                    f"this server counts as dead since its lease ran out, says {other.name}"
                    if self.is_shared
                    else f"another server has taken the store: {other.name}"
                )
            return is_ours
        if isinstance(found, list) and all(one in (None, self._value) for one in found):
            # The store refuses to write: nobody else can take it.
            self._hold(asked)
            return True
        self._failed(str(taken))
        return False

    def _hold(self, asked: float) -> None:
        self._asked = max(asked, self._asked)
        if self._warned:
            log.info("the lease of the store is renewed")
        self._warned = False
        self.problem = "the lease of the store is to be renewed"

    def _failed(self, reason: str) -> None:
        if not self._lost.is_set():
            self.problem = f"the lease of the store cannot be renewed: {reason}"
            if not self._warned and not self.is_held:
                self._warned = True
                log.warning("%s; until then nothing is sent to the store", self.problem)

    def lose(self, reason: str) -> None:
        """Give it up: nothing is sent to the store any more, and `keep` raises LeaseLost."""
        if not self._lost.is_set():
            self.problem = reason
            self._lost.set()


async def end_connections(client: Redis, name: str) -> None:
    """End the connections of the server that had a lease before: what it has sent in part must not
    be completed.
    """
    with fence("lease", "ending the connections of a server that had the lease before"):
        try:
            listed = await client.execute("CLIENT", "LIST")
            for line in listed.decode(errors="replace").splitlines():
                pairs = dict(one.split("=", 1) for one in line.split(" ") if "=" in one)
                if pairs.get("name") == name:
                    await client.execute("CLIENT", "KILL", "ID", pairs["id"])
        except StoreError as error:
            log.warning(
                "the connections of a server that had the lease before cannot be ended: %s", error
            )


def keys_of_host(host: str) -> tuple[str, str]:
    """The keys of the lease of one of the servers that share a store, on one node."""
    return f"jsbox:host:{host}", f"jsbox:{{jsbox:host:{host}}}:last"


def _verdict(answer: Any) -> tuple[bool, Holder, float]:
    """Whether the lease is ours now, who has it or had it before, and for how many seconds yet.

    Raises:
        StoreError: It is not an answer of the script.
    """
    match answer:
        case [1, bytes(text)]:
            return True, read_holder(text) if text else Holder(), 0.0
        case [0, bytes(text), int(left)]:
            return False, read_holder(text), left / 1000
    raise StoreError(f"the answer about the lease cannot be read: {answer!r:.100}", sent=True)


def read_holder(text: Any) -> Holder:
    """Read what the store keeps of a holder, whatever it is."""
    try:
        found = msgspec.json.decode(text, type=Holder)
    except (msgspec.MsgspecError, TypeError, ValueError):
        return Holder(name="an unknown server")
    name = "".join(char for char in found.name[:NAME_MAX] if char.isprintable())
    return msgspec.structs.replace(found, name=name or "an unknown server")


def connection_name(url: str, nonce: str) -> str:
    """What a server's connections are called; empty if they cannot have a name of ours."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    return "" if "cluster" in parts.scheme or "client_name" in options else f"jsbox-{nonce}"


@asynccontextmanager
async def open_lease(
    url: str, seconds: float, owner: str, boot: str, name: str, *, is_shared: bool = False
) -> AsyncIterator[Lease]:
    """Open the lease of the store at a URL. It is not taken yet; once it is, it is kept, and given
    back at the end.

    Args:
        url: Of the store.
        seconds: How long the lease lasts.
        owner: Names the data directory, whose lock is held.
        boot: Names the host's boot.
        name: Our name, for people.
        is_shared: Other servers have leases of their own on the store.

    Raises:
        LeaseLost: Another server has taken it; the block is cancelled.
    """
    nonce = os.urandom(8).hex()
    ours = Holder(
        id=owner, boot=boot, nonce=nonce, name=name, connection=connection_name(url, nonce)
    )
    async with open_redis(url) as client:
        keys = keys_of_host(owner) if is_shared else (LEASE, LAST)
        lease = Lease(client, seconds, ours, keys, is_shared)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lease.keep)
                yield lease
                nursery.cancel_scope.cancel()
        finally:
            await lease.give()
