"""The exporter with its process and a collector: one that takes what it gets, one that is gone,
refuses, lies, or never ends its answer. No run ever waits for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import trio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from resources.fence import tally
from supervisor.config.model import App
from supervisor.otel import exporter as module
from supervisor.otel.exporter import Exporter, open_exporter
from supervisor.outcomes import Outcome
from supervisor.runs.traces import STEPS_MAX, Trace
from supervisor.sandboxes.protocol import ConsoleLine, Request

from ...gateway_client import PATIENCE
from ...otlp import attributes, receiver, reply, take_all
from ...programs import free_ports

APP = App(account="acme", javascript=Path("survey.js"), name="survey")
SECRET = "my name is Thandi"


def ended(name: str = "m1", outcome: Outcome = Outcome.OK, steps: int = 1) -> Trace:
    trace = Trace("survey", "phone", "message", name, STEPS_MAX, records=False, user="+27821")
    trace.start(os.getpid())
    url = "https://ann:pass@hub.example.org/v1?token=t0"
    step = trace.begin(Request("http.get", "1", {"url": url}))
    assert step is not None
    trace.end(step, {"success": True})
    trace.begin(ConsoleLine(20, SECRET))
    for number in range(steps):
        logged = trace.begin(Request("log.info", str(number), {"msg": SECRET}))
        assert logged is not None
        trace.end(logged, {"success": False, "reason": f"not at {url}"})
    trace.outcome, trace.total = outcome, 0.25
    trace.payload = {"content": SECRET}
    trace.forget_values()
    return trace


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.01)


@asynccontextmanager
async def exporting(endpoint: str) -> AsyncIterator[Exporter]:
    """An exporter that sends at once."""
    async with open_exporter(endpoint) as exporter:
        exporter._is_hurried = True
        yield exporter


async def test_a_collector_gets_the_runs_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc")
    monkeypatch.setattr(module, "FLUSH_SECONDS", PATIENCE)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    with receiver() as collector:
        async with exporting(collector.url) as exporter:
            for number in range(50):
                exporter.take(ended(f"m{number}"), APP)
            await until(lambda: exporter.exported > 0)
            exporter.take(ended("the last, which is sent at the end"), APP)
        assert exporter.dropped.total() == 0
        assert exporter.problem == ""
    path, headers = collector.heads[0]
    assert (path, headers["authorization"]) == ("/v1/traces", "Bearer abc")
    found = collector.with_resources()
    assert len(found) == exporter.exported
    of, _ = found[0]
    assert of["service.name"] == "jsbox"
    assert of["deployment.environment.name"] == "test"
    roots = [span for _, span in found if not span.parent_span_id]
    assert {attributes(span)["messaging.message.id"] for span in roots} == {
        *(f"m{number}" for number in range(50)),
        "the last, which is sent at the end",
    }
    get = next(span for _, span in found if span.name == "GET")
    assert attributes(get)["url.full"] == "https://hub.example.org"
    sent = b"".join(collector.bodies)
    for hidden in (SECRET, "ann:pass", "token=", "+27821"):
        assert hidden.encode() not in sent


def partial(request: BaseHTTPRequestHandler) -> None:
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 2
    answer.partial_success.error_message = "too \x1b[31mold"
    reply(request, 200, answer.SerializeToString())


JSON = "application/json"
PART = b'{"partialSuccess": {"rejectedSpans": "2", "errorMessage": "too late"}}'
BAD = {
    "refuses": (lambda r: reply(r, 400, b"no"), "failed", "400"),
    "redirects": (lambda r: reply(r, 302, Location="/x"), "failed", "it redirects (status 302)"),
    "redirects to nowhere": (lambda r: reply(r, 301), "failed", "it redirects (status 301)"),
    "offers a choice": (lambda r: reply(r, 300), "failed", "(status 300)"),
    "says not modified": (lambda r: reply(r, 304), "failed", "(status 304)"),
    "takes a part, in JSON": (lambda r: reply(r, 200, PART, JSON), "rejected", "too late"),
    "answers nonsense": (lambda r: reply(r, 200, b"{", JSON), "failed", "is no application/json"),
    "says too much": (lambda r: reply(r, 200, b" " * 65537, JSON), "failed", "more than 65536"),
    "is a web page": (lambda r: reply(r, 200, b"<p>", "text/html"), "failed", "no OTLP endpoint"),
    "takes a part": (partial, "rejected", "too \\x1b[31mold"),
    "lies": (lambda r: reply(r, 200, b"\xff" * 9), "failed", "is no application/x-protobuf"),
}


async def test_a_collector_that_takes_nothing_is_named_and_its_spans_are_counted() -> None:
    with receiver() as collector:
        async with exporting(collector.url.replace("//", "//ann:secret@")) as exporter:
            for case, (answer, reason, said) in BAD.items():
                collector.answer = answer
                await dropping(exporter, reason)
                assert said in exporter.problem, case
                assert "secret" not in exporter.problem, case
            exported = exporter.exported
            collector.answer = take_all
            exporter.take(ended(), APP)
            await until(lambda: exporter.exported > exported)
            assert exporter.problem == "", "it is well again"


async def dropping(exporter: Exporter, reason: str) -> None:
    """Have a run exported that cannot be."""
    before = exporter.dropped[reason]
    exporter.take(ended(), APP)
    await until(lambda: exporter.dropped[reason] > before and not exporter._sending)


@pytest.mark.slow
async def test_an_answer_that_never_ends_costs_its_batch_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process is killed, another takes the next batch."""
    monkeypatch.setattr(module, "BATCH_SECONDS", 1.0)
    monkeypatch.setattr(module, "BACKOFF", (0.01, 0.01))
    with receiver() as collector:

        def never(request: BaseHTTPRequestHandler) -> None:
            collector.answer = take_all  # the next request
            request.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            while not collector.over.wait(0.1):
                request.wfile.write(b"x")

        collector.answer = never
        async with exporting(collector.url) as exporter:
            exporter.take(ended("lost"), APP)
            await until(lambda: "does not end within 1 s" in exporter.problem)
            assert exporter.dropped["failed"] > 0
            exporter.take(ended("kept"), APP)
            await until(lambda: exporter.exported > 0)
    assert exporter.problem == ""


async def test_what_waits_is_bounded() -> None:
    """In bytes; the newest are dropped, and counted."""
    exporter, large = Exporter("http://127.0.0.1:9"), ended(steps=200)
    while not exporter.dropped["queue"]:
        exporter.take(large, APP)
    assert module.QUEUE_BYTES // 2 < exporter._bytes <= module.QUEUE_BYTES
    dropped = exporter.dropped["queue"]
    exporter.take(large, APP)
    assert exporter.dropped["queue"] == 2 * dropped > 200


@pytest.mark.slow
async def test_a_collector_that_is_gone_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK tries for ten seconds; then that batch is lost, and the next one is tried."""
    (port,) = free_ports(1)
    async with exporting(f"http://127.0.0.1:{port}") as exporter:
        await dropping(exporter, "failed")
        assert "refused" in exporter.problem
        failed = exporter.dropped["failed"]
        with receiver(port):
            exporter.take(ended(), APP)
            await until(lambda: exporter.exported > 0)
            assert exporter.problem == ""
        monkeypatch.setattr(module, "FLUSH_SECONDS", 0.2)
        exporter.take(ended(), APP)  # it is gone again: the end does not wait for the SDK's 10 s
        exported = exporter.exported
    assert exporter.exported == exported
    assert exporter.dropped["failed"] == failed, "cut off before it was given up"


@pytest.mark.slow
async def test_another_endpoint_is_used_from_the_next_batch_on() -> None:
    with receiver() as first, receiver() as second:
        async with exporting("") as exporter:
            exporter.take(ended("nowhere"), APP)
            for collector in (first, second):
                exporter.follow(collector.url)
                exporter.take(ended("m"), APP)
                before = exporter.exported
                await until(lambda before=before: exporter.exported > before)
            exporter.follow("")
            exporter.take(ended("nowhere"), APP)
        for collector in (first, second):
            roots = [span for span in collector.spans if not span.parent_span_id]
            assert [attributes(span)["messaging.message.id"] for span in roots] == ["m"]


CHATTER = """
import sys
sys.stdin.readline(); print('{}', flush=True)
sys.stdin.readline(); print(%s, flush=True); sys.stdin.readline()
"""


@pytest.mark.parametrize("said", ["'x' * 100_000", '\'{"exported": "many"}\''])
async def test_a_process_that_speaks_nonsense_is_replaced(
    said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "BACKOFF", (0.01, 0.01))
    program = tmp_path / "chatter.py"
    program.write_text(CHATTER % said)
    before = tally["otel"]
    async with trio.open_nursery() as nursery:
        exporter = Exporter("http://127.0.0.1:9", argv=(sys.executable, str(program)))
        exporter._is_hurried = True
        nursery.start_soon(exporter.run)
        for _ in range(2):
            await dropping(exporter, "failed")
        nursery.cancel_scope.cancel()
    assert "the exporting process ended" in exporter.problem
    assert tally["otel"] == before, "an error that is expected"
