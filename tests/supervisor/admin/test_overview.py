"""The last hour, what is wrong, this host, runs by filters, values, and what a reload would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from resources.stores.keys import account_key
from supervisor.admin import traces as traces_module
from supervisor.admin.overview import slow_part
from supervisor.config.observing import Trace as TraceSettings
from supervisor.figures import HOUR, STEP
from supervisor.runs.traces import STEPS_MAX, Step, Trace, Traces

from ...gateway_client import PATIENCE, connect, inbound
from ...service import REPLY, Folder, eventually, running

APP = (
    "if (command.msg.content === 'bad') { throw new Error('no <b>way</b>'); }"
    " api.request('kv.set', {key: 'last/%', value: [command.msg.content]}, function () { "
    + REPLY % "'ok'"
    + " });"
)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.app("phone", APP)
    return folder


async def test_what_the_console_asks_for(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        running(folder) as service,
        httpx.AsyncClient(base_url=service.admin_url, timeout=PATIENCE) as admin,
    ):

        async def get(path: str, status: int = 200, **query: Any) -> Any:
            answer = await admin.get(path, params=query)
            assert answer.status_code == status, answer.text
            return answer.json()

        quiet = await get("/v1/overview")
        assert quiet["troubles"] == []
        assert quiet["apps"]["phone"]["last_error"] is None
        async with connect(service.gateway_url) as client:
            for number, content in enumerate(("a", "bad", "b", "c", "d")):
                await client.say(
                    content, "new", message_id=f"m{number}", from_addr=f"+{number % 2}"
                )

        await _figures(get)
        await _runs(get, monkeypatch)
        assert (await get("/v1/accounts/acct/kv/last/%25"))["value"] == ["d"]
        assert await get("/v1/accounts/acct/kv/none") == {"key": "none", "value": None}
        await get("/v1/accounts/nobody/kv/last", 404)
        await service.stores.redis.execute("SET", account_key("acct", "kv", "x"), b"not JSON")
        wrong = await get("/v1/accounts/acct/kv/x", 409)
        assert wrong["error"] == "the value of 'x' in the store is not JSON"
        host = await get("/v1/host")
        assert (host["store"], host["mode"], host["lease_held"]) == ("embedded", "single", None)
        await eventually(lambda: service.figures.gauge("processes")[-1] is not None)
        await _reload(folder, admin, get)


async def _figures(get: Any) -> None:
    """All runs are in the newest steps; a failed one is a trouble, with its reason."""
    found = await get("/v1/overview")
    assert found["hour"]["runs"] == found["recent"]["runs"] == 5
    assert found["hour"]["failed"] == 1
    assert 0 < found["hour"]["p50"] <= found["hour"]["p99"]
    assert len(found["series"]["runs"]) == HOUR // STEP
    assert all(len(column) == HOUR // STEP for column in found["series"].values())
    assert sum(found["series"]["runs"]) == 5
    assert found["gauges"]["processes"] >= 1
    app = found["apps"]["phone"]
    assert app["hour"]["failed"] == 1
    assert app["last_error"]["message"] == "m1"
    (trouble,) = found["troubles"]
    assert (trouble["what"], trouble["app"], trouble["level"]) == ("failed", "phone", "warn")
    assert "1 of 5 runs" in trouble["text"]
    assert "no <b>way</b>" in trouble["text"]
    of_app = await get("/v1/apps/phone/figures")
    assert sum(of_app["series"]["failed"]) == 1
    await get("/v1/apps/none/figures", 404)


async def _runs(get: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def runs(**query: Any) -> tuple[str, str | None]:
        found = await get("/v1/traces", app="phone", **query)
        return " ".join(one["message"] for one in found["traces"]), found["cursor"]

    assert await runs() == ("m4 m3 m2 m1 m0", None)
    assert await runs(user="+1") == ("m3 m1", None)
    assert await runs(user="+1", outcome="ok") == ("m3", None)
    assert await runs(outcome="failed") == await runs(outcome="app_error") == ("m1", None)
    assert await runs(since="1h", until="2000-01-01T00:00Z") == ("", None)
    assert await runs(since="1h") == ("m4 m3 m2 m1 m0", None)
    assert await runs(until="2000-01-01T00:00+02:00") == ("", None)
    assert await runs(longer="10m") == ("", None)
    assert (await runs(longer="0.1ms"))[0].startswith("m4")
    # pages, whole and short, until everything was looked at
    pages, cursor = [], None
    while not pages or cursor is not None:
        page, cursor = await runs(limit=2, **({} if cursor is None else {"cursor": cursor}))
        pages.append(page)
    assert pages == ["m4 m3", "m2 m1", "m0"]
    monkeypatch.setattr(traces_module, "LOOKED_AT_MAX", 2)
    first, cursor = await runs(outcome="failed")
    assert first == ""
    assert (await runs(outcome="failed", cursor=cursor))[0] == "m1"
    for name, value in (
        ("outcome", "lost"), ("longer", "x"), ("since", "soon"), ("until", "2026-01-01T00:00"),
        ("cursor", "x"), ("cursor", "0"),
    ):  # fmt: skip
        assert name in (await get("/v1/traces", 400, **{name: value}))["error"]


async def _reload(folder: Folder, admin: httpx.AsyncClient, get: Any) -> None:
    """A preview changes nothing, and tells no secret; a refused reload is a trouble until the next
    that is not.
    """
    assert (await get("/v1/reload"))["changes"] == []
    whole = folder.text
    more = '[apps.phone]\nlimits = { wall = "7s" }\nconfig = { k = "SECRET" }'
    channel = f'[channels.more]\napp = "phone"\ntransport_type = "sms"\ntokens = ["{"a" * 64}"]\n'
    folder.text = whole.replace("[apps.phone]", more) + channel
    assert folder.config
    for _ in range(2):
        found = await get("/v1/reload")
        rows = {one["name"]: one for one in found["changes"]}
        wall = rows["apps.phone.limits.wall"]
        assert (wall["when"], wall["before"], wall["after"]) == ("live", "60.0", "7.0")
        assert rows["apps.phone.config"]["after"] is None
        assert "SECRET" not in str(found)
        assert "a" * 64 not in str(found)
    folder.text = whole + "[nonsense]\n"
    assert folder.config
    refused = await get("/v1/reload", 422)
    assert "nonsense" in refused["errors"][0]
    assert not [one for one in await troubles(get) if one["what"] == "config"]
    assert (await admin.post("/v1/reload")).status_code == 422
    (trouble,) = [one for one in await troubles(get) if one["what"] == "config"]
    assert "nonsense" in trouble["text"]
    folder.text = whole
    assert folder.config
    assert (await admin.post("/v1/reload")).status_code == 200
    assert not [one for one in await troubles(get) if one["what"] == "config"]


async def troubles(get: Any) -> list[dict[str, Any]]:
    found = await get("/v1/overview")
    rows: list[dict[str, Any]] = found["troubles"]
    return rows


async def test_a_slow_app_is_shown_with_what_it_waits_for() -> None:
    """The queue is a result of it: said, but not taken for the cause."""
    trace = Trace("a", "phone", "message", "m1", STEPS_MAX, records=False)
    trace.steps.append(Step("http.get", 0.1, "GET http://hub/x", seconds=4.0))
    trace.queue, trace.total = 6.0, 10.5
    trace.forget_values()
    traces = Traces()
    traces.keep(trace, TraceSettings(slow=2.0))
    assert slow_part(traces, "a", 2.0) == (
        "; the newest waited 6.00 s for its turn, then spent 4.00 s in http.get GET http://hub/x"
    )
    trace.queue, trace.boot = 0.1, 9.0
    assert slow_part(traces, "a", 2.0) == "; the newest spent 9.00 s waiting for a process"
    assert slow_part(traces, "b", 2.0) == ""


async def test_what_waits_and_what_was_rejected_is_a_trouble_at_once(folder: Folder) -> None:
    """Not only when it is old: somebody looks now."""
    folder.app(
        "sends",
        "api.request('outbound.send_to_endpoint', {endpoint: 'sms', to_addr: '+1', content: 'x'},"
        " function () { api.done(); });",
        'endpoints = { sms = "unread" }\ntrace = { slow = "1ms" }',
    )
    folder.app(
        "stores",
        "api.request('kv.set', {key: command.msg.content, value: 1}, function () { api.done(); });",
    )
    folder.text += "[accounts.acct.kv]\nkeys_hard = 1\n"
    folder.text += '[channels.unread]\napp = "sends"\ntransport_type = "sms"\n'
    folder.text += '[channels.lonely]\ntransport_type = "sms"\n'
    async with (
        running(folder) as service,
        httpx.AsyncClient(base_url=service.admin_url, timeout=PATIENCE) as admin,
    ):
        async with connect(service.gateway_url, "sends") as client:
            await client.say("a", "new")
        async with connect(service.gateway_url, "stores") as client:
            await client.say("first", "new")
            await client.say("second", "new")
        async with connect(service.gateway_url, "lonely") as client:
            await client.send(inbound("x"))
            await client.expect("rejected", id="x", code="no_app")
        await eventually(lambda: service.outboxes.found["unread"].count)
        found = (await admin.get("/v1/overview")).json()["troubles"]
        by_what = {one["what"]: one for one in found}
        assert by_what["unread"]["channel"] == "unread"
        assert by_what["slow"]["app"] == "sends"
        assert "; the newest " in by_what["slow"]["text"]
        assert " spent 0." in by_what["slow"]["text"]
        assert by_what["rejected"]["channel"] == "lonely"
        assert by_what["rejected"]["text"].endswith(": 1 no_app (the channel has no app)")
        assert by_what["kv"]["text"] == (
            "writes of account acct were refused: too many keys (accounts.acct.kv)"
        )
        assert (by_what["kv"]["level"], by_what["kv"]["channel"]) == ("note", None)
