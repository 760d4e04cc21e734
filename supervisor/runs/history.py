"""What is kept of a run after its end: its trace and, if the operator wants one, a recording. Its
trace is also sent to a collector, if there is one.
"""

from __future__ import annotations

import logging
from typing import Protocol

from attrs import frozen

from resources.stores.journal import Entry
from resources.stores.recordings import Exchange, Recording, Recordings

from ..config.model import App
from .traces import STEPS_MAX, USER_MAX, Trace, Traces

log = logging.getLogger(__name__)


class Exports(Protocol):
    """Where traces are sent to, if anywhere."""

    @property
    def is_on(self) -> bool:
        """Whether traces are wanted."""

    def take(self, trace: Trace, app: App) -> None:
        """Take the trace of a run that has ended. Must not wait and must not raise."""


@frozen
class History:
    """The traces and recordings of all apps."""

    traces: Traces
    recordings: Recordings
    exports: Exports

    def begin(self, entry: Entry, app: App) -> Trace:
        """Begin the trace of a run."""
        kept = app.trace
        room = STEPS_MAX if kept.runs or kept.notable or self.exports.is_on else 0
        if app.record:
            room = app.limits.commands
        user = (
            str(entry.payload.get("from_addr") or "")[:USER_MAX] if entry.kind == "message" else ""
        )
        return Trace(entry.app, entry.channel, entry.kind, entry.id, room, app.record, user)

    def end(self, trace: Trace, app: App) -> None:
        """Keep the trace of a run that has ended; record the run if its app is recorded."""
        if trace.is_too_large:
            log.warning(
                "app %s: %s %s is not recorded: its commands and replies are too large",
                app.name,
                trace.kind,
                trace.id,
            )
        elif trace.records:
            self.recordings.keep_soon(
                self._recording(trace, app), app.trace.recorded, app.trace.recorded_for
            )
        trace.forget_values()
        self.traces.keep(trace, app.trace)
        self.exports.take(trace, app)

    def _recording(self, trace: Trace, app: App) -> Recording:
        return Recording(
            account=app.account,
            app=trace.app,
            channel=trace.channel,
            kind=trace.kind,
            id=trace.id,
            payload=trace.payload,
            began=trace.began,
            outcome=str(trace.outcome or ""),
            detail=trace.detail,
            source=app.digest,
            exchanges=[
                Exchange(step.name, step.at, step.asked or {}, step.got, step.seconds)
                for step in trace.steps
            ],
            left_out=trace.left_out,
        )
