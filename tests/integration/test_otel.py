"""A whole service with a collector: one trace a run, whatever its end. A collector that never
answers costs no user anything, and the service ends in time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx2 as httpx
import pytest
import trio
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from supervisor.otel import exporter as module

from ..gateway_client import PATIENCE, connect
from ..otlp import attributes, receiver
from ..service import Folder, running

pytestmark = pytest.mark.slow

APP = """
api.on_inbound_message = function (command) {
    if (command.msg.content === 'throw') throw new Error('broken on purpose');
    api.request('kv.set', {key: command.msg.from_addr, value: 1}, function (reply) {
        api.request('outbound.reply_to', {content: 'hi', in_reply_to: command.msg.message_id},
            function () { api.done(); });
    });
};
"""


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.05)


async def test_each_run_is_a_trace(tmp_path: Path) -> None:
    threads = threading.active_count()
    with receiver() as collector:
        folder = Folder(tmp_path)
        folder.text += f'[otel]\nendpoint = "{collector.url}"\n'
        folder.app("phone", APP)
        async with running(folder) as service, connect(service.gateway_url, outcomes=True) as phone:
            await phone.say("secret words", message_id="well", session_event="new")
            await phone.say("throw", message_id="bad", session_event="new")
            await until(lambda: sum(not one.parent_span_id for one in collector.spans) == 2)
            async with httpx.AsyncClient() as client:
                metrics = (await client.get(f"{service.admin_url}/metrics")).text
        taken = len(collector.spans)
    assert f"jsbox_otel_spans_total {float(taken)}" in metrics
    roots = {
        attributes(one)["messaging.message.id"]: one
        for one in collector.spans
        if not one.parent_span_id
    }
    well, bad = roots["well"], roots["bad"]
    assert (well.name, well.status.code) == ("process phone", Status.STATUS_CODE_OK)
    assert (bad.status.code, attributes(bad)["error.type"]) == (
        Status.STATUS_CODE_ERROR,
        "app_error",
    )
    assert "broken on purpose" in bad.status.message
    of_well = [one for one in collector.spans if one.trace_id == well.trace_id]
    names = {one.name for one in of_well}
    assert names >= {"process phone", "run", "kv.set", "outbound.reply_to"}
    for one in of_well:
        assert well.start_time_unix_nano <= one.start_time_unix_nano <= one.end_time_unix_nano
        assert one.end_time_unix_nano <= well.end_time_unix_nano + 1_000_000
    for body in collector.bodies:
        assert b"secret words" not in body
        assert b"+27831234567" not in body
    assert threading.active_count() <= threads + 2, "Trio's own, which it keeps for a while"


async def test_a_collector_that_never_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs end as ever, and so does the service. The check names it once a batch is given up."""
    monkeypatch.setattr(module, "BATCH_SECONDS", 1.0)
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.5)
    with receiver() as collector:

        def never(request: BaseHTTPRequestHandler) -> None:
            collector.over.wait()

        collector.answer = never
        folder = Folder(tmp_path)
        folder.text += f'[otel]\nendpoint = "{collector.url}"\n'
        folder.app("phone", APP)
        async with running(folder) as service, connect(service.gateway_url, outcomes=True) as phone:
            for _ in range(20):
                outcome, replies = await phone.say("1", session_event="new")
                assert (outcome["outcome"], len(replies)) == ("ok", 1)
            await until(lambda: service.exporter.dropped["failed"] > 0)
            async with httpx.AsyncClient() as client:
                found = await client.get(f"{service.admin_url}/readyz?verbose")
            assert found.status_code == 200, "it keeps no message from its app"
            assert "traces are not taken by" in found.text
            # without the endpoint nothing is kept any more
            folder.text = folder.text.replace(collector.url, "")
            assert folder.config
            assert (await service.reload())["live"] == ["otel.endpoint"]
            assert service.exporter.problem == ""
