"""What GET /metrics shows besides what was counted: how things are at the moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from attrs import frozen
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from resources import fence
from resources.stores.graphite import Graphite
from resources.stores.logbook import Logbook
from resources.stores.redis import Redis
from resources.stores.room import Room

from .config import Config
from .dispatcher import Dispatcher
from .pool import Pool
from .usage import limit_of


class HasConnections(Protocol):
    """The gateway."""

    def connections(self, channel: str) -> int:
        """Clients of a channel."""


class HasUnacked(Protocol):
    """The deliveries."""

    def unacked(self, channel: str) -> int:
        """Outbound messages of a channel that were handed out and not acknowledged."""


@frozen(eq=False)
class Moment(Collector):
    """Reads the parts of the supervisor when it is asked."""

    config: Callable[[], Config]
    dispatcher: Dispatcher
    pool: Pool
    redis: Redis
    graphite: Graphite
    logbook: Logbook
    gateway: HasConnections
    deliveries: HasUnacked
    room: Room
    dead_letters: Callable[[], Mapping[str, int]]  # by app

    def describe(self) -> list[Metric]:
        """Nothing ahead: names are few and fixed."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All of it."""
        yield from self._queues()
        yield from self._processes()
        yield from self._limits()
        yield from self._channels()
        yield from self._stores()
        if (free := self.room.free) is not None:
            yield GaugeMetricFamily("jsbox_disk_free_bytes", "Free on the disk of data_dir", value=free)
        logs = CounterMetricFamily("jsbox_logs", "Lines written to the apps' logs", labels=("app", "level"))
        for (app, level), count in self.logbook.counts.items():
            logs.add_metric((app, level), count)
        yield logs
        errors = CounterMetricFamily(
            "jsbox_internal_errors", "Errors nobody expected, by the fence that held them", labels=("where",)
        )
        for where, count in fence.tally.items():
            errors.add_metric((where,), count)
        yield errors

    def _stores(self) -> Iterator[Metric]:
        store, graphite = self.redis.statistics(), self.graphite
        is_well = store.up and not store.concerns_all
        yield GaugeMetricFamily(
            "jsbox_store_up", "1 where the store takes commands, 0 where it refuses all or is away", is_well
        )
        yield GaugeMetricFamily("jsbox_store_waiting", "Commands that wait to be sent to the store", store.waiting)
        yield CounterMetricFamily("jsbox_store_connections", "Connections made to the store", store.reconnects)
        refused = CounterMetricFamily(
            "jsbox_store_refused", "Commands that the store refused, by its code", labels=("code",)
        )
        for code, count in store.refused.items():
            refused.add_metric((code,), count)
        yield refused
        yield GaugeMetricFamily("jsbox_graphite_waiting", "Lines that wait for Graphite", graphite.waiting)
        yield CounterMetricFamily(
            "jsbox_graphite_dropped", "Lines given up since Graphite did not take them", graphite.dropped
        )

    def _queues(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily("jsbox_queue_depth", "Messages that wait for their turn", labels=("app",))
        oldest = GaugeMetricFamily(
            "jsbox_queue_oldest_seconds", "How long the oldest of them has waited", labels=("app",)
        )
        tripped = GaugeMetricFamily("jsbox_app_tripped", "1 where no runs are started until a reload", labels=("app",))
        for name, app in self.config().apps.items():
            depth.add_metric((name,), self.dispatcher.waiting(name))
            oldest.add_metric((name,), self.dispatcher.oldest(name))
            tripped.add_metric((name,), float(self.pool.crashes.is_tripped(app)))
        dead = GaugeMetricFamily(
            "jsbox_dead_letters", "Messages and events that were set aside: `jsbox deadletters`", labels=("app",)
        )
        letters = self.dead_letters()
        for name in {*self.config().apps, *letters}:
            dead.add_metric((name,), letters.get(name, 0))
        yield from (depth, oldest, tripped, dead)

    def _processes(self) -> Iterator[Metric]:
        processes = GaugeMetricFamily("jsbox_sandbox_processes", "Live processes", labels=("app", "state"))
        memory = GaugeMetricFamily(
            "jsbox_sandbox_memory_bytes", "Resident memory of an app's processes", labels=("app", "stat")
        )
        sizes: dict[str, list[int]] = {}
        for one in self.pool.sandboxes():
            sizes.setdefault(one.app, []).append(one.rss_bytes)
        for name in self.config().apps:
            found = self.pool.statistics(name)
            for state in ("busy", "idle", "booting"):
                processes.add_metric((name, state), getattr(found, state))
            if name in sizes:
                memory.add_metric((name, "max"), max(sizes[name]))
                memory.add_metric((name, "mean"), sum(sizes[name]) / len(sizes[name]))
        yield from (processes, memory)

    def _limits(self) -> Iterator[Metric]:
        used = GaugeMetricFamily(
            "jsbox_limit_used_ratio", "What the newest runs used of a limit", labels=("app", "limit", "stat")
        )
        for name, app in self.config().apps.items():
            for limit, seen in self.pool.usage.seen(name).items():
                value = limit_of(app.limits, limit)
                used.add_metric((name, limit, "p99"), seen.p99 / value)
                used.add_metric((name, limit, "max"), seen.most / value)
        yield used

    def _channels(self) -> Iterator[Metric]:
        connections = GaugeMetricFamily("jsbox_gateway_connections", "Gateway connections", labels=("channel",))
        unacked = GaugeMetricFamily(
            "jsbox_outbound_unacked", "Outbound messages handed out and not acknowledged", labels=("channel",)
        )
        for name in self.config().channels:
            connections.add_metric((name,), self.gateway.connections(name))
            unacked.add_metric((name,), self.deliveries.unacked(name))
        yield from (connections, unacked)
