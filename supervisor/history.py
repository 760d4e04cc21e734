"""What is kept of a run when it has ended: its trace, and where the operator wants that, a recording."""

from __future__ import annotations

import hashlib

from attrs import define, field

from resources.stores.journal import Entry
from resources.stores.recordings import Exchange, Recording, Recordings

from .config.model import App
from .traces import STEPS_MAX, Trace, Traces


@define(eq=False)
class History:
    """Of all apps."""

    traces: Traces
    recordings: Recordings
    _sources: dict[str, tuple[str, str]] = field(factory=dict, init=False)  # app to generation and digest of its text

    def begin(self, entry: Entry, app: App) -> Trace:
        """A run begins."""
        kept = app.trace
        room = app.limits.commands if app.record else STEPS_MAX if kept.runs or kept.notable else 0
        return Trace(entry.app, entry.channel, entry.kind, entry.id, room, app.record)

    def end(self, trace: Trace, app: App) -> None:
        """It has ended, and `trace` says how."""
        if trace.records:
            self.recordings.keep_soon(self._recording(trace, app), app.trace.recorded, app.trace.recorded_for)
        trace.forget_values()
        self.traces.keep(trace, app.trace)

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
            source=self._source(app),
            exchanges=[Exchange(step.name, step.at, step.asked or {}, step.got, step.seconds) for step in trace.steps],
            left_out=trace.left_out,
        )

    def _source(self, app: App) -> str:
        known = self._sources.get(app.name)
        if known is None or known[0] != app.generation:
            digest = hashlib.sha256(app.source.encode()).hexdigest()
            known = self._sources[app.name] = app.generation, digest
        return known[1]
