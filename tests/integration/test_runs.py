"""Traces, recordings and replays, through the admin port and the command line, of real runs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2 as httpx
import pytest
import trio

from supervisor.service import Service

from ..gateway_client import PATIENCE, Client, connect
from ..programs import free_ports, jsbox
from ..service import ECHO, Folder, eventually, running

COUNTER = """
api.on_inbound_message = function (command) {
    var user = command.msg.from_addr;
    console.log('thinking');
    api.request('kv.incr', {key: 'seen.' + user}, function (reply) {
        var text = 'visit ' + reply.value + ', ' + command.msg.content;
        api.request('outbound.reply_to', {content: text, in_reply_to: command.msg.message_id},
            function () { api.done(); });
    });
};
"""
# Two commands at a time, whose replies come in the other order; the app's answer depends on it.
RACE = """
api.on_inbound_message = function (command) {
    var order = [];
    function got(name) {
        order.push(name);
        if (order.length === 2) {
            api.request('outbound.reply_to', {content: order.join(' then '),
                in_reply_to: command.msg.message_id}, function () { api.done(); });
        }
    }
    api.request('http.get', {url: 'http://127.0.0.1:1/'}, function () { got('http'); });
    api.request('kv.get', {key: 'x'}, function () { got('kv'); });
};
"""
RANDOM = """
api.on_inbound_message = function (command) {
    api.request('kv.set', {key: 'token', value: Math.random()}, function () {
        api.request('outbound.reply_to', {content: 'year ' + new Date().getFullYear(),
            in_reply_to: command.msg.message_id}, function () { api.done(); });
    });
};
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    gateway, admin = free_ports(2)
    folder.text = (
        f'version = 1\n[listen]\ngateway = "127.0.0.1:{gateway}"\nadmin = "127.0.0.1:{admin}"\n'
    )
    return folder


@asynccontextmanager
async def talking(folder: Folder) -> AsyncIterator[tuple[Service, Client, httpx.AsyncClient]]:
    async with (
        running(folder) as service,
        connect(service.gateway_url) as client,
        httpx.AsyncClient(base_url=service.admin_url, timeout=PATIENCE) as admin,
    ):
        yield service, client, admin


async def command(*arguments: str, folder: Folder) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = await trio.to_thread.run_sync(
        lambda: jsbox(*arguments, "-c", str(folder.path / "jsbox.toml"))
    )
    return done


async def test_a_trace_has_the_time_line_of_a_run(folder: Folder) -> None:
    """Queue, boot, every command with its time and outcome, in order; and no content of the
    message.
    """
    folder.app("phone", COUNTER)
    async with talking(folder) as (_, client, admin):
        await client.say("my secret", "new", message_id="m1")
        trace = (await admin.get("/v1/traces/m1")).json()
        assert [(step["name"], step["outcome"]) for step in trace["steps"]] == [
            ("console", ""),
            ("kv.incr", "ok"),
            ("outbound.reply_to", "ok"),
        ]
        assert trace["outcome"] == "ok"
        assert trace["pid"] > 0
        assert trace["ms"]["boot"] > 0
        starts = [step["at_ms"] for step in trace["steps"]]
        assert starts == sorted(starts)
        assert starts[-1] <= trace["ms"]["run"] <= trace["ms"]["total"]
        assert [step["note"] for step in trace["steps"]] == [
            "thinking",
            "seen.+27831234567",
            "27 characters".replace("27", str(len("visit 1, my secret"))),
        ]
        assert "secret" not in json.dumps(trace)
        shown = await command("trace", "m1", folder=folder)
        assert shown.returncode == 0, shown.stderr
        assert "kv.incr seen.+27831234567" in shown.stdout
        missing = await command("trace", "nope", folder=folder)
        assert missing.returncode == 1
        assert "there is no trace of 'nope'" in missing.stderr


async def test_failed_runs_outlive_the_ordinary_ones(folder: Folder) -> None:
    """Of ordinary runs the newest are kept; one that failed stays, says why, and can be
    asked for alone.
    """
    folder.text += "[defaults.trace]\nruns = 3\nnotable = 2\n"
    folder.app("phone", "if (command.msg.content === 'boom') throw new Error('boom'); " + ECHO)
    async with talking(folder) as (_, client, admin):
        await client.say("boom", "new", message_id="bad")
        for number in range(5):
            await client.say("hi", message_id=f"m{number}")
        listed = (await admin.get("/v1/traces")).json()["traces"]
        assert [one["message"] for one in listed] == ["m4", "m3", "m2", "bad"]
        assert [one["outcome"] for one in listed] == ["ok", "ok", "ok", "app_error"]
        assert "Error: boom" in (await admin.get("/v1/traces/bad")).json()["detail"]
        notable = (await admin.get("/v1/traces", params={"notable": "1", "app": "phone"})).json()[
            "traces"
        ]
        assert [one["message"] for one in notable] == ["bad"]
        listing = await command("trace", "--notable", folder=folder)
        assert "app_error" in listing.stdout
        assert (await admin.get("/v1/traces", params={"app": "nobody"})).status_code == 404
        assert (await admin.get("/v1/traces", params={"limit": "0"})).status_code == 400


async def test_what_has_no_reply_when_the_run_ends_is_shown_so(folder: Folder) -> None:
    """The command that a run waited for when its wall time was over."""
    folder.app(
        "phone",
        "api.request('http.get', {url: 'http://127.0.0.1:9/'}, function () {});",
        (
            'limits = { wall = "300ms" }\nhttp = { connect_to = { "127.0.0.1:9" ='
            ' "http://10.255.255.1" } }'
        ),
    )
    async with talking(folder) as (_, client, admin):
        outcome, _ = await client.say("hi", "new", message_id="slow")
        assert outcome["outcome"] == "wall"
        (step,) = (await admin.get("/v1/traces/slow")).json()["steps"]
        assert (step["name"], step["note"]) == ("http.get", "GET http://127.0.0.1:9/")


async def test_a_recorded_run_plays_again_the_same(folder: Folder) -> None:
    """The app asks the same; nothing is touched: the counter is where it was."""
    folder.app("phone", COUNTER, "record = true")
    async with talking(folder) as (service, client, _):
        await client.say("one", "new", message_id="m1")
        await client.say("two", message_id="m2")
        played = await command("replay", "m2", "--json", folder=folder)
        assert played.returncode == 0, played.stdout + played.stderr
        answer = json.loads(played.stdout)
        assert answer["same"]
        assert [(line["kind"], line["name"]) for line in answer["commands"]] == [
            ("same", "console"),
            ("same", "kv.incr"),
            ("same", "outbound.reply_to"),
        ]
        assert answer["commands"][2]["now"]["content"] == "visit 2, two"
        _, (reply,) = await client.say("three")
        assert reply["content"] == "visit 3, three"
        assert service.dispatcher.waiting("phone") == 0


async def test_a_changed_app_is_shown_to_do_something_else(folder: Folder, tmp_path: Path) -> None:
    """What is changed, new and missing, with the fields; exit code 1."""
    folder.app("phone", COUNTER, "record = true")
    changed = tmp_path / "changed.js"
    changed.write_text(
        COUNTER.replace(
            "console.log('thinking');",
            (
                "api.request('kv.get', {key: 'mood'}, function (reply) {"
                " console.log(reply.reason); });"
            ),
        ).replace("'visit '", "'visit number '")
    )
    async with talking(folder) as (_, client, _):
        await client.say("one", "new", message_id="m1")
        played = await command("replay", "m1", "--app", str(changed), "--json", folder=folder)
        assert played.returncode == 1, played.stderr
        lines = {
            (line["kind"], line["name"]): line for line in json.loads(played.stdout)["commands"]
        }
        assert ("new", "kv.get") in lines
        assert ("same", "kv.incr") in lines
        # The console line is there again, but another.
        assert (
            lines["changed", "console"]["fields"]["msg"]["now"]
            == "replay: nothing was recorded for this command"
        )
        reply = lines["changed", "outbound.reply_to"]["fields"]
        assert reply == {"content": {"then": "visit 1, one", "now": "visit number 1, one"}}
        shown = await command("replay", "m1", "--app", str(changed), folder=folder)
        assert 'content: "visit 1, one" -> "visit number 1, one"' in shown.stdout
        assert "the app does something else" in shown.stdout


async def test_replies_come_in_the_order_in_which_they_came(folder: Folder) -> None:
    """An app that depends on which of two replies is first does in the replay what it did."""
    folder.app("phone", RACE, "record = true")
    async with talking(folder) as (_, client, _):
        _, (reply,) = await client.say("one", "new", message_id="m1")
        played = await command("replay", "m1", "--json", folder=folder)
        assert played.returncode == 0, played.stdout
        (line,) = (
            line
            for line in json.loads(played.stdout)["commands"]
            if line["name"] == "outbound.reply_to"
        )
        assert line["now"]["content"] == reply["content"]


async def test_what_varies_by_itself_is_no_difference_and_the_clock_is_that_of_the_recording(
    folder: Folder, tmp_path: Path
) -> None:
    """A random number says nothing about the app; the year is that of the recording."""
    folder.app("phone", RANDOM, "record = true")
    async with talking(folder) as (_, client, admin):
        await client.say("one", "new", message_id="m1")
        recording = (await admin.get("/v1/recordings/m1")).json()
        assert recording["payload"]["content"] == "one"
        recording["began"] -= 20 * 365.25 * 86400
        year = int(recording["exchanges"][1]["request"]["content"].split()[1])
        recording["exchanges"][1]["request"]["content"] = f"year {year - 20}"
        file = tmp_path / "recording.json"
        file.write_text(json.dumps(recording))
    played = await command("replay", str(file), "--json", folder=folder)
    answer = json.loads(played.stdout)
    assert (played.returncode, answer["same"]) == (0, True), played.stdout
    assert [line["kind"] for line in answer["commands"]] == ["varies", "same"]


async def test_a_run_that_failed_fails_again(folder: Folder) -> None:
    """The same outcome counts as the same."""
    folder.app(
        "phone",
        "api.request('kv.get', {key: 'a'}, function () { throw new Error('after the reply'); });",
        "record = true",
    )
    async with talking(folder) as (_, client, _):
        await client.say("one", "new", message_id="m1")
        played = await command("replay", "m1", "--json", folder=folder)
        answer = json.loads(played.stdout)
        assert played.returncode == 0, played.stdout
        assert answer["then"]["outcome"] == answer["now"]["outcome"] == "app_error"


async def test_recordings_are_few_and_only_of_apps_that_want_them(folder: Folder) -> None:
    """The newest, up to a number; an app without `record` has none, and the error says so."""
    folder.text += "[defaults.trace]\nrecorded = 2\n"
    folder.app("phone", ECHO, "record = true")
    folder.app("other", ECHO)
    async with talking(folder) as (service, client, admin):
        for number in range(4):
            await client.say("hi", message_id=f"m{number}")
        await eventually(lambda: service.dispatcher.waiting("phone") == 0)
        found = [(await admin.get(f"/v1/recordings/m{number}")).status_code for number in range(4)]
        assert found == [404, 404, 200, 200]
        assert (
            "the runs of phone are recorded"
            in (await admin.get("/v1/recordings/m0")).json()["error"]
        )
        assert (await admin.get("/v1/recordings/m3", params={"app": "other"})).status_code == 404
        saved = folder.path / "m3.json"
        assert (await command("replay", "m3", "--save", str(saved), folder=folder)).returncode == 0
    assert json.loads(saved.read_text())["payload"]["content"] == "hi"


async def test_a_file_that_is_no_recording_is_refused(folder: Folder) -> None:
    """With what is wrong in it."""
    folder.app("phone", ECHO)
    file = folder.path / "no.json"
    file.write_text('{"account": 1}')
    assert folder.config
    played = await command("replay", str(file), folder=folder)
    assert played.returncode == 1
    assert "is not a recording" in played.stderr


LOOP = "api.request('kv.get', {key: 'a'}, function () { for (;;) {} });"
MANY = "for (var i = 0; i < 200; i++) api.request('kv.get', {key: 'k' + i}, function () {});"


@pytest.mark.parametrize(
    ("body", "limits", "outcome"),
    [
        (LOOP, 'cpu = "200ms", wall = "5s"', "cpu"),
        (LOOP, 'cpu = "5s", wall = "300ms"', "wall"),
        (MANY, "commands = 150", "commands"),
    ],
)
async def test_a_run_that_hit_a_limit_hits_it_again(
    folder: Folder, body: str, limits: str, outcome: str
) -> None:
    """The limits hold in a replay too; at which moment the run was cut off makes no difference."""
    folder.app("phone", body, f"record = true\nlimits = {{ {limits} }}")
    async with talking(folder) as (_, client, _):
        ended, _ = await client.say("one", "new", message_id="m1")
        assert ended["outcome"] == outcome
        played = await command("replay", "m1", "--json", folder=folder)
        answer = json.loads(played.stdout)
        assert answer["now"]["outcome"] == outcome
        assert answer["same"], played.stdout


async def test_a_long_console_line_is_recorded_whole(folder: Folder) -> None:
    """A trace shows its beginning; a replay compares all of it."""
    folder.app("phone", "console.log(new Array(999).join('x')); " + ECHO, "record = true")
    async with talking(folder) as (_, client, admin):
        await client.say("one", "new", message_id="m1")
        assert len((await admin.get("/v1/traces/m1")).json()["steps"][0]["note"]) == 200
        played = await command("replay", "m1", "--json", folder=folder)
        assert json.loads(played.stdout)["same"], played.stdout
