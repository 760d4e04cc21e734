"""The admin port's view of runs that have ended: traces and recordings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from attrs import frozen
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .config.model import App
from .history import History
from .traces import Step, Trace

LIST_MAX = 1000


@frozen
class RunsAdmin:
    """GET /v1/traces, /v1/traces/{message} and /v1/recordings/{message}."""

    history: History
    apps: Callable[[], Mapping[str, App]]

    def routes(self) -> list[Route]:
        """For the admin port."""
        return [
            Route("/v1/traces", self.traces),
            Route("/v1/traces/{message:path}", self.trace),
            Route("/v1/recordings/{message:path}", self.recording),
        ]

    async def traces(self, request: Request) -> Response:
        """The newest runs, newest first: of `app`, or of all; with `notable=1` those that failed or were slow; `limit`, 50 by default."""
        asked = request.query_params
        app = asked.get("app")
        if app is not None and app not in self.apps():
            return JSONResponse({"error": f"there is no app {app!r}"}, 404)
        limit = asked.get("limit", "50")
        if not limit.isdecimal() or not 1 <= int(limit) <= LIST_MAX:
            return JSONResponse({"error": f"limit: expected 1 to {LIST_MAX}"}, 400)
        newest = self.history.traces.newest(app, only_notable=asked.get("notable") in {"1", "true"})
        return JSONResponse({"traces": [summary(trace) for trace in islice(newest, int(limit))]})

    async def trace(self, request: Request) -> Response:
        """The time line of the last run of a message or event."""
        message = request.path_params["message"]
        trace = self.history.traces.find(message)
        if trace is None:
            return JSONResponse({"error": _missing(message)}, 404)
        return JSONResponse(in_full(trace))

    async def recording(self, request: Request) -> Response:
        """The recording of a message or event, of any app, or of `app`."""
        message, app = request.path_params["message"], request.query_params.get("app")
        apps = self.apps()
        if app is not None and app not in apps:
            return JSONResponse({"error": f"there is no app {app!r}"}, 404)
        asked = apps.values() if app is None else (apps[app],)
        text = await self.history.recordings.find([(one.account, one.name) for one in asked], message)
        if text is not None:
            return Response(text, media_type="application/json")
        wanted = [one.name for one in apps.values() if one.record]
        hint = f"recorded are the runs of {', '.join(wanted)}" if wanted else "no app has record = true"
        return JSONResponse({"error": f"there is no recording of {message!r}; {hint}"}, 404)


def summary(trace: Trace) -> dict[str, Any]:
    """A trace without its steps; times in milliseconds."""
    run = trace.total - trace.queue - trace.boot
    parts = {"queue": trace.queue, "boot": trace.boot, "run": run, "total": trace.total}
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
    """A trace with its steps; `ms` of a step is None where it had no reply when the run ended."""
    return summary(trace) | {"steps": [_step(step) for step in trace.steps], "left_out": trace.left_out}


def _step(step: Step) -> dict[str, Any]:
    return {
        "at_ms": round(step.at * 1000, 2),
        "name": step.name,
        "note": step.note,
        "ms": None if step.seconds is None else round(step.seconds * 1000, 2),
        "outcome": step.outcome,
    }


def _missing(message: str) -> str:
    return f"there is no trace of {message!r}: the newest runs of each app are kept ([defaults.trace] says how many), since the last start"
