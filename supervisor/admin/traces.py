"""Traces and recordings of ended runs on the admin port."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import islice
from typing import Any

from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..cluster.asking import Reply
from ..config.model import App
from ..config.units import parse_duration
from ..outcomes import Outcome
from ..runs.history import History
from ..runs.traces import Step, Trace
from .bodies import TIME, answer, bad, encoded, list_answer, number_in, parse_time
from .elsewhere import ONE_HOST, Elsewhere

LIST_MAX = 1000  # runs in one answer
LOOKED_AT_MAX = 5000  # runs that one request looks at; the answer's cursor goes on from there
NUMBER_MAX = 1 << 53  # of a trace, among all that were kept
FAILED = "failed"  # of the filter `outcome`
NAMED_MAX = 20  # apps in a hint


@frozen
class RunsAdmin:
    """GET /v1/traces, /v1/traces/{message} and /v1/recordings/{message}."""

    history: History
    apps: Callable[[], Mapping[str, App]]
    elsewhere: Elsewhere

    def routes(self) -> list[Route]:
        """The requests that it answers."""
        return [
            Route("/v1/traces", self.traces),
            Route("/v1/traces/{message:path}", self.trace),
            Route("/v1/recordings/{message:path}", self.recording),
        ]

    async def traces(self, request: Request) -> Response:
        """The newest runs of `app` or of all apps, newest first; with `notable=1` only those that
        failed or were slow; at most `limit` (50 by default). `cursor` begins the next page; an
        answer has one until everything that is kept was looked at.
        """
        asked = request.query_params
        app, wanted = self._app(request), _wanted(request)
        limit = number_in(request, "limit", 50, 1, LIST_MAX)
        before = number_in(request, "cursor", NUMBER_MAX, 1, NUMBER_MAX)
        is_notable = asked.get("notable") in {"1", "true"}
        newest = self.history.traces.newest(app, only_notable=is_notable, before=before)
        looked_at = list(islice(newest, LOOKED_AT_MAX))
        found = list(islice(filter(wanted.takes, looked_at), limit))
        last = found[-1] if len(found) == limit else looked_at[-1] if looked_at else None
        is_over = last is None or (
            len(looked_at) < LOOKED_AT_MAX and last.number == looked_at[-1].number
        )
        cursor = None if last is None or is_over else str(last.number)
        return list_answer("traces", await encoded(map(summary, found)), cursor=cursor)

    async def trace(self, request: Request) -> Response:
        """The timeline of the last run of a message or event; `host`: the server that ran it, if
        several share the work.
        """
        message = request.path_params["message"]
        trace = self.history.traces.find(message)
        if trace is not None:
            return answer({"host": self.elsewhere.name} | in_full(trace))
        found = {} if ONE_HOST in request.scope else await self.elsewhere.ask_others(request.scope)
        silent = [reply for reply in found.values() if isinstance(reply, str)]
        for reply in found.values():
            if isinstance(reply, Reply) and reply.status == HTTPStatus.OK:
                return Response(reply.body, media_type=reply.kind)
        raise bad("; ".join([_missing(message), *silent]), 404)

    async def recording(self, request: Request) -> Response:
        """The recording of a message or event, of any app, or of `app`."""
        message, app, apps = request.path_params["message"], self._app(request), self.apps()
        asked = apps.values() if app is None else (apps[app],)
        senders = [(one.account, one.name) for one in asked]
        text = await self.history.recordings.find(senders, message)
        if text is not None:
            return Response(text, media_type="application/json")
        wanted = [one.name for one in apps.values() if one.record][:NAMED_MAX]
        hint = "no app has record = true"
        if wanted:
            hint = f"the runs of {', '.join(wanted)} are recorded"
        raise bad(f"there is no recording of {message!r}; {hint}", 404)

    def _app(self, request: Request) -> str | None:
        app = request.query_params.get("app")
        if app is not None and app not in self.apps():
            raise bad(f"there is no app {app!r}", 404)
        return app


@frozen
class Wanted:
    """Which runs are asked for.

    Attributes:
        outcome: With this outcome; `failed`: with any but ok; empty: with any.
        user: Of this user.
        since, until: That began in this time, in seconds since 1970.
        longer: That took at least this many seconds, with their waiting.
    """

    outcome: str = ""
    user: str = ""
    since: float = 0.0
    until: float = math.inf
    longer: float = 0.0

    def takes(self, trace: Trace) -> bool:
        """Whether a run is asked for."""
        outcome = trace.outcome
        return (
            (not self.outcome or outcome == self.outcome or self._is_failed(outcome))
            and (not self.user or trace.user == self.user)
            and self.since <= trace.began <= self.until
            and trace.total >= self.longer
        )

    def _is_failed(self, outcome: Outcome | None) -> bool:
        return self.outcome == FAILED and outcome is not Outcome.OK


def _wanted(request: Request) -> Wanted:
    asked = request.query_params
    outcome, longer = asked.get("outcome", ""), asked.get("longer", "")
    if outcome and outcome not in {FAILED, *Outcome}:
        raise bad(f"outcome: expected {', '.join((FAILED, *Outcome))}")
    try:
        seconds = parse_duration(longer) if longer else 0.0
    except ValueError as error:
        raise bad(f"longer: {error}") from error
    return Wanted(
        outcome=outcome,
        user=asked.get("user", ""),
        since=_time(request, "since", 0.0),
        until=_time(request, "until", math.inf),
        longer=seconds,
    )


def _time(request: Request, name: str, default: float) -> float:
    text = request.query_params.get(name, "")
    return parse_time(text, name).timestamp() if text else default


def moment(seconds: float) -> str:
    """A time (seconds since 1970), as answers have it."""
    return datetime.fromtimestamp(seconds, UTC).strftime(TIME)


def summary(trace: Trace) -> dict[str, Any]:
    """A trace without its steps; times in milliseconds."""
    run = trace.total - trace.queue - trace.held - trace.boot
    parts = {"queue": trace.queue, "held": trace.held, "boot": trace.boot, "run": run}
    parts["total"] = trace.total
    return {
        "message": trace.id,
        "kind": trace.kind,
        "app": trace.app,
        "channel": trace.channel,
        "user": trace.user,
        "began": moment(trace.began),
        "outcome": trace.outcome,
        "detail": trace.detail,
        "pid": trace.pid,
        "ms": {name: round(seconds * 1000, 2) for name, seconds in parts.items()},
        "commands": len(trace.steps) + trace.left_out,
    }


def in_full(trace: Trace) -> dict[str, Any]:
    """A trace with its steps; a step's `ms` is None if it had no reply when the run ended."""
    return summary(trace) | {
        "steps": [_step(step) for step in trace.steps],
        "left_out": trace.left_out,
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "at_ms": round(step.at * 1000, 2),
        "name": step.name,
        "note": step.note,
        "ms": None if step.seconds is None else round(step.seconds * 1000, 2),
        "outcome": step.outcome,
    }


def _missing(message: str) -> str:
    kept = "only each app's newest runs since the last start are kept ([defaults.trace])"
    return f"there is no trace of {message!r}: {kept}"
