"""The spans of a run, made with OpenTelemetry's SDK.

Names and attributes follow its semantic conventions where they have one (messaging.*, http.*,
error.type, exception.*); what only jsbox knows is below `jsbox.`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from attrs import define
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from .words import Command, Run

WELL = ("ok", "shutdown")  # outcomes that are no error: a run at a shutdown is run again
SHOWN = 0.0005  # seconds; shorter phases before the run get no span
SECOND = 1_000_000_000  # nanoseconds
TEXT_MAX = 200  # characters of a status


@define(eq=False)
class Spans:
    """Makes the spans of runs."""

    _resource: Resource
    _scope: InstrumentationScope
    _sampler: Sampler
    _ids: RandomIdGenerator

    def of(self, run: Run) -> list[ReadableSpan]:
        """All spans of a run, a trace of its own; none if the sampler does not want it."""
        trace = self._ids.generate_trace_id()
        name, attributes = f"process {run.channel or run.app}", _attributes(run)
        kind = SpanKind.CONSUMER
        decision = self._sampler.should_sample(None, trace, name, kind, attributes)
        if not decision.decision.is_sampled():
            return []
        end = int(run.ended * SECOND)
        start = end - int(run.total * SECOND)
        root = self._span(
            name,
            self._context(trace),
            None,
            (start, end),
            kind=kind,
            attributes=attributes | dict(decision.attributes or {}),
            status=_status(run),
            events=_events(run, end),
        )
        return [root, *self._phases(run, root.context, start, end)]

    def _phases(
        self, run: Run, parent: SpanContext, start: int, end: int
    ) -> Iterator[ReadableSpan]:
        """What the run waited for, then the run itself with its commands."""
        at = start
        for name in ("queue", "held", "boot"):
            seconds = getattr(run, name)
            until = min(at + int(seconds * SECOND), end)
            if seconds >= SHOWN:
                yield self._span(name, self._context(parent.trace_id), parent, (at, until))
            at = until
        if not run.pid:
            return  # no process took it
        within = self._context(parent.trace_id)
        yield self._span("run", within, parent, (at, end), attributes={"jsbox.pid": run.pid})
        for command in run.commands:
            yield self._command(command, within, at, end)

    def _command(
        self, command: Command, parent: SpanContext, run_at: int, end: int
    ) -> ReadableSpan:
        began = min(run_at + int(command.at * SECOND), end)
        until = end if command.seconds is None else began + int(command.seconds * SECOND)
        kind, name, attributes = _kind(command)
        status = Status(StatusCode.UNSET)
        if command.outcome != "ok":
            attributes["error.type"] = "refused" if command.outcome else "unanswered"
            # No reason: it may name an address or a key.
            status = Status(StatusCode.ERROR, None if command.outcome else "the run ended before")
        return self._span(
            name,
            self._context(parent.trace_id),
            parent,
            (began, until),
            kind=kind,
            attributes=attributes,
            status=status,
        )

    def _context(self, trace: int) -> SpanContext:
        return SpanContext(
            trace,
            self._ids.generate_span_id(),
            is_remote=False,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        )

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        times: tuple[int, int],
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        status: Status | None = None,
        events: tuple[Event, ...] = (),
    ) -> ReadableSpan:
        return ReadableSpan(
            name,
            context,
            parent,
            self._resource,
            attributes or {},
            events,
            kind=kind,
            status=status or Status(StatusCode.UNSET),
            start_time=times[0],
            end_time=times[1],
            instrumentation_scope=self._scope,
        )


def _attributes(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = {
        "messaging.system": "jsbox",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": run.channel,
        "messaging.message.id": run.id,
        "jsbox.app": run.app,
        "jsbox.account": run.account,
        "jsbox.kind": run.kind,
        "jsbox.outcome": run.outcome,
    }
    if run.left_out:
        found["jsbox.commands_left_out"] = run.left_out
    if run.outcome not in WELL:
        found["error.type"] = run.outcome
    return found


def _status(run: Run) -> Status:
    if run.outcome in WELL:
        return Status(StatusCode.OK)
    first = run.detail.splitlines()[0] if run.detail else ""
    return Status(StatusCode.ERROR, f"{run.outcome}: {first}"[:TEXT_MAX].removesuffix(": "))


def _events(run: Run, end: int) -> tuple[Event, ...]:
    """What the app threw."""
    if run.outcome != "app_error" or not run.detail:
        return ()
    lines = run.detail.splitlines()
    attributes = {
        "exception.message": lines[0],
        "exception.stacktrace": run.detail,
    }
    return (Event("exception", attributes, end),)


def _kind(command: Command) -> tuple[SpanKind, str, dict[str, Any]]:
    """The kind, name and attributes of a command's span."""
    resource, _, verb = command.name.partition(".")
    attributes: dict[str, Any] = {"jsbox.command": command.name}
    if resource == "http":
        attributes |= {"http.request.method": verb.upper()}
        if command.url:
            attributes |= {"url.full": command.url, **_server(command.url)}
        return SpanKind.CLIENT, verb.upper(), attributes
    if resource == "outbound":
        attributes |= {
            "messaging.system": "jsbox",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
        }
        return SpanKind.PRODUCER, command.name, attributes
    return SpanKind.INTERNAL, command.name, attributes


def _server(url: str) -> dict[str, Any]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return {}  # the app's URL was none, and the command's outcome says so
    ports = {"http": 80, "https": 443}
    found = {"server.address": parts.hostname, "server.port": port or ports.get(parts.scheme)}
    return {name: value for name, value in found.items() if value}
