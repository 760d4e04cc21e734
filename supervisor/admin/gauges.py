"""The gauges of GET /metrics: the state of things at the moment, beside the counters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from attrs import frozen
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from resources import fence
from resources.stores.app_metrics import AppMetrics
from resources.stores.graphite import Graphite
from resources.stores.lease import Lease
from resources.stores.logbook import Logbook
from resources.stores.outbox import Waiting
from resources.stores.redis import Redis
from resources.stores.room import Room

from ..channel_state import ChannelState
from ..config import Config
from ..host.slices import Slices
from ..log_output import LogWriter
from ..otel.exporter import Exporter
from ..ports.accepting import Door
from ..runs.dispatcher import Dispatcher
from ..sandboxes.limit_usage import limit_of
from ..sandboxes.pool import Pool
from .bodies import off_loop
from .refusals import Refusals

LEASE_HELD = ("jsbox_lease_held", "1 if this server has the store, 0 if it stands by")


class HasUnacked(Protocol):
    """The deliveries."""

    def unacked(self, channel: str) -> int:
        """Outbound messages of a channel that were handed out and not acknowledged."""


@frozen(eq=False)
class Moment:
    """Reads the parts of the supervisor when it is asked."""

    config: Callable[[], Config]
    dispatcher: Dispatcher
    pool: Pool
    redis: Redis
    graphite: Graphite
    app_metrics: AppMetrics
    logbook: Logbook
    channel_state: Callable[[str], ChannelState]
    deliveries: HasUnacked
    room: Room
    lease: Lease | None  # of the store, if others can reach it
    dead_letters: Callable[[], Mapping[str, int]]  # by app
    log_writer: LogWriter | None
    outboxes: Callable[[], Mapping[str, Waiting]]
    refusals: Refusals
    doors: Callable[[], Iterable[Door]]  # of the ports
    exporter: Exporter

    async def gather(self) -> list[Metric]:
        """Collect all gauges, in slices: there may be a thousand apps."""
        slices = Slices()
        found = [
            *await self._queues(slices),
            *await self._processes(slices),
            *await self._limits(slices),
            *await self._channels(slices),
            *await self._fired(slices),
            *self._stores(),
        ]
        if (free := self.room.free) is not None:
            found.append(
                GaugeMetricFamily(
                    "jsbox_disk_free_bytes", "Free on the disk of data_dir", value=free
                )
            )
        logs = CounterMetricFamily(
            "jsbox_logs", "Lines written to the apps' logs", labels=("app", "level")
        )
        for (app, level), count in list(self.logbook.counts.items()):
            logs.add_metric((app, level), count)
            await slices.rest()
        dropped = CounterMetricFamily(
            "jsbox_log_stdout_dropped",
            "Entries of the apps' logs that standard output did not take",
            value=0 if self.log_writer is None else self.log_writer.dropped,
        )
        errors = CounterMetricFamily(
            "jsbox_internal_errors",
            "Unexpected errors, by the fence that held them",
            labels=("where",),
        )
        for where, count in fence.tally.items():
            errors.add_metric((where,), count)
        return [*found, logs, dropped, errors, *self._spans()]

    def _spans(self) -> Iterator[Metric]:
        """What was sent to OpenTelemetry's collector."""
        yield CounterMetricFamily(
            "jsbox_otel_spans", "Spans that the collector took", self.exporter.exported
        )
        dropped = CounterMetricFamily(
            "jsbox_otel_dropped_spans",
            "Spans that the collector did not get: too many waited (queue), they could not be sent"
            " (failed), it refused them (rejected), they waited when it was taken away (off)",
            labels=("reason",),
        )
        for reason in ("queue", "failed", "rejected", "off"):
            dropped.add_metric((reason,), self.exporter.dropped[reason])
        yield dropped

    def _stores(self) -> Iterator[Metric]:
        store, graphite = self.redis.statistics(), self.graphite
        is_well = store.up and not store.concerns_all
        yield GaugeMetricFamily(
            "jsbox_store_up",
            "1 if the store takes commands, 0 if it refuses all or is away",
            is_well,
        )
        yield GaugeMetricFamily(*LEASE_HELD, self.lease is None or self.lease.is_held)
        yield GaugeMetricFamily(
            "jsbox_store_waiting", "Commands that wait to be sent to the store", store.waiting
        )
        yield CounterMetricFamily(
            "jsbox_store_connections", "Connections made to the store", store.reconnects
        )
        refused = CounterMetricFamily(
            "jsbox_store_refused", "Commands that the store refused, by its code", labels=("code",)
        )
        for code, count in store.refused.items():
            refused.add_metric((code,), count)
        yield refused
        yield CounterMetricFamily(
            "jsbox_admin_refused",
            "Requests to the admin port without a valid token, or from a web page",
            self.refusals.total,
        )
        crowded = CounterMetricFamily(
            "jsbox_connections_turned_away",
            "Connections that a full port turned away, or that made way for others",
            labels=("port",),
        )
        for door in self.doors():
            crowded.add_metric((door.where,), door.crowding.total)
        yield crowded
        yield GaugeMetricFamily(
            "jsbox_graphite_waiting", "Lines that wait for Graphite", graphite.waiting
        )
        yield CounterMetricFamily(
            "jsbox_graphite_dropped",
            "Lines dropped because Graphite did not take them",
            graphite.dropped,
        )

    async def _fired(self, slices: Slices) -> list[Metric]:
        """What the apps fired."""
        labels = ("app", "store", "metric")
        values = SummaryMetricFamily(
            "jsbox_app_metric", "Values that an app fired with metrics.fire", labels=labels
        )
        last = GaugeMetricFamily(
            "jsbox_app_metric_last", "The newest value that an app fired", labels=labels
        )
        left_out = CounterMetricFamily(
            "jsbox_app_metric_left_out",
            "Values that are not here, since the app has too many names of metrics",
            labels=("app",),
        )
        apps = self.config().apps
        for name, fired in list(self.app_metrics.values.items()):
            await slices.rest()
            if name[0] in apps:
                values.add_metric(name, fired.count, fired.total)
                last.add_metric(name, fired.last)
        for app, count in list(self.app_metrics.left_out.items()):
            if app in apps:
                left_out.add_metric((app,), count)
        return [values, last, left_out]

    async def _queues(self, slices: Slices) -> list[Metric]:
        depth = GaugeMetricFamily(
            "jsbox_queue_depth", "Messages that wait for their turn", labels=("app",)
        )
        oldest = GaugeMetricFamily(
            "jsbox_queue_oldest_seconds", "How long the oldest of them has waited", labels=("app",)
        )
        tripped = GaugeMetricFamily(
            "jsbox_app_tripped", "1 if no runs are started until a reload", labels=("app",)
        )
        failing = GaugeMetricFamily(
            "jsbox_app_failing",
            "1 if too many of its newest runs failed (config: failing)",
            labels=("app",),
        )
        for name, app in list(self.config().apps.items()):
            await slices.rest()
            depth.add_metric((name,), self.dispatcher.waiting(name))
            oldest.add_metric((name,), self.dispatcher.oldest(name))
            runs_nothing = self.pool.crashes.is_tripped(app) or self.dispatcher.broken(name)
            tripped.add_metric((name,), float(bool(runs_nothing)))
            is_failing = self.dispatcher.failures.state(app) is not None
            failing.add_metric((name,), float(is_failing))
        dead = GaugeMetricFamily(
            "jsbox_dead_letters",
            "Messages and events that were set aside: `jsbox deadletters`",
            labels=("app",),
        )
        letters = self.dead_letters()
        for name in {*self.config().apps, *letters}:
            dead.add_metric((name,), letters.get(name, 0))
        return [depth, oldest, tripped, failing, dead]

    async def _processes(self, slices: Slices) -> list[Metric]:
        processes = GaugeMetricFamily(
            "jsbox_sandbox_processes", "Live processes", labels=("app", "state")
        )
        memory = GaugeMetricFamily(
            "jsbox_sandbox_memory_bytes",
            "Resident memory of an app's processes",
            labels=("app", "stat"),
        )
        sizes: dict[str, list[int]] = {}
        for one in self.pool.sandboxes():
            sizes.setdefault(one.app, []).append(one.rss_bytes)
        for name in list(self.config().apps):
            await slices.rest()
            found = self.pool.statistics(name)
            for state in ("busy", "idle", "booting"):
                processes.add_metric((name, state), getattr(found, state))
            if name in sizes:
                memory.add_metric((name, "max"), max(sizes[name]))
                memory.add_metric((name, "mean"), sum(sizes[name]) / len(sizes[name]))
        return [processes, memory]

    async def _limits(self, slices: Slices) -> list[Metric]:
        used = GaugeMetricFamily(
            "jsbox_limit_used_ratio",
            "What the newest runs used of a limit",
            labels=("app", "limit", "stat"),
        )
        for name, app in list(self.config().apps.items()):
            await slices.rest()
            for limit, seen in self.pool.usage.seen(name).items():
                value = limit_of(app.limits, limit)
                used.add_metric((name, limit, "p99"), seen.p99 / value)
                used.add_metric((name, limit, "max"), seen.most / value)
        return [used]

    async def _channels(self, slices: Slices) -> list[Metric]:
        connections = GaugeMetricFamily(
            "jsbox_gateway_connections", "Gateway connections", labels=("channel",)
        )
        unacked = GaugeMetricFamily(
            "jsbox_outbound_unacked",
            "Outbound messages handed out and not acknowledged",
            labels=("channel",),
        )
        up = GaugeMetricFamily(
            "jsbox_channel_up", "1 if messages come and go on a channel", labels=("channel",)
        )
        made = CounterMetricFamily(
            "jsbox_channel_connections",
            "Connections that jsbox made for a channel",
            labels=("channel",),
        )
        returned = CounterMetricFamily(
            "jsbox_channel_returned",
            "Outbound messages that the other side did not take; they are sent again",
            labels=("channel",),
        )
        for name, channel in list(self.config().channels.items()):
            await slices.rest()
            state = self.channel_state(name)
            connections.add_metric((name,), state.connections)
            unacked.add_metric((name,), self.deliveries.unacked(name))
            up.add_metric((name,), float(state.state == "up"))
            if channel.type != "websocket":
                made.add_metric((name,), state.made)
                returned.add_metric((name,), state.returned)
        return [connections, unacked, up, made, returned, *self._outboxes()]

    def _outboxes(self) -> list[Metric]:
        count = GaugeMetricFamily(
            "jsbox_outbox_messages", "Messages that nobody has taken yet", labels=("channel",)
        )
        size = GaugeMetricFamily("jsbox_outbox_bytes", "Bytes of them", labels=("channel",))
        oldest = GaugeMetricFamily(
            "jsbox_outbox_oldest_seconds",
            "How long ago the oldest of them was made",
            labels=("channel",),
        )
        now = datetime.now(UTC)
        for name, one in self.outboxes().items():
            count.add_metric((name,), one.count)
            size.add_metric((name,), one.size)
            age = 0.0 if one.oldest is None else (now - one.oldest).total_seconds()
            oldest.add_metric((name,), max(age, 0.0))
        return [count, size, oldest]


async def scrape(registry: CollectorRegistry, moment: Moment) -> bytes:
    """Counters and gauges, in Prometheus's exposition format."""
    return await off_loop(_text, registry, await moment.gather())


class _Found(Collector):
    """Metrics collected earlier."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Sequence[Metric]:
        """All of them."""
        return self._metrics


def _text(registry: CollectorRegistry, moment: Sequence[Metric]) -> bytes:
    # The counters in the registry may be read in any thread; the gauges were read before.
    return generate_latest(registry) + generate_latest(_Found(moment))
