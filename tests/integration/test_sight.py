"""What an operator of several servers sees and does, with the commands."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable

import httpx2
import pytest
from click.testing import Result

from ..gateway_client import connect, inbound
from ..programs import START_SECONDS, free_ports
from ..supervisor.cli.operator import invoke
from .hosts import Host, Make

USERS = 24
APP = """
    api.request('log.info', {msg: 'saw ' + command.msg.message_id}, function () {
        api.request('outbound.reply_to', {content: 'yes',
            in_reply_to: command.msg.message_id}, function () { api.done(); });
    });"""

pytestmark = pytest.mark.slow


@pytest.fixture
def three(hosts: Make) -> list[Host]:
    """Three servers that serve; each knows the others."""
    ports = free_ports(3)
    made = [
        hosts(name, "shared", app=APP, lease="4s", admin=f"127.0.0.1:{port}")
        for name, port in zip(("one", "two", "three"), ports, strict=True)
    ]
    for host in made:
        host.ready()
    for host in made:
        _until(lambda host=host: _ps(host).exit_code == 0 and len(_rows(_ps(host))) == 3)
    return made


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _do(host: Host, *arguments: str) -> Result:
    return invoke(*arguments, "-c", str(host.folder / "jsbox.toml"))


def _ps(host: Host) -> Result:
    return _do(host, "ps", "--host", "all", "--json")


def _rows(result: Result) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(result.stdout)["hosts"]
    return rows


def _name(host: Host) -> str:
    (row,) = [one for one in _rows(_ps(host)) if one["is_this"]]
    return str(row["name"])


async def _talk(host: Host, prefix: str) -> None:
    """One message of each user."""
    async with connect(host.ready()[0]) as client:
        for n in range(USERS):
            await client.send(inbound(f"{prefix}{n}", f"+{n}"))
        for n in range(USERS):
            await client.expect("outcome", message_id=f"{prefix}{n}", seconds=60)


async def test_all_of_them_are_seen_at_any(three: list[Host]) -> None:
    """Their processes, runs, limits and logs, of one or of all, each with its server."""
    one, two, _ = three
    names = {_name(host) for host in three}
    await _talk(one, "a")
    with httpx2.Client(base_url=two.ready()[1], trust_env=False, timeout=60) as admin:
        follow = {"follow": "1", "limit": "1"}
        with admin.stream("GET", "/v1/apps/phone/logs", params=follow) as live:
            lines = live.iter_lines()
            next(lines)
            await _talk(one, "b")
            entries = [json.loads(next(lines)) for _ in range(USERS)]
    assert {entry["message"] for entry in entries} == {f"saw b{n}" for n in range(USERS)}
    ran = {entry["message"].removeprefix("saw "): entry["host"] for entry in entries}
    busy = set(ran.values())
    assert len(busy) > 1
    assert busy <= names

    listed = json.loads(_do(one, "trace", "--host", "all", "--json", "-n", "24").stdout)
    assert {row["message"]: row["host"] for row in listed["traces"]} == ran
    assert not listed["silent"]
    for message, host in ran.items():
        assert f", host {host}\n" in _do(two, "trace", message).stdout
        own = json.loads(_do(two, "trace", "--host", host, "--json").stdout)["traces"]
        assert message in {row["message"] for row in own}
        break

    rows = {row["name"]: row for row in _rows(_ps(two))}
    assert {name for name, row in rows.items() if row["sandboxes"]} == busy
    (host, *_) = busy
    shown = _do(one, "ps", "--host", host)
    assert (shown.exit_code, "phone" in shown.stdout) == (0, True)
    limits = _do(one, "limits", "phone", "--host", "all").stdout
    assert limits.count("LIMIT") == limits.count("\nwall") == 3
    of_one = _do(one, "logs", "phone", "--host", host).stdout.splitlines()
    of_all = _do(one, "logs", "phone").stdout.splitlines()
    assert of_one == [line for line in of_all if f" {host}: saw " in line]
    assert (len(of_all), len(of_one)) == (2 * USERS, 2 * list(ran.values()).count(host))
    wrong = _do(one, "ps", "--host", "nobody")
    assert (wrong.exit_code, "no host is 'nobody': " in wrong.stderr) == (1, True)


def test_one_that_is_frozen_is_named_and_the_rest_is_shown(three: list[Host]) -> None:
    """Also a reload of all stops there, and says what each has done."""
    one, two, _ = three
    name = _name(two)
    two.send(signal.SIGSTOP)
    seen = _ps(one)
    assert seen.exit_code == 4
    (silent,) = [row for row in _rows(seen) if "error" in row]
    assert silent["name"] == name
    assert str(silent["error"]).startswith(f"host {name} did not answer")
    assert sum("sandboxes" in row for row in _rows(seen)) == 2
    _until(lambda: len(_rows(_ps(one))) == 2)  # it counts as dead
    assert _ps(one).exit_code == 0
    two.send(signal.SIGCONT)
    two.ready(2)
    _until(lambda: len(_rows(_ps(one))) == 3)


def test_a_reload_of_all_stops_at_who_refuses(three: list[Host]) -> None:
    """In order of their names, the one that is asked last; what each did is said."""
    one, two, other = three
    done = _do(one, "reload", "--all", "--json")
    assert done.exit_code == 0, done.output
    body = json.loads(done.stdout)
    assert {row["state"] for row in body["hosts"]} == {"reloaded"}
    assert body["hosts"][-1]["name"] == _name(one)
    assert "run different configs" not in done.stderr  # as --json says it
    assert body["difference"]  # each has an app of its own path

    names = [row["name"] for row in body["hosts"]]
    second = next(host for host in (two, other) if _name(host) == names[1])
    app = second.folder / "phone.js"
    good = app.read_text()
    app.write_text("function (")
    refused = _do(one, "reload", "--all")
    assert refused.exit_code == 3
    assert refused.stdout.splitlines() == [
        f"{names[0]}  reloaded", f"{names[1]}  refused", f"{names[2]}  not asked",
    ]  # fmt: skip
    assert "phone.js:1:" in refused.stderr
    assert "stopped: 1 of 3 servers have reloaded their config" in refused.stderr
    app.write_text(good)
    assert _do(one, "reload", "--all").exit_code == 0

    second.send(signal.SIGSTOP)
    stopped = _do(one, "reload", "--all")
    assert stopped.exit_code == 4
    assert stopped.stdout.splitlines()[1] == f"{names[1]}  no answer"
    assert f"host {names[1]} did not answer" in stopped.stderr
    second.send(signal.SIGCONT)
