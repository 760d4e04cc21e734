"""Apps whose processes keep ending, and what runs use of their limits."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest
import trio
from attrs import evolve

from supervisor.config.model import Pool
from supervisor.outcomes import Outcome
from supervisor.sandboxes.crash_loops import CrashLoops
from supervisor.sandboxes.limit_usage import KEPT, Usage

from ...apps import make_app
from ...gateway_client import PATIENCE, connect
from ...hostile.granted import granted_harness
from ...programs import free_ports, jsbox
from ...service import ECHO, Folder, running


def test_pauses_grow_and_then_it_is_over() -> None:
    """The first crashes are free; each further one doubles the pause, up to the limit; ends for
    what an app did cost a second at most; a run that ends well begins anew.
    """
    loops = CrashLoops()
    app = make_app("", pool={"trip_after": 12, "crash_backoff": 4.0})
    pauses = []
    for n in range(12):
        assert loops.note(app, Outcome.CRASHED if n % 2 else Outcome.BOOT, f"crash {n}") is (
            n == 11
        )
        pauses.append(loops.pause(app))
    assert pauses == [0, 0, 0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    assert (loops.state(app).state, loops.state(app).crashes, loops.state(app).last) == (
        "tripped",
        12,
        "crash 11",
    )
    loops.forgive()
    assert loops.state(app).state == "running"
    for _ in range(3):
        loops.note(app, Outcome.CRASHED, "")
    assert loops.state(app).state == "backing off"
    for _ in range(9):
        loops.note(app, Outcome.HEAP, "")
    assert (loops.state(app).crashes, loops.pause(app)) == (0, 1.0)
    loops.note(app, Outcome.OK, "")
    assert loops.state(app).state == "running"


async def test_an_app_that_keeps_crashing_is_tripped_until_a_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log and the admin port say so, its messages are rejected, other apps go on; a reload
    tries again.
    """
    folder = Folder(tmp_path)
    folder.app(
        "bad", "__test_host.process.exit(3);", 'pool = { trip_after = 4, crash_backoff = "50ms" }'
    )
    folder.app("good", ECHO)
    with granted_harness() as harness:
        monkeypatch.setattr("supervisor.service.HARNESS", harness)
        async with running(folder) as service, connect(service.gateway_url, "bad") as client:
            for _ in range(4):
                outcome, _ = await client.say("x")
                assert outcome["outcome"] == "crashed"
            traces = list(service.history.traces.newest("bad", only_notable=False))
            # The pause after three crashes is a phase of its own, no slow boot.
            assert [trace.held > 0 for trace in traces] == [True, False, False, False]
            assert traces[0].held <= 0.05 < 10 * traces[0].total
            await client.send(
                {"type": "inbound", "id": "g", "msg": {"from_addr": "+1", "content": "x"}}
            )
            rejected = await client.expect("rejected")
            assert (rejected["code"], rejected["retry_after"]) == ("tripped", 60)
            entries = await service.stores.logbook.newest("acct", "bad", 5)
            assert (
                "[tripped] 4 runs in a row ended with their process (pool.trip_after)"
                in entries[0].message
            )
            async with httpx2.AsyncClient(
                base_url=service.admin_url, trust_env=False, timeout=PATIENCE
            ) as admin:
                apps = {app["name"]: app for app in (await admin.get("/v1/apps")).json()["apps"]}
            assert (apps["bad"]["state"], apps["bad"]["crashes"], apps["good"]["state"]) == (
                "tripped",
                4,
                "running",
            )
            assert "exited with code 3" in apps["bad"]["last"]
            async with connect(service.gateway_url, "good") as other:
                outcome, _ = await other.say("x")
                assert outcome["outcome"] == "ok"
            (tmp_path / "bad.js").write_text(
                f"api.on_inbound_message = function (command) {{ {ECHO} }};"
            )
            assert (await service.reload())["ok"]
            outcome, replies = await client.say("again")
            assert (outcome["outcome"], replies[0]["content"]) == ("ok", "you said again")


async def test_a_run_that_comes_close_to_a_limit_is_told_once() -> None:
    """From 80% on, a line with the limit, its value and the measured one; the next in an hour."""
    usage = Usage()
    app = make_app("", limits={"commands": 10, "cpu": 2.0})
    assert usage.note(app, {"commands": 7, "cpu": 0.1}) == {}
    line = usage.note(app, {"commands": 8, "cpu": 0.1})["commands"]
    assert line.startswith("limits.commands = 10: 8 were used, 80%")
    assert usage.note(app, {"commands": 9, "cpu": 0.1}) == {}
    line = usage.note(app, {"cpu": 1.9})["cpu"]
    assert line.startswith("limits.cpu = 2 s: 1.9 s were used, 95%")


async def test_only_the_newest_values_are_kept() -> None:
    """However many runs there are; the most ever seen is remembered."""
    usage = Usage()
    app = evolve(make_app(""), pool=Pool())
    usage.note(app, {"commands": 500})
    for _ in range(3 * KEPT):
        usage.note(app, {"commands": 10})
    usage.note(app, {"commands": 20})
    seen = usage.seen("app")["commands"]
    assert (seen.count, seen.p50, seen.p99, seen.most) == (KEPT, 10, 10, 500)
    usage.forget({})
    assert usage.seen("app") == {}


async def test_limits_are_explained(tmp_path: Path) -> None:
    """`jsbox limits`: value, where it comes from, what was used, and how much room there is."""
    folder = Folder(tmp_path)
    (port,) = free_ports(1)
    folder.text = folder.text.replace('admin = "127.0.0.1:0"', f'admin = "127.0.0.1:{port}"')
    folder.text += '[defaults.limits]\nwall = "20s"\n'
    folder.app("phone", ECHO, "limits = { commands = 50 }")
    async with running(folder) as service, connect(service.gateway_url) as client:
        for _ in range(3):
            await client.say("x")
        config = str(folder.config)
        shown = await trio.to_thread.run_sync(
            lambda: jsbox("limits", "phone", "--explain", "-c", config).stdout
        )
        as_json = await trio.to_thread.run_sync(
            lambda: jsbox("limits", "phone", "--json", "-c", config).stdout
        )
        unknown = await trio.to_thread.run_sync(lambda: jsbox("limits", "nobody", "-c", config))
    rows = {line.split()[0]: line.split() for line in shown.splitlines()[1:]}
    assert rows["commands"][1:6] == ["50", "1", "1", "1", "50.0x"]
    assert rows["commands"][6] == f"{config}:10"
    assert (rows["wall"][1], rows["wall"][6]) == ("20s", f"{config}:6")
    assert (rows["heap"][1], rows["heap"][6]) == ("64MiB", "default")
    limits = {row["name"]: row for row in json.loads(as_json)["limits"]}
    assert limits["commands"]["seen"]["count"] == 3
    assert limits["memory"]["seen"]["most"] > 20 << 20
    assert limits["boot"]["seen"]["count"] == 1
    assert (unknown.returncode, "has no app 'nobody'; it has phone" in unknown.stderr) == (1, True)
