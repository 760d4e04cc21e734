"""What the resources are built on: data in the store, and the ways out of this host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from attrs import frozen

from resources.contract import Resource
from resources.stores.app_metrics import AppMetrics
from resources.stores.contacts import Contacts, Writes
from resources.stores.egress import Egress, open_egress
from resources.stores.graphite import Graphite, open_graphite
from resources.stores.groups import Groups
from resources.stores.identity import open_message_ids
from resources.stores.journal import Journal
from resources.stores.keyspace import Keyspace
from resources.stores.logbook import Logbook
from resources.stores.optouts import OptOuts
from resources.stores.outbox import Outbox
from resources.stores.recordings import Recordings
from resources.stores.redis import Redis
from resources.stores.statistics import Statistics

from .gateway import Deliveries
from .runs.programs import all_resources
from .search import Search
from .store.opening import Store
from .store.patience import until_answered


@frozen(kw_only=True)
class Stores:
    """Made by `open_stores`."""

    redis: Redis
    journal: Journal
    outbox: Outbox
    logbook: Logbook
    recordings: Recordings
    contacts: Contacts
    groups: Groups
    optouts: OptOuts
    keyspace: Keyspace
    statistics: Statistics
    graphite: Graphite
    app_metrics: AppMetrics
    egress: Egress


@asynccontextmanager
async def open_stores(
    store: Store,
    deliveries: Deliveries,
    writes: Writes,
    tell: Callable[[str], None],
    partitions: int = 0,
) -> AsyncIterator[Stores]:
    """Open all of them; at the end what waits for Graphite is sent.

    Args:
        store: Keeps the data.
        deliveries: Hand out what is posted to the outbox.
        writes: Told of contacts that are written, or that the store may have lost.
        tell: Called with a line while the store is waited for.
        partitions: Of each journal, if several servers share the work; else 0.
    """
    redis, room = store.redis, store.disk.room
    redis.on_reconnect.append(writes.note_all)
    host = process = name = ""
    if partitions and store.lease is not None:
        ours = store.lease.ours
        host, process, name = ours.id, ours.nonce, ours.name
    async with open_graphite() as graphite, open_egress() as egress:
        ids = await until_answered("message ids", partial(open_message_ids, redis), tell)
        statistics = Statistics(redis)
        # A circle, closed here: the outbox announces a message that was posted to its channel's
        # outlet, which hands it out, and strikes it from the outbox once it is acknowledged.
        outbox = Outbox(
            redis=redis,
            ids=ids,
            statistics=statistics,
            announce=deliveries.announce,
            room=room,
            is_awaited=deliveries.is_awaited,
            host=host,
        )
        deliveries.outbox = outbox
        yield Stores(
            redis=redis,
            journal=Journal(redis, room, partitions, host, process),
            outbox=outbox,
            logbook=Logbook(redis, room, name),
            recordings=Recordings(redis, room),
            contacts=Contacts(redis, room, writes),
            groups=Groups(redis, room),
            optouts=OptOuts(redis, room),
            keyspace=Keyspace(redis, room),
            statistics=statistics,
            graphite=graphite,
            app_metrics=AppMetrics(),
            egress=egress,
        )


def resources_on(stores: Stores, search: Search) -> Sequence[Resource]:
    """Make every resource of the apps."""
    return all_resources(
        keyspace=stores.keyspace,
        outbox=stores.outbox,
        egress=stores.egress,
        graphite=stores.graphite,
        app_metrics=stores.app_metrics,
        contacts=stores.contacts,
        groups=stores.groups,
        optouts=stores.optouts,
        statistics=stores.statistics,
        search=search,
    )
