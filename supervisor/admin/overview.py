"""What the console's overview shows: the last hour in figures, what is wrong, and this host."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import trio
from attrs import asdict, field, frozen
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resources.stores.lease import Lease
from resources.stores.outbox import Waiting

from ..channel_state import ChannelState
from ..config import Config
from ..figures import APP_STEP, GAUGES, HOUR, RECENT, STEP, Figures, Series, Summary
from ..host.cpus import usable_cpus
from ..host.slices import Slices
from ..outcomes import Outcome
from ..runs.dispatcher import Dispatcher
from ..runs.traces import Trace, Traces
from ..sandboxes.pool import Pool
from ..store.disk import Disk
from .bodies import answer, bad
from .health import Check, Health
from .traces import moment, summary

REJECTED = {
    "overloaded": "too many wait (pool.queue), or the client had no credit",
    "unavailable": "the store did not take them",
    "bad_message": "they could not be read",
    "no_app": "the channel has no app",
}
"""What codes of rejections mean; the others are states of the app."""
LOOKED_AT = 50  # notable runs of an app among which its last error is looked for


@frozen(kw_only=True)
class OverviewAdmin:
    """GET /v1/overview, /v1/apps/APP/figures and /v1/host."""

    config: Callable[[], Config]
    figures: Figures
    dispatcher: Dispatcher
    pool: Pool
    traces: Traces
    health: Health
    outboxes: Callable[[], Mapping[str, Waiting]]
    channel_state: Callable[[str], ChannelState]
    disk: Disk
    lease: Lease | None
    look: Callable[[], Awaitable[dict[str, float]]]  # for the gauges
    began: float = field(factory=trio.current_time, init=False)

    def routes(self) -> list[Route]:
        """The requests that it answers."""
        return [
            Route("/v1/overview", self.overview),
            Route("/v1/apps/{app}/figures", self.app),
            Route("/v1/host", self.host),
        ]

    async def overview(self, _: Request) -> Response:
        """The last hour in steps, all together and by app; and all that is wrong, worst first."""
        figures, now = self.figures, trio.current_time()
        rows = figures.whole.rows(now)
        apps, slices = {}, Slices()
        for name in list(self.config().apps):
            apps[name] = self._app(name)
            await slices.rest()
        return answer(
            {
                "now": moment(datetime.now(UTC).timestamp()),
                "step": STEP,
                "series": _columns(rows) | {name: figures.gauge(name) for name in GAUGES},
                "hour": _shown(figures.whole.total(now)),
                "recent": _shown(figures.whole.total(now, RECENT // STEP)),
                "gauges": await self.look(),
                "apps": apps,
                "troubles": await self._troubles(),
            }
        )

    def _app(self, name: str) -> dict[str, Any]:
        now, series = trio.current_time(), self.figures.app(name) or Series(HOUR)
        error = self._last_error(name)
        return {
            "hour": _shown(series.total(now)),
            "recent": _shown(series.total(now, max(RECENT // series.step, 1))),
            "last_error": None if error is None else summary(error),
        }

    def _last_error(self, app: str) -> Trace | None:
        newest = islice(self.traces.newest(app, only_notable=True), LOOKED_AT)
        return next((one for one in newest if one.outcome is not Outcome.OK), None)

    async def app(self, request: Request) -> Response:
        """The last hour of an app in steps."""
        name = request.path_params["app"]
        if name not in self.config().apps:
            raise bad(f"there is no app {name!r}", 404)
        series, now = self.figures.app(name) or Series(APP_STEP), trio.current_time()
        row = {"step": series.step, "series": _columns(series.rows(now))} | self._app(name)
        return answer({"now": moment(datetime.now(UTC).timestamp()), **row})

    async def host(self, _: Request) -> Response:
        """This host: what it has, how it is doing, and which store it works on."""
        config, room = self.config(), self.disk.room
        lease = self.lease
        return answer(
            {
                "name": socket.gethostname(),
                "pid": os.getpid(),
                "uptime": round(trio.current_time() - self.began, 1),
                "cpus": usable_cpus(),
                "load": os.getloadavg()[0],
                "isolation": config.isolation.level,
                "processes_max": config.node.max_processes,
                "loop_lag": self.health.lag(),
                "disk_free": room.free,
                "store": "embedded" if self.health.is_embedded else "shared",
                "mode": config.cluster.mode,
                "lease_held": None if lease is None else lease.is_held,
                "search": self.health.search_problem() or "ok",
            }
        )

    async def _troubles(self) -> list[dict[str, Any]]:
        checks = [_trouble(check) for check in await self.health.checks() if check.problem]
        found = [*checks, *self._unread(), *self._rejected()]
        seen = {one["app"] for one in found if one["what"] == "state"}
        found += [
            one for name in list(self.config().apps) if name not in seen
            for one in self._of_app(name)
        ]  # fmt: skip
        return sorted(found, key=lambda one: ("bad", "warn", "note").index(one["level"]))

    def _unread(self) -> Iterator[dict[str, Any]]:
        """What waits while nobody is connected: seen at once, not only when it is old."""
        for name, one in self.outboxes().items():
            if one.count and name in self.config().channels:
                state = self.channel_state(name)
                if not state.connections:
                    text = f"{one.count} messages wait, and nobody is connected to take them"
                    app = self.config().channels[name].app or None
                    yield {
                        "level": "warn", "what": "unread", "app": app, "channel": name,
                        "text": text,
                    }  # fmt: skip

    def _rejected(self) -> Iterator[dict[str, Any]]:
        """Messages that were not accepted, by channel, with the reasons."""
        by_channel: dict[str, list[str]] = {}
        for (name, code), count in sorted(self.figures.rejections().items()):
            hint = f" ({REJECTED[code]})" if code in REJECTED else ""
            by_channel.setdefault(name, []).append(f"{count} {code}{hint}")
        for name, counts in by_channel.items():
            if name in self.config().channels:
                app = self.config().channels[name].app or None
                text = f"messages were rejected in the last 5 minutes: {', '.join(counts)}"
                yield {
                    "level": "warn", "what": "rejected", "app": app, "channel": name, "text": text,
                }  # fmt: skip

    def _of_app(self, name: str) -> Iterator[dict[str, Any]]:
        """Failed runs of an app that does not count as failing yet; an app that has become slow."""
        series = self.figures.app(name)
        if series is None:
            return
        recent = series.total(trio.current_time(), RECENT // series.step)
        slow = self.config().apps[name].trace.slow
        if recent.p50 is not None and recent.p50 >= slow:
            text = f"half of the runs of the last 5 minutes took {recent.p50:.2f} s or longer"
            text += slow_part(self.traces, name, slow)
            yield {"level": "warn", "what": "slow", "app": name, "channel": None, "text": text}
        if recent.failed:
            error = self._last_error(name)
            why = "" if error is None else f": {error.outcome} {error.detail.split(chr(10))[0]}"
            text = f"{recent.failed} of {recent.runs} runs of the last 5 minutes failed{why}"
            yield {"level": "warn", "what": "failed", "app": name, "channel": None, "text": text}


def slow_part(traces: Traces, app: str, slow: float) -> str:
    """Where the newest slow run of an app spent most of its time, once it had its turn; empty
    if none is kept.
    """
    newest = islice(traces.newest(app, only_notable=True), LOOKED_AT)
    trace = next((one for one in newest if one.total >= slow), None)
    if trace is None:
        return ""
    steps = [(one.seconds or 0.0, f"in {one.name} {one.note}") for one in trace.steps]
    waited = trace.queue + trace.held + trace.boot
    parts = [
        (trace.held, "held back after crashes"),
        (trace.boot, "waiting for a process"),
        (trace.total - waited - sum(seconds for seconds, _ in steps), "in the app itself"),
        *steps,
    ]
    seconds, where = max(parts)
    turn = f"waited {trace.queue:.2f} s for its turn, then " if trace.queue > seconds else ""
    return f"; the newest {turn}spent {seconds:.2f} s {where.rstrip()}"


def _trouble(check: Check) -> dict[str, Any]:
    what, _, channel = check.name.partition(" ")
    is_bad = check.is_fatal or what in {"state", "config"}
    level = "bad" if is_bad else "note" if check.is_note else "warn"
    if what == "dead":
        what, channel = "dead letters", ""
    if what == "kv":
        channel = ""  # it was the account, which the text names
    return {
        "level": level,
        "what": what,
        "app": check.app,
        "channel": channel or None,
        "text": check.problem,
    }


def _shown(one: Summary) -> dict[str, Any]:
    return asdict(one) | {"p50": _rounded(one.p50), "p99": _rounded(one.p99)}


def _columns(rows: list[Summary]) -> dict[str, list[Any]]:
    return {
        "runs": [one.runs for one in rows],
        "failed": [one.failed for one in rows],
        "rejected": [one.rejected for one in rows],
        "p50": [_rounded(one.p50) for one in rows],
        "p99": [_rounded(one.p99) for one in rows],
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 5)
