"""An app that fails too large a share of its runs is seen, and does not flicker."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
import trio
from attrs import evolve
from trio.testing import MockClock

from supervisor.config import InvalidConfig, load
from supervisor.config.model import App
from supervisor.config.observing import Failing
from supervisor.config.units import Count, Duration, Percent
from supervisor.outcomes import NOT_THE_APPS, Outcome
from supervisor.runs.failures import Failures, explain

from ...apps import make_app
from ...gateway_client import PATIENCE, connect
from ...programs import free_ports, jsbox
from ...service import ECHO, REPLY, Folder, running

MOODY = """
    const text = command.msg.content;
    if (text === 'mute') { api.done(); return; }
    if (text !== 'well') { throw new Error('no \\u001b[2J rates for ' + text); }
    %s
""" % (REPLY % "'fine'")


def settings(percent: int, runs: int) -> Failing:
    return Failing(Percent(percent), Duration(60.0), Count(runs))


def looked_at(app: App) -> Failures:
    failures = Failures()
    failures.update({app.name: app})
    return failures


def ended(failures: Failures, app: App, outcome: Outcome, times: int = 1) -> bool:
    for _ in range(times):
        failures.note(app, outcome, "why\nat line 3")
    return failures.state(app) is not None


async def test_a_share_of_failed_runs_but_not_a_few(mock_clock: MockClock) -> None:
    """Fewer than failing.runs prove nothing; a share below failing.percent neither; what is no
    fault of the app counts not at all.
    """
    app = make_app("", failing=settings(25, 4))
    failures = looked_at(app)
    assert not ended(failures, app, Outcome.NO_REPLY, 3)
    for outcome in NOT_THE_APPS:
        assert not ended(failures, app, outcome, 9)
    assert ended(failures, app, Outcome.WALL)
    found = failures.state(app)
    assert found is not None
    assert explain(app, found) == "4 of its 4 runs of the last 1m failed; the newest: wall: why"
    busy = looked_at(app)
    assert not ended(busy, app, Outcome.OK, 13)
    assert not ended(busy, app, Outcome.CPU, 4)  # 4 of 17
    assert ended(busy, app, Outcome.CPU)  # 5 of 18


async def test_it_recovers_at_half_the_share_or_with_time(mock_clock: MockClock) -> None:
    """Between half of the share and the whole of it, it stays what it is."""
    app = make_app("", failing=settings(50, 3))
    failures = looked_at(app)
    assert ended(failures, app, Outcome.APP_ERROR, 3)
    assert ended(failures, app, Outcome.OK, 9)  # 3 of 12
    assert not ended(failures, app, Outcome.OK)  # 3 of 13
    assert not ended(failures, app, Outcome.APP_ERROR, 2)  # 5 of 15
    mock_clock.jump(64)
    assert ended(failures, app, Outcome.APP_ERROR, 3)
    mock_clock.jump(55)
    assert failures.state(app) is not None
    mock_clock.jump(9)
    assert failures.state(app) is None


async def test_a_reload_forgets_what_it_changed(mock_clock: MockClock) -> None:
    """Late runs of the app as it was do not count against it, either; 0 percent is never."""
    app, other = make_app("a"), evolve(make_app("b"), name="other")
    failures = Failures()
    failures.update({app.name: app, "other": other})
    assert ended(failures, app, Outcome.APP_ERROR, 3)
    assert ended(failures, other, Outcome.APP_ERROR, 3)
    changed, same = evolve(app, source="b"), evolve(other)
    failures.update({app.name: changed, "other": same})
    assert failures.state(changed) is None
    assert failures.state(same) is not None
    assert not ended(failures, app, Outcome.APP_ERROR, 9)
    assert failures.state(changed) is None
    assert ended(failures, other, Outcome.APP_ERROR)
    never = make_app("", failing=settings(0, 3))
    assert not ended(looked_at(never), never, Outcome.APP_ERROR, 99)


async def test_operators_see_it_everywhere(tmp_path: Path) -> None:
    """/readyz names it, and is 503 for that app alone; /v1/apps, `jsbox ps` and the metrics say it
    too; escapes of the app reach no terminal.
    """
    gateway, port = free_ports(2)
    listen = f'[listen]\ngateway = "127.0.0.1:{gateway}"\nadmin = "127.0.0.1:{port}"\n'
    folder = Folder(tmp_path, listen)
    folder.app("moody", MOODY, "failing = { runs = 2 }")
    folder.app("good", ECHO)
    async with (
        running(folder) as service,
        connect(service.gateway_url, "moody") as client,
        httpx2.AsyncClient(base_url=service.admin_url, trust_env=False, timeout=PATIENCE) as admin,
    ):
        assert (await client.say("well", "new"))[0]["outcome"] == "ok"
        assert (await client.say("mute", "new"))[0]["outcome"] == "no_reply"
        assert (await admin.get("/readyz", params={"app": "moody"})).status_code == 200
        assert (await client.say("EUR", "new"))[0]["outcome"] == "app_error"
        asked = await admin.get("/readyz", params={"app": "moody"})
        assert asked.status_code == 503
        said = "app moody: state: it is failing: 2 of its 3 runs of the last 5m failed;"
        assert said in asked.text
        assert "the newest: app_error: " in asked.text
        everybody = await admin.get("/readyz")
        assert everybody.status_code == 200
        assert said in everybody.text
        assert (await admin.get("/readyz", params={"app": "good"})).status_code == 200
        apps = {one["name"]: one for one in (await admin.get("/v1/apps")).json()["apps"]}
        assert (apps["moody"]["state"], apps["good"]["state"]) == ("failing", "running")
        metrics = (await admin.get("/metrics")).text
        assert 'jsbox_app_failing{app="moody"} 1.0' in metrics
        assert 'jsbox_app_failing{app="good"} 0.0' in metrics
        listed = await trio.to_thread.run_sync(jsbox, "ps", "-c", str(tmp_path / "jsbox.toml"))
        assert f"{'moody':20} failing: 2 of its 3 runs" in listed.stdout
        assert "\x1b" not in listed.stdout


@pytest.mark.parametrize("wrong", ["-1", "101", "true", '"20%"', "20.5"])
def test_a_percentage_is_an_integer_up_to_100(tmp_path: Path, wrong: str) -> None:
    """Anything else is refused."""
    folder = Folder(tmp_path)
    folder.app("moody", ECHO, f"failing = {{ percent = {wrong} }}")
    with pytest.raises(InvalidConfig) as caught:
        load(folder.config)
    assert "expected an integer from 0 to 100 (percent)" in caught.value.problems[0].text
