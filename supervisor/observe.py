"""What happens, for whoever wants to count it. The parts of the supervisor call an `Observer` and
know nothing of Prometheus.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from attrs import frozen
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from . import __version__
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

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


PHASES = ("queue", "boot", "app", "calls")


@frozen
class Phases:
    """Seconds of a message or event from its acceptance to the end of its run: waiting for its
    turn, for a process, the app's own time, and the time in which it waited for commands.
    """

    queue: float
    boot: float
    app: float
    calls: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.queue + self.boot + self.app + self.calls


class Observer(Protocol):
    """Told of everything that is counted. Calls must not wait and must not raise."""

    def run_ended(self, app: str, kind: str, outcome: Outcome, phases: Phases) -> None:
        """A run ended, and where its time went."""

    def reply_missing(self, app: str, *, fallback: bool) -> None:
        """A session's message got no reply from the app; whether the fallback went out instead."""

    def command_served(self, app: str, command: str, outcome: str, seconds: float) -> None:
        """A command was answered: success, refused, timeout, unknown, unavailable or error."""

    def sandbox_started(self, app: str, seconds: float) -> None:
        """A process was booted."""

    def inbound(self, channel: str, answer: str) -> None:
        """A gateway's message or event was accepted, a duplicate, or rejected with a code."""

    def delivered(self, channel: str, *, again: bool) -> None:
        """An outbound message was handed to a gateway."""

    def reloaded(self, *, ok: bool) -> None:
        """The config was reloaded, or could not be."""

    def searched(self, outcome: str, seconds: float) -> None:
        """A search ended: ok, refused, unavailable or cancelled."""

    def search_restarted(self) -> None:
        """The search process ended and is started again."""

    def sandbox_ended(self, app: str, reason: str) -> None:
        """A process of an app ended: for an outcome, or `retired`."""

    def run_used(self, app: str, cpu_seconds: float) -> None:
        """A run used so much CPU time."""

    def limit_near(self, app: str, limit: str) -> None:
        """A run came close to a limit, and the app's log says so."""

    def stalled(self, channel: str) -> None:
        """A gateway client took nothing for too long, and is closed."""


class NullObserver:
    """Counts nothing."""

    def run_ended(self, app: str, kind: str, outcome: Outcome, phases: Phases) -> None:
        """See Observer."""

    def reply_missing(self, app: str, *, fallback: bool) -> None:
        """See Observer."""

    def command_served(self, app: str, command: str, outcome: str, seconds: float) -> None:
        """See Observer."""

    def sandbox_started(self, app: str, seconds: float) -> None:
        """See Observer."""

    def inbound(self, channel: str, answer: str) -> None:
        """See Observer."""

    def delivered(self, channel: str, *, again: bool) -> None:
        """See Observer."""

    def reloaded(self, *, ok: bool) -> None:
        """See Observer."""

    def searched(self, outcome: str, seconds: float) -> None:
        """See Observer."""

    def search_restarted(self) -> None:
        """See Observer."""

    def sandbox_ended(self, app: str, reason: str) -> None:
        """See Observer."""

    def run_used(self, app: str, cpu_seconds: float) -> None:
        """See Observer."""

    def limit_near(self, app: str, limit: str) -> None:
        """See Observer."""

    def stalled(self, channel: str) -> None:
        """See Observer."""


class PrometheusObserver:
    """Counts for GET /metrics. Labels never hold what a user or an app chose."""

    def __init__(self, node: str = "") -> None:
        self.registry = registry = CollectorRegistry()
        self._messages = Counter(
            "jsbox_messages", "Runs that ended", ("app", "kind", "outcome"), registry=registry
        )
        self._phases = Histogram(
            "jsbox_message_duration_seconds",
            "Time of a run",
            ("app", "phase"),
            buckets=SECONDS,
            registry=registry,
        )
        self._missing = Counter(
            "jsbox_missing_replies", "Session messages without a reply", ("app",), registry=registry
        )
        self._fallbacks = Counter(
            "jsbox_fallback_replies", "Fallback replies sent", ("app",), registry=registry
        )
        self._requests = Counter(
            "jsbox_resource_requests",
            "Commands answered",
            ("app", "resource", "command", "outcome"),
            registry=registry,
        )
        self._request_seconds = Histogram(
            "jsbox_resource_duration_seconds",
            "Time of a command",
            ("resource",),
            buckets=SECONDS,
            registry=registry,
        )
        self._ended: dict[tuple[str, str, str], tuple[Counter, dict[str, Histogram]]] = {}
        self._served: dict[
            tuple[str, str, str], tuple[Counter, Histogram]
        ] = {}  # finding them costs more than counting
        self._used: dict[str, Counter] = {}
        self._starts = Counter(
            "jsbox_sandbox_starts", "Processes booted", ("app",), registry=registry
        )
        self._boots = Histogram(
            "jsbox_sandbox_boot_seconds",
            "Time to boot a process",
            ("app",),
            buckets=SECONDS,
            registry=registry,
        )
        self._inbound = Counter(
            "jsbox_inbound", "Inbound messages and events", ("channel", "answer"), registry=registry
        )
        self._outbound = Counter(
            "jsbox_outbound", "Outbound messages delivered", ("channel",), registry=registry
        )
        self._again = Counter(
            "jsbox_redeliveries", "Deliveries repeated", ("channel",), registry=registry
        )
        self._reloads = Counter(
            "jsbox_config_reloads", "Reloads of the config", ("outcome",), registry=registry
        )
        self._searches = Counter(
            "jsbox_searches", "Searches of contacts and groups", ("outcome",), registry=registry
        )
        self._search_seconds = Histogram(
            "jsbox_search_duration_seconds", "Time of a search", buckets=SECONDS, registry=registry
        )
        self._search_restarts = Counter(
            "jsbox_search_restarts",
            "Times that the search process was started again",
            registry=registry,
        )
        self._ends = Counter(
            "jsbox_sandbox_exits", "Processes that ended", ("app", "reason"), registry=registry
        )
        self._cpu = Counter(
            "jsbox_sandbox_cpu_seconds",
            "CPU time of runs that ended well",
            ("app",),
            registry=registry,
        )
        self._hits = Counter(
            "jsbox_limit_hits",
            "Limits hit (hard), or nearly (soft)",
            ("app", "limit", "level"),
            registry=registry,
        )
        self._failed = Counter(
            "jsbox_messages_failed",
            "Runs that did not end well",
            ("app", "reason"),
            registry=registry,
        )
        self._stalls = Counter(
            "jsbox_gateway_stalls",
            "Clients closed since they took nothing",
            ("channel",),
            registry=registry,
        )
        self.config_time = Gauge(
            "jsbox_config_last_success_timestamp_seconds",
            "When the config in force was read",
            registry=registry,
        )
        self._build = Gauge("jsbox_build_info", "What runs", ("version", "node"), registry=registry)
        self._build.labels(__version__, node).set(1)
        ProcessCollector(registry=registry)
        self.loop_lag = Gauge(
            "jsbox_loop_lag_seconds", "How late the supervisor's own timer was", registry=registry
        )

    def run_ended(self, app: str, kind: str, outcome: Outcome, phases: Phases) -> None:
        """See Observer."""
        known = self._ended.get((app, kind, outcome))
        if known is None:
            times = {name: self._phases.labels(app, name) for name in (*PHASES, "total")}
            known = self._ended[app, kind, outcome] = (
                self._messages.labels(app, kind, outcome),
                times,
            )
        known[0].inc()
        if outcome is not Outcome.OK:
            self._failed.labels(app, outcome).inc()
            if outcome in LIMITS:
                self._hits.labels(app, outcome, "hard").inc()
        for name in PHASES:
            known[1][name].observe(getattr(phases, name))
        known[1]["total"].observe(phases.total)

    def reply_missing(self, app: str, *, fallback: bool) -> None:
        """See Observer."""
        self._missing.labels(app).inc()
        if fallback:
            self._fallbacks.labels(app).inc()

    def command_served(self, app: str, command: str, outcome: str, seconds: float) -> None:
        """See Observer."""
        known = self._served.get((app, command, outcome))
        if known is None:
            resource, _, name = (
                command.partition(".") if outcome != "unknown" else ("unknown", "", "")
            )
            known = (
                self._requests.labels(app, resource, name, outcome),
                self._request_seconds.labels(resource),
            )
            if outcome != "unknown":  # those have names that apps chose
                self._served[app, command, outcome] = known
        known[0].inc()
        known[1].observe(seconds)

    def sandbox_started(self, app: str, seconds: float) -> None:
        """See Observer."""
        self._starts.labels(app).inc()
        self._boots.labels(app).observe(seconds)

    def inbound(self, channel: str, answer: str) -> None:
        """See Observer."""
        self._inbound.labels(channel, answer).inc()

    def delivered(self, channel: str, *, again: bool) -> None:
        """See Observer."""
        (self._again if again else self._outbound).labels(channel).inc()

    def reloaded(self, *, ok: bool) -> None:
        """See Observer."""
        self._reloads.labels("ok" if ok else "refused").inc()

    def searched(self, outcome: str, seconds: float) -> None:
        """See Observer."""
        self._searches.labels(outcome).inc()
        self._search_seconds.observe(seconds)

    def search_restarted(self) -> None:
        """See Observer."""
        self._search_restarts.inc()

    def sandbox_ended(self, app: str, reason: str) -> None:
        """See Observer."""
        self._ends.labels(app, reason).inc()

    def run_used(self, app: str, cpu_seconds: float) -> None:
        """See Observer."""
        known = self._used.get(app)
        if known is None:
            known = self._used[app] = self._cpu.labels(app)
        known.inc(max(cpu_seconds, 0.0))

    def limit_near(self, app: str, limit: str) -> None:
        """See Observer."""
        self._hits.labels(app, limit, "soft").inc()

    def stalled(self, channel: str) -> None:
        """See Observer."""
        self._stalls.labels(channel).inc()

    def expect(self, apps: Iterable[str]) -> None:
        """Apps that are there: what is counted of them begins at 0, so that Prometheus sees the
        first one rise.
        """
        for app in apps:
            for counter in (self._missing, self._fallbacks, self._starts):
                counter.labels(app)
