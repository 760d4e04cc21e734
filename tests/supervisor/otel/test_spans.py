"""The spans of a run: names, times, attributes and status."""

from __future__ import annotations

import msgspec
import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind, StatusCode

from supervisor.otel.spans import SECOND, Spans
from supervisor.otel.words import Command, Run, traces_url

RUN = Run(
    app="survey",
    account="acme",
    channel="phone",
    kind="message",
    id="m1",
    ended=1000.0,
    queue=1.0,
    held=0.0,
    boot=0.5,
    total=4.0,
    pid=77,
    outcome="ok",
    detail="",
    commands=[
        Command("kv.get", 0.1, 0.2, "ok", ""),
        Command("http.get", 0.5, 1.0, "ok", "https://hub.example.org:8443"),
        Command("outbound.reply_to", 1.6, 0.1, "refused", ""),
        Command("kv.set", 1.9, None, "", ""),
    ],
    left_out=0,
)


def made(run: Run = RUN, sampler: Sampler = ALWAYS_ON) -> list[ReadableSpan]:
    spans = Spans(Resource({}), InstrumentationScope("jsbox"), sampler, RandomIdGenerator())
    return spans.of(run)


def test_one_trace_a_run_with_its_phases_and_commands() -> None:
    spans = made()
    assert len({span.context.trace_id for span in spans}) == 1
    times = {
        span.name: (span.start_time / SECOND, span.end_time / SECOND) for span in spans
    }  # one second is exact in a float
    assert times.pop("GET") == pytest.approx((998.0, 999.0))
    assert times.pop("kv.get") == pytest.approx((997.6, 997.8))
    assert times.pop("outbound.reply_to") == pytest.approx((999.1, 999.2))
    assert times.pop("kv.set") == pytest.approx((999.4, 1000.0)), "until the end of the run"
    assert times == {
        "process phone": (996.0, 1000.0),
        "queue": (996.0, 997.0),
        "boot": (997.0, 997.5),
        "run": (997.5, 1000.0),
    }
    by_name = {span.name: span for span in spans}
    root, run = by_name["process phone"], by_name["run"]
    assert root.parent is None
    assert run.parent == by_name["queue"].parent == root.context
    assert by_name["kv.get"].parent == by_name["GET"].parent == run.context


def test_names_of_the_semantic_conventions() -> None:
    by_name = {span.name: span for span in made()}
    root, get = by_name["process phone"], by_name["GET"]
    assert root.kind is SpanKind.CONSUMER
    assert root.status.status_code is StatusCode.OK
    assert root.attributes == {
        "messaging.system": "jsbox",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "phone",
        "messaging.message.id": "m1",
        "jsbox.app": "survey",
        "jsbox.account": "acme",
        "jsbox.kind": "message",
        "jsbox.outcome": "ok",
    }
    assert get.kind is SpanKind.CLIENT
    assert get.attributes == {
        "jsbox.command": "http.get",
        "http.request.method": "GET",
        "url.full": "https://hub.example.org:8443",
        "server.address": "hub.example.org",
        "server.port": 8443,
    }
    sent, cut = by_name["outbound.reply_to"], by_name["kv.set"]
    assert sent.kind is SpanKind.PRODUCER
    assert (sent.status.status_code, sent.status.description) == (StatusCode.ERROR, None)
    assert (sent.attributes or {})["error.type"] == "refused"
    assert (cut.attributes or {})["error.type"] == "unanswered"


def test_a_run_that_failed_says_how() -> None:
    detail = "Error: no such state\n    at survey.js:3:5"
    failed = msgspec.structs.replace(RUN, outcome="app_error", detail=detail)
    root = made(failed)[0]
    assert root.status.status_code is StatusCode.ERROR
    assert root.status.description == "app_error: Error: no such state"
    assert (root.attributes or {})["error.type"] == "app_error"
    (event,) = root.events
    assert event.name == "exception"
    assert (event.attributes or {})["exception.stacktrace"] == detail
    wall = made(msgspec.structs.replace(RUN, outcome="wall", detail=""))[0]
    assert (wall.status.description, wall.events) == ("wall", ())


def test_a_run_that_no_process_took_has_only_its_waiting() -> None:
    held = msgspec.structs.replace(
        RUN, pid=0, outcome="boot", held=2.0, boot=1.0, commands=[], detail="not ready"
    )
    assert [span.name for span in made(held)] == ["process phone", "queue", "held", "boot"]


@pytest.mark.parametrize("url", ["http://[", "http://h:99999/", "\x00", "//"])
def test_what_an_app_took_for_a_url_harms_nothing(url: str) -> None:
    odd = msgspec.structs.replace(RUN, commands=[Command("http.get", 0.1, 0.1, "no URL", url)])
    span = made(odd)[-1]
    assert (span.attributes or {})["url.full"] == url


def test_the_sampler_decides_for_the_whole_run() -> None:
    assert made(sampler=ALWAYS_OFF) == []


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://c:4318", "http://c:4318/v1/traces"),
        ("http://c:4318/", "http://c:4318/v1/traces"),
        ("https://c/otlp", "https://c/otlp/v1/traces"),
        ("https://c/v1/traces", "https://c/v1/traces"),
    ],
)
def test_the_path_of_traces_is_added_once(endpoint: str, url: str) -> None:
    assert traces_url(endpoint) == url
