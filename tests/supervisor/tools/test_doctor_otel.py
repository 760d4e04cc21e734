"""`jsbox doctor` on OpenTelemetry's collector: what it says of it, and what it sends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from supervisor.otel import exporter
from supervisor.tools.doctor_otel import check_collector

from ...otlp import receiver, reply
from ...programs import free_ports


async def test_a_collector_that_takes_a_request_without_spans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the service's token; the endpoint's password is not shown."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token=abc")
    with receiver() as collector:
        check = await check_collector(collector.url.replace("//", "//ann:hush@"))
        assert (check.status, check.text) == ("ok", f"{collector.url} takes them")
        ((path, headers),) = collector.heads
        assert (path, headers["x-token"]) == ("/v1/traces", "abc")
        (body,) = collector.bodies
        assert not ExportTraceServiceRequest.FromString(body).resource_spans


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda r: reply(r, 401, b"who are you"), "401"),
        (lambda r: reply(r, 200, b"<p>", "text/html"), "no OTLP endpoint"),
    ],
)
async def test_what_takes_none(answer: Callable[[BaseHTTPRequestHandler], None], said: str) -> None:
    with receiver() as collector:
        collector.answer = answer
        check = await check_collector(collector.url)
    assert (check.status, said in check.text) == ("failed", True), check
    assert check.text.startswith(f"{collector.url} takes none: ")
    assert "otel.endpoint" in check.remedy


@pytest.mark.slow
async def test_a_collector_that_is_gone() -> None:
    """The SDK tries for three seconds."""
    (port,) = free_ports(1)
    check = await check_collector(f"http://ann:hush@127.0.0.1:{port}")
    assert (check.status, "refused" in check.text) == ("failed", True), check
    assert "hush" not in check.text


async def test_a_process_that_cannot_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text("raise SystemExit('no SDK here')")
    monkeypatch.setattr(exporter, "ARGV", (sys.executable, str(tmp_path / "ends.py")))
    check = await check_collector("http://127.0.0.1:9")
    assert (check.status, "no SDK here" in check.text) == ("failed", True), check


async def test_the_sdk_is_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    check = await check_collector("http://127.0.0.1:9")
    assert (check.status, "OTEL_SDK_DISABLED is true" in check.text) == ("note", True)
