"""Counts what happens in the supervisor, for GET /metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from attrs import frozen
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from . import __version__, observe
from .observe import PHASES, Event
from .outcomes import Outcome

LIMITS = {
    Outcome.WALL,
    Outcome.CPU,
    Outcome.HEAP,
    Outcome.MEMORY,
    Outcome.OUTPUT,
    Outcome.COMMANDS,
    Outcome.BOOT,
}

# upper bounds of the buckets of every histogram, in seconds
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Prometheus:
    """An `Observer` that counts. Labels never hold what a user or an app chose.

    Attributes:
        registry: All of its metrics.
        config_time: When the config in force was read.
        loop_lag: How late the supervisor's own timer was the last time.
        loop_lateness: How late it was each time.
        counting: What counts an event, by its type.
    """

    def __init__(self, node: str = "") -> None:
        self.registry = CollectorRegistry()
        make = _Metrics(self.registry)
        counter, histogram, gauge = make.counter, make.histogram, make.gauge
        self._messages = counter("jsbox_messages", "Runs that ended", "app", "kind", "outcome")
        self._phases = histogram("jsbox_message_duration_seconds", "Time of a run", "app", "phase")
        self._missing = counter("jsbox_missing_replies", "Session messages without a reply", "app")
        self._fallbacks = counter("jsbox_fallback_replies", "Fallback replies sent", "app")
        self._requests = counter(
            "jsbox_resource_requests", "Commands answered", "app", "resource", "command", "outcome"
        )
        self._request_seconds = histogram(
            "jsbox_resource_duration_seconds", "Time of a command", "resource"
        )
        self._starts = counter("jsbox_sandbox_starts", "Processes booted", "app")
        self._boots = histogram("jsbox_sandbox_boot_seconds", "Time to boot a process", "app")
        self._inbound = counter("jsbox_inbound", "Inbound messages and events", "channel", "answer")
        self._outbound = counter("jsbox_outbound", "Outbound messages delivered", "channel")
        self._again = counter("jsbox_redeliveries", "Deliveries repeated", "channel")
        self._reloads = counter("jsbox_config_reloads", "Reloads of the config", "outcome")
        self._searches = counter("jsbox_searches", "Searches of contacts and groups", "outcome")
        self._search_seconds = histogram("jsbox_search_duration_seconds", "Time of a search")
        self._search_restarts = counter(
            "jsbox_search_restarts", "Times that the search process was started again"
        )
        self._ends = counter("jsbox_sandbox_exits", "Processes that ended", "app", "reason")
        self._cpu = counter("jsbox_sandbox_cpu_seconds", "CPU time of runs that ended well", "app")
        self._hits = counter(
            "jsbox_limit_hits", "Limits hit (hard), or nearly (soft)", "app", "limit", "level"
        )
        self._failed = counter(
            "jsbox_messages_failed", "Runs that did not end well", "app", "reason"
        )
        self._stalls = counter(
            "jsbox_gateway_stalls", "Clients closed because they read nothing", "channel"
        )
        self._refused = counter(
            "jsbox_gateway_refused", "Clients that were not let in", "channel", "reason"
        )
        self.config_time = gauge(
            "jsbox_config_last_success_timestamp_seconds", "When the config in force was read"
        )
        gauge("jsbox_build_info", "What runs", "version", "node").labels(__version__, node).set(1)
        ProcessCollector(registry=self.registry)
        self.loop_lag = gauge("jsbox_loop_lag_seconds", "How late the supervisor's own timer was")
        self.loop_lateness = histogram(
            "jsbox_loop_lateness_seconds", "How late that timer was each time, four times a second"
        )

        # Finding a metric by its labels costs more than counting: those of each run are kept.
        self._of_ended: dict[tuple[str, str, str], tuple[Counter, dict[str, Histogram]]] = {}
        self._of_served: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}
        self._of_used: dict[str, Counter] = {}
        self.counting = self._counting()

    def __call__(self, event: Event) -> None:
        """Count an event."""
        self.counting[type(event)](event)

    def _counting(self) -> dict[type[Event], Callable[[Any], None]]:
        """What counts an event, by its type."""
        return {
            observe.RunEnded: self._run_ended,
            observe.RunUsed: self._run_used,
            observe.LimitNear: self._limit_near,
            observe.ReplyMissing: self._reply_missing,
            observe.CommandServed: self._command_served,
            observe.ProcessStarted: self._process_started,
            observe.ProcessEnded: self._process_ended,
            observe.InboundAnswered: self._inbound_answered,
            observe.Delivered: self._delivered,
            observe.ClientStalled: self._client_stalled,
            observe.ClientRefused: self._client_refused,
            observe.Searched: self._searched,
            observe.SearchRestarted: self._search_restarted,
            observe.Reloaded: self._reloaded,
        }

    def expect(self, apps: Iterable[str]) -> None:
        """Begin the counters of these apps at 0, so that Prometheus sees the first one rise."""
        for app in apps:
            for counter in (self._missing, self._fallbacks, self._starts):
                counter.labels(app)

    def _run_ended(self, event: observe.RunEnded) -> None:
        app, outcome, phases = event.app, event.outcome, event.phases
        known = self._of_ended.get((app, event.kind, outcome))
        if known is None:
            known = self._of_ended[app, event.kind, outcome] = (
                self._messages.labels(app, event.kind, outcome),
                {name: self._phases.labels(app, name) for name in (*PHASES, "total")},
            )
        runs, times = known
        runs.inc()
        if outcome is not Outcome.OK:
            self._failed.labels(app, outcome).inc()
            if outcome in LIMITS:
                self._hits.labels(app, outcome, "hard").inc()
        for name in PHASES:
            times[name].observe(getattr(phases, name))
        times["total"].observe(phases.total)

    def _run_used(self, event: observe.RunUsed) -> None:
        known = self._of_used.get(event.app)
        if known is None:
            known = self._of_used[event.app] = self._cpu.labels(event.app)
        known.inc(max(event.cpu_seconds, 0.0))

    def _limit_near(self, event: observe.LimitNear) -> None:
        self._hits.labels(event.app, event.limit, "soft").inc()

    def _reply_missing(self, event: observe.ReplyMissing) -> None:
        self._missing.labels(event.app).inc()
        if event.fallback:
            self._fallbacks.labels(event.app).inc()

    def _command_served(self, event: observe.CommandServed) -> None:
        key = (event.app, event.command, event.outcome)
        known = self._of_served.get(key)
        if known is None:
            is_unknown = event.outcome == "unknown"  # then the app chose its name
            resource, _, name = ("unknown", "", "") if is_unknown else event.command.partition(".")
            known = (
                self._requests.labels(event.app, resource, name, event.outcome),
                self._request_seconds.labels(resource),
            )
            if not is_unknown:
                self._of_served[key] = known
        requests, times = known
        requests.inc()
        times.observe(event.seconds)

    def _process_started(self, event: observe.ProcessStarted) -> None:
        self._starts.labels(event.app).inc()
        self._boots.labels(event.app).observe(event.seconds)

    def _process_ended(self, event: observe.ProcessEnded) -> None:
        self._ends.labels(event.app, event.reason).inc()

    def _inbound_answered(self, event: observe.InboundAnswered) -> None:
        self._inbound.labels(event.channel, event.answer).inc()

    def _delivered(self, event: observe.Delivered) -> None:
        (self._again if event.again else self._outbound).labels(event.channel).inc()

    def _client_stalled(self, event: observe.ClientStalled) -> None:
        self._stalls.labels(event.channel).inc()

    def _client_refused(self, event: observe.ClientRefused) -> None:
        self._refused.labels(event.channel, event.reason).inc()

    def _searched(self, event: observe.Searched) -> None:
        self._searches.labels(event.outcome).inc()
        self._search_seconds.observe(event.seconds)

    def _search_restarted(self, _: observe.SearchRestarted) -> None:
        self._search_restarts.inc()

    def _reloaded(self, event: observe.Reloaded) -> None:
        self._reloads.labels("ok" if event.ok else "refused").inc()


@frozen
class _Metrics:
    """Makes the metrics of a registry."""

    registry: CollectorRegistry

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=BUCKETS, registry=self.registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)
