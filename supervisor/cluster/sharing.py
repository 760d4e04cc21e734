"""The servers that share the work: who they are, what they tell each other, what the dead leave."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from hashlib import blake2b
from typing import Any

import msgspec
import trio
from attrs import define, field

from resources.forever import keep_running
from resources.stores.inbox import open_inbox
from resources.stores.journal import outcome_of
from resources.stores.lease import Lease
from resources.stores.outbox import Outbox
from resources.stores.partitions import Ownership, first_of
from resources.stores.peers import Peers, Record, channel_of
from resources.stores.redis import StoreError, StoreRefused

from ..config import Config
from ..errors import CannotStart
from ..gateway import Deliveries
from ..host.version import describe
from ..runs.dispatcher import Dispatcher
from ..runs.partitions import Partitions
from ..store.opening import Store
from ..store.patience import until_answered
from .asking import Asking
from .presence import Presence
from .turns import ChannelTurns

LOOK = 0.5  # seconds between two looks at who lives; at most a sixth of a lease
BURY_SECONDS = 0.5  # that what dead servers left may hold up who takes over their work
LEAVE_SECONDS = 3.0  # that the end waits for the store

log = logging.getLogger(__name__)


@define(eq=False)
class Sharing:
    """This server among those that share a store. Made by `open_sharing`."""

    _lease: Lease
    _peers: Peers
    _outbox: Outbox
    _partitions: Partitions
    _deliveries: Deliveries
    presence: Presence
    turns: ChannelTurns
    asking: Asking
    record: Record
    config: Callable[[], Config]
    is_heard: Callable[[], bool] = lambda: True
    """Whether we hear what other servers tell us; if not, we look."""
    _is_blind: bool = field(default=False, init=False)
    alive: Mapping[str, Record] = field(factory=dict, init=False)
    """The servers that live, by id, this one included."""
    _said: Record | None = field(default=None, init=False)
    _refused: dict[str, str] = field(factory=dict, init=False)  # by host: why it is not buried
    _summed: Config | None = field(default=None, init=False)  # that `record.config` is of

    @property
    def host(self) -> str:
        """Our id."""
        return self.record.id

    def falls_to_us(self, what: str) -> bool:
        """Whether something that one server is to do falls to this one."""
        takers = [host for host, record in self.alive.items() if record.takes]
        return first_of(takers, what) == self.host

    @property
    def problem(self) -> str:
        """Which servers run a different config; "" if none."""
        others = [
            f"{one.name} ({one.config})"
            for one in self.alive.values()
            if one.config != self.record.config
        ]
        ours = f"not this one's ({self.record.config})"
        return f"servers run another config, {ours}: {', '.join(others)}" if others else ""

    def rows(self) -> list[dict[str, Any]]:
        """The servers that live, for people."""
        return [
            {
                "id": one.id,
                "name": one.name,
                "admin": one.admin,
                "config": one.config,
                "version": one.version,
                "state": "serving" if one.takes else "stopping",
                "is_this": one.id == self.host,
            }
            for _, one in sorted(self.alive.items())
        ]

    async def start(self) -> None:
        """Become one of them. Raises StoreError."""
        await self._outbox.redis.execute("PING")
        await self.presence.start(self.config().channels)
        await self._look()

    async def change(self, **said: Any) -> None:
        """Change fields of our own `Record`, and publish it as soon as the store takes it."""
        self.record = msgspec.structs.replace(self.record, **said)
        with suppress(StoreError):
            await self._look()

    async def drain(self) -> None:
        """Take no partitions any more, and give ours back when their runs have ended."""
        await self.change(takes=False)

    async def leave(self) -> None:
        """Leave what waits in our outboxes to the others, in bounded time."""
        with trio.move_on_after(LEAVE_SECONDS, shield=True), suppress(StoreError):
            if self._lease.is_held:
                await self.presence.leave()

    async def run(self) -> None:
        """Look who lives, until cancelled."""
        pause = min(LOOK, self._lease.seconds / 6)
        while True:
            await trio.sleep(pause)
            if not self.is_heard():
                self._partitions.missed()
                self._deliveries.look_all()
            try:
                await self._look()
            except StoreError as error:
                if not self._is_blind:
                    log.warning("the other servers cannot be looked at: %s", error)
                self._is_blind = True
            else:
                self._is_blind = False

    def heard(self, text: bytes) -> None:
        """Another server has told us something."""
        match _said_by_another(text):
            case ["ask" | "answer", *_] as words:
                self.asking.heard(words)
            case ["in", str(account), str(app), str(part)]:
                self._partitions.ring(account, app, part)
            case ["ended", str(account), str(app), str(place), outcome]:
                self._partitions.brought.heard_end((account, app, place), outcome_of(outcome))
            case ["out", str(channel), int(number)] if channel in self.config().channels:
                self._deliveries.outlet(channel).heard(number)
            case ["out", *_]:
                pass  # of a channel of another config
            case ["left", str(channel)]:
                self.presence.left_over(channel)
            case ["look"]:
                self._partitions.missed()
            case other:
                log.warning("another server says what this one does not know: %.200r", other)

    def missed(self) -> None:
        """We may not have been told something."""
        self._partitions.missed()
        self.presence.missed()
        self._deliveries.doubt_all()

    async def _look(self) -> None:
        config = self.config()
        if config is not self._summed:
            self.record = msgspec.structs.replace(self.record, config=sum_of(config))
            self._summed = config
        if self._said != self.record:
            with suppress(StoreRefused):  # it has no memory left, say; what others say is read
                await self._peers.say(self.record)
                self._said = self.record
        seen = await self._peers.look()
        if self.host not in seen.alive:  # a store that went back in time has forgotten it
            self._said = None
        if seen.partitions is not None:
            await self._check_partitions(seen.partitions)
        self._refused = {host: why for host, why in self._refused.items() if host in seen.gone}
        with trio.move_on_after(BURY_SECONDS):
            for host in seen.gone:
                await self.bury(host)
        still = {host: self.alive[host] for host in seen.unknown if host in self.alive}
        self._follow({**still, **seen.alive})

    def _follow(self, alive: Mapping[str, Record]) -> None:
        """These are the servers that live."""
        if alive != self.alive:
            self._say_who(alive)
            self.alive = alive
            takers = sorted(host for host, record in alive.items() if record.takes)
            processes = frozenset(f"{host} {one.process}" for host, one in alive.items())
            self._partitions.follow(takers, processes)
            self._partitions.missed()  # what a dead one has accepted, it could tell nobody
            self.presence.missed()

    async def _check_partitions(self, said: str) -> None:
        """Whoever emptied the store, or set it back, may have let a server in that divides the
        journals in another way: then a user's messages would be in two places.
        """
        ours = str(self._partitions.parts)
        if said != ours and await self._peers.fix_partitions(int(ours)) != ours:
            self._lease.lose(f"the store has journals of {said} partitions now, not of {ours}")

    async def bury(self, host: str) -> None:
        """Clear away what a dead server left; what the store refuses is tried again. It is done
        before what fell to the dead one is run: else newer replies would overtake those that wait
        in its outboxes. Raises StoreError.
        """
        if host == self.host:
            return
        try:
            if not await self._peers.bury(host):
                return
        except StoreRefused as error:
            self._note_refused(host, error)
            return
        is_cleared = True
        for channel in self.config().channels:
            try:
                await self.presence.inherit(channel, host)
            except StoreRefused as error:
                is_cleared = False
                self._note_refused(host, error)
        # In this order, and only now: once it is back, the numbers of its outboxes count on.
        if is_cleared and not await self._peers.is_back(host):
            await self._outbox.forget(self.config().channels, host)
            await self._peers.forget(host)

    def _note_refused(self, host: str, error: StoreRefused) -> None:
        if host not in self._refused:
            log.warning("what server %s left cannot be cleared away yet: %s", host, error)
        self._refused[host] = str(error)

    def _say_who(self, alive: Mapping[str, Record]) -> None:
        for host in alive.keys() - self.alive.keys() - {self.host}:
            log.info("server %s shares the work", alive[host].name)
        for host in self.alive.keys() - alive.keys():
            log.warning("server %s is gone; others take over what it had", self.alive[host].name)


@asynccontextmanager
async def open_sharing(
    config: Config,
    store: Store,
    outbox: Outbox,
    dispatcher: Dispatcher,
    deliveries: Deliveries,
    tell: Callable[[str], None],
) -> AsyncIterator[Sharing | None]:
    """Be one of the servers that share the store, for as long as the block runs; None: it is not
    shared. `tell` is called with a line while the store is waited for.
    """
    lease, partitions = store.lease, dispatcher.partitions
    if lease is None or partitions is None:
        yield None
        return
    ours = lease.ours
    record = Record(id=ours.id, process=ours.nonce, name=ours.name, version=describe()["version"])
    peers = Peers(store.redis, ours)
    presence = Presence(outbox, deliveries, peers, lambda: sharing.alive)

    async def bury(host: str) -> None:
        await sharing.bury(host)

    sharing = Sharing(
        lease=lease,
        peers=peers,
        outbox=outbox,
        partitions=partitions,
        deliveries=deliveries,
        presence=presence,
        turns=ChannelTurns(
            peers,
            Ownership(store.redis, f"{ours.id} {ours.nonce}"),
            bury,
        ),
        asking=Asking(peers, ours.id, lambda: sharing.alive),
        record=record,
        config=lambda: config,
    )
    partitions.bury = bury
    deliveries.on_takers = presence.changed
    outbox.redis.on_reconnect.append(sharing.missed)
    outbox.redis.on_fenced.append(
        lambda: lease.lose("another server has taken over what this one works on")
    )
    opening = open_inbox(store.own_url, channel_of(record.id), sharing.heard, sharing.missed)
    async with opening as inbox:
        sharing.is_heard = lambda: inbox.is_up
        await until_answered("the other servers", sharing.start, tell)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_running, "hosts", sharing.run)
            nursery.start_soon(keep_running, "presence", presence.run)
            nursery.start_soon(keep_running, "asking", sharing.asking.run)
            yield sharing
            await sharing.leave()
            nursery.cancel_scope.cancel()


def _said_by_another(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return text


def sum_of(config: Config) -> str:
    """A checksum of what all servers should have in common, the text of the apps and the tokens of
    operators included.
    """
    common = (
        *(config.accounts, config.apps, config.channels, config.journal, config.search),
        [app.generation for app in config.apps.values()],
        # Who may do something at one server may do it at all, through that one.
        [
            (one.sha256, one.name, sorted(one.scopes), one.expires)
            for one in config.listen.admin_tokens
        ],
    )
    return blake2b(repr(common).encode("utf-8", "replace"), digest_size=4).hexdigest()


async def peers_of(config: Config, store: Store) -> Peers | None:
    """The servers that share the store with us, if it is shared.

    Raises:
        CannotStart: They share it in another way.
        StoreError: It cannot be asked.
    """
    if config.cluster.mode != "shared" or store.lease is None:
        return None
    peers = Peers(store.redis, store.lease.ours)
    ours = config.cluster.partitions
    theirs = await peers.fix_partitions(ours)
    if theirs != str(ours):
        raise CannotStart(
            f"cluster.partitions: this store has journals of {theirs} partitions, not of {ours};"
            " their number cannot be changed"
        )
    return peers
