"""Traces and recordings of ended runs on the admin port."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..config.model import App
from ..runs.history import History
from ..runs.traces import Step, Trace
from .bodies import answer, bad, encoded, list_answer, number_in

LIST_MAX = 1000
NAMED_MAX = 20  # apps in a hint


@frozen
class RunsAdmin:
    """GET /v1/traces, /v1/traces/{message} and /v1/recordings/{message}."""

    history: History
    apps: Callable[[], Mapping[str, App]]

    def routes(self) -> list[Route]:
        """The requests that it answers."""
        return [
            Route("/v1/traces", self.traces),
            Route("/v1/traces/{message:path}", self.trace),
            Route("/v1/recordings/{message:path}", self.recording),
        ]

    async def traces(self, request: Request) -> Response:
        """The newest runs of `app` or of all apps, newest first; with `notable=1` only those that
        failed or were slow; at most `limit` (50 by default).
        """
        asked = request.query_params
        app = self._app(request)
        limit = number_in(request, "limit", 50, 1, LIST_MAX)
        newest = self.history.traces.newest(app, only_notable=asked.get("notable") in {"1", "true"})
        return list_answer("traces", await encoded(map(summary, list(islice(newest, limit)))))

    async def trace(self, request: Request) -> Response:
        """The timeline of the last run of a message or event."""
        message = request.path_params["message"]
        trace = self.history.traces.find(message)
        if trace is None:
            raise bad(_missing(message), 404)
        return answer(in_full(trace))

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
        "began": datetime.fromtimestamp(trace.began, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
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
