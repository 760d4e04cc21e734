"""`jsbox load` as users run it: real servers, real sandboxes, real HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from ..programs import jsbox, serve
from ..service import ECHO, REPLY, Folder

BACK_END = """
api.on_inbound_message = function (command) {
    if (command.msg.session_event === 'close') return api.done();
    api.request('http.get', {url: 'http://hub.example.org/api/one'}, function (reply) {
        var answer = {content: 'hub says ' + reply.body, in_reply_to: command.msg.message_id};
        api.request('outbound.reply_to', answer, function () { api.done(); });
    });
};
"""


def campaign(
    folder: Folder,
    steps: str,
    more: str = "",
    *,
    rate: str = "12/s",
    seconds: str = "2s",
    run: str = "",
    give_up: str = "",
) -> str:
    """A campaign file, whose users and run are patient, so that a slow machine causes no error."""
    text = (
        f'[run]\nchannel = "phone"\nstages = [ {{ rate = "{rate}", for = "{seconds}" }} ]\n'
        f'think = {{ lognormal = "50ms" }}\nfinish = "120s"\n'
        f'give_up = {{ after = "120s"{give_up} }}\n'
        f'users = {{ pool = 200, returning = 0.2 }}\n{run}\n[[dialogue]]\nname = "talk"\n'
        f"steps = [ {steps} ]\n{more}"
    )
    file = folder.path / "campaign.toml"
    file.write_text(text)
    return str(file)


def load(
    folder: Folder, *arguments: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    out = folder.path / "out"
    done = jsbox(
        "load",
        str(folder.path / "campaign.toml"),
        "-c",
        str(folder.config),
        "--out",
        str(out),
        *arguments,
    )
    summary = out / "summary.json"
    return done, json.loads(summary.read_text()) if summary.exists() else {}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_run_without_a_conversation_says_so(folder: Folder) -> None:
    """It is void, but the generator was not late: the stages were too short for their rate."""
    folder.app("phone", ECHO)
    campaign(folder, '{ dial = "*1#" }', rate="0.0001/h", seconds="1s")
    done, summary = load(folder, "--serve", "--no-tui")
    assert (done.returncode, summary["verdict"]) == (1, "void"), done.stderr
    assert "void: nothing was measured" in done.stdout


def test_conversations_that_go_as_expected_pass(folder: Folder) -> None:
    """Exit 0; every session is counted, and the report holds the same numbers as the summary."""
    folder.app("phone", ECHO)
    campaign(
        folder,
        '{ dial = "*1#", expect = "you said" }, { send = "7", expect = "you said 7" }',
        '[thresholds]\n"reply.p99" = "< 120s"\n"missing_replies" = "== 0"\n'
        '"dialogue.talk.completed" = "== 100%"\n"generator.late.p99" = "< 60s"\n'
        '"sandbox.rss.max" = "< 200MiB"\n',
    )
    done, summary = load(folder, "--serve", "--no-tui")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    sessions, replies = summary["sessions"], summary["replies"]
    assert isinstance(sessions, dict)
    assert isinstance(replies, dict)
    assert sessions["started"] == sessions["completed"] > 10
    assert replies["count"] == 2 * sessions["completed"]
    assert 0 < replies["p50"] <= replies["p99"] <= replies["max"] < 120
    assert "passed" in (folder.path / "out" / "report.html").read_text()
    suite = ET.parse(folder.path / "out" / "junit.xml").getroot()  # our own file
    assert (suite.get("tests"), suite.get("failures")) == ("5", "0")


@pytest.mark.slow
def test_unexpected_behaviour_of_the_app_is_counted_by_reason(folder: Folder) -> None:
    """A wrong text, no reply, an unexpected end: exit 99, each error counted under its reason, with
    the step at which it happened.
    """
    javascript = (
        "var msg = command.msg, n = Number(msg.from_addr.slice(-1)) % 4, content = msg.content;"
        "if (msg.session_event === 'close' || (content === '7' && n === 1)) return api.done();"
        "if (content === '7' && n === 2) throw new Error('no');"
        "api.request('outbound.reply_to', {content: content === '7' && n === 3 ? 'what?' :"
        " 'fine', continue_session: true,"
        "in_reply_to: msg.message_id}, function () { api.done(); });"
    )
    folder.app("phone", javascript)
    campaign(
        folder,
        '{ dial = "*1#", expect = "fine" }, { send = "7", expect = "fine" }',
        '[thresholds]\n"dialogue.talk.completed" = "> 90%"\n"generator.late.p99" = "< 60s"\n',
    )
    done, summary = load(folder, "--serve", "--no-tui")
    assert done.returncode == 99, done.stdout + done.stderr
    assert summary["verdict"] == "missed"
    assert isinstance(summary["errors"], dict)
    assert set(summary["errors"]) == {"no_reply", "app_error", "wrong_reply"}
    assert isinstance(summary["dialogues"], dict)
    assert set(summary["dialogues"]["talk"]["stopped_at_step"]) == {"2"}
    (example, *_) = summary["examples"]["wrong_reply"]
    assert (example["step"], example["expected"], example["got"]) == ("2", "fine", "what?")
    assert all(one["got"] is None for one in summary["examples"]["no_reply"])
    assert 'expected "fine", received "what?"' in done.stdout + done.stderr
    assert "<td>what?</td>" in (folder.path / "out" / "report.html").read_text()
    rows = (folder.path / "out" / "timeline.csv").read_text().splitlines()
    assert rows[0] == "at,target,offered,completed,replies,errors,p50,p99"
    assert len(rows) == 1 + len(summary["timeline"])
    failed = ET.parse(folder.path / "out" / "junit.xml").getroot().find("testcase/failure")
    assert failed is not None


@pytest.mark.slow
def test_a_slow_server_is_measured_from_when_replies_were_due(folder: Folder) -> None:
    """With more load than one process can take, times from when messages were due grow with the
    queue, and the phases show that it is the queue.
    """
    folder.app(
        "phone",
        "var end = Date.now() + 60; while (Date.now() < end) {}" + ECHO,
        "pool = { max_processes = 1 }",
    )
    campaign(
        folder,
        '{ dial = "*1#" }',
        '[thresholds]\n"reply.p99" = "< 300ms"\n"generator.late.p99" = "< 60s"\n',
        rate="30/s",
        seconds="1s",
    )
    done, summary = load(folder, "--serve", "--no-tui")
    assert done.returncode == 99, done.stdout + done.stderr
    assert isinstance(summary["replies"], dict)
    assert summary["replies"]["p99"] > 0.5
    assert "messages wait for their turn" in done.stdout
    assert "([apps.phone.pool] max_processes = ...)" in done.stdout.replace("\n", " ")
    (row,) = [one for one in summary["thresholds"] if one["name"] == "reply.p99"]
    assert row["first_breach"] == 0.0


@pytest.mark.slow
def test_back_ends_are_played(folder: Folder) -> None:
    """The stub answers for the host that the app asks, with its latency and its errors."""
    folder.app("phone", BACK_END)
    campaign(
        folder,
        '{ dial = "*1#", expect = "hub says yes" }',
        '[stub."http://hub.example.org/api/*"]\n'
        'reply = { body = "yes", p50 = "50ms", errors = { "503" = 0.2 } }\n'
        '[thresholds]\n"reply.p50" = "> 50ms"\n"errors.wrong_reply" = "> 0"\n'
        '"generator.late.p99" = "< 60s"\n',
    )
    done, summary = load(folder, "--serve", "--no-tui")
    assert done.returncode == 0, done.stdout + done.stderr
    assert isinstance(summary["stubs"], dict)
    assert set(summary["stubs"]) == {"200", "503"}


@pytest.mark.slow
def test_faults_happen_when_they_are_due_and_no_reply_is_lost(folder: Folder) -> None:
    """The config is reloaded, the connection dropped, a process killed, the server drained and
    restarted. Users wait at most, except those whose message is rejected because of the drain.
    """
    folder.app("phone", ECHO, "pool = { min_idle = 1 }")
    campaign(
        folder,
        '{ dial = "*1#", expect = "you said" }, { send = "7", expect = "you said 7" }',
        '[faults]\n"300ms" = "reload-limits"\n"600ms" = "gateway-disconnect"\n'
        '"1500ms" = "kill-sandbox"\n"1800ms" = "drain"\n'
        '[thresholds]\n"errors.timeout" = "== 0"\n"generator.late.p99" = "< 60s"\n',
        seconds="2500ms",
        rate="8/s",
    )
    done, summary = load(folder, "--serve", "--no-tui")
    assert done.returncode == 0, done.stdout + done.stderr
    errors = Counter(summary["errors"])
    assert errors.total() - errors["draining"] < 2, errors  # of the killed process
    notes = dict(note["text"].split(": ", 1) for note in summary["notes"])
    assert set(notes) == {"reload-limits", "gateway-disconnect", "kill-sandbox", "drain"}
    assert "the config was read again" in notes["reload-limits"]
    assert "killed" in notes["kill-sandbox"]
    assert "not killed" not in notes["kill-sandbox"]
    assert "started again" in notes["drain"]
    due = {note["text"].split(":")[0]: note["at"] for note in summary["notes"]}
    assert due == {
        "reload-limits": 0.3,
        "gateway-disconnect": 0.6,
        "kill-sandbox": 1.5,
        "drain": 1.8,
    }


@pytest.mark.slow
def test_replies_that_come_over_another_connection_are_known(folder: Folder) -> None:
    """Three connections are lost while replies are in transit: each reply finds its conversation
    over any connection.
    """
    folder.app(
        "phone",
        "require('timers').setTimeout(function () { " + ECHO + " }, 300);",
        'modules = ["timers"]\npool = { max_processes = 8 }',
    )
    campaign(
        folder,
        '{ dial = "*1#", expect = "you said" }',
        '[faults]\n"300ms" = "gateway-disconnect"\n"1300ms" = "gateway-disconnect"\n'
        '[thresholds]\n"errors" = "== 0"\n"generator.late.p99" = "< 60s"\n',
        seconds="2s",
        run="connections = 3",
    )
    done, summary = load(folder, "--serve", "--no-tui")
    assert done.returncode == 0, done.stdout + done.stderr
    assert summary["generator"]["reconnects"] == 6


def test_a_running_server_is_loaded_through_its_config(folder: Folder) -> None:
    """Without --serve the gateway and the admin port of the config are used; users who hang up are
    counted as such, and a baseline is compared.
    """
    folder.app("phone", REPLY % "'fine'")
    campaign(
        folder,
        '{ dial = "*1#" }, { send = "1" }, { send = "2" }',
        '[thresholds]\n"generator.late.p99" = "< 60s"\n',
        give_up=", rate_per_step = 0.5",
        seconds="1s",
    )
    with serve(folder.config) as server:
        arguments = (
            "--target",
            server.gateway,
            "--admin",
            server.admin,
            "--app",
            "phone",
            "--no-tui",
        )
        done, summary = load(folder, *arguments)
        again, _ = load(
            folder,
            *arguments,
            "--baseline",
            str(folder.path / "out"),
            "--rate",
            "10/s",
            "--seed",
            "5",
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert isinstance(summary["sessions"], dict)
    assert summary["sessions"]["gave_up"] > 0
    assert summary["sessions"]["failed"] == 0
    assert isinstance(summary["server"], dict)
    assert set(summary["server"]["phases"]) == {"queue", "held", "boot", "app", "calls"}
    assert again.returncode == 0, again.stdout + again.stderr
    assert "reply p50: " in again.stdout


def test_a_run_is_void_when_the_generator_was_late(folder: Folder) -> None:
    """The run then says nothing about the server: exit 1."""
    folder.app("phone", ECHO)
    campaign(
        folder,
        '{ dial = "*1#" }',
        '[thresholds]\n"generator.late.p99" = "< 0.001ms"\n',
        seconds="1s",
    )
    done, summary = load(folder, "--serve", "--no-tui")
    assert (done.returncode, summary["verdict"]) == (1, "void"), done.stdout + done.stderr


def test_a_campaign_that_cannot_run_says_why(folder: Folder) -> None:
    """Exit 3 for errors in the files, 4 if the gateway cannot be reached, 2 for conflicting
    arguments.
    """
    folder.app("phone", ECHO)
    file = campaign(folder, '{ dial = "*1#", sned = "x" }')
    done, _ = load(folder)
    assert done.returncode == 3
    assert (
        f"{file}:11: dialogue.0.steps.0.sned: unknown key `sned`; did you mean `send`?"
        in done.stderr
    )
    campaign(folder, '{ dial = "*1#" }', '[faults]\n"1s" = "drain"\n')
    assert "which needs --serve" in load(folder)[0].stderr
    campaign(folder, '{ dial = "*1#" }')
    checked = load(folder, "--check")[0]
    assert (checked.returncode, "campaign.toml: ok; " in checked.stdout) == (0, True)
    unreachable = load(folder, "--target", "ws://127.0.0.1:9/v1")[0]
    assert unreachable.returncode == 4
    assert "no gateway at ws://127.0.0.1:9/v1" in unreachable.stderr
    assert load(folder, "--serve", "--target", "ws://127.0.0.1:9/v1")[0].returncode == 2
    assert load(folder, "--rate", "fast")[0].returncode == 2
    (folder.path / "campaign.toml").write_text(
        (folder.path / "campaign.toml").read_text().replace('"phone"', '"fax"')
    )
    assert "the config has no channel 'fax'; it has phone" in load(folder)[0].stderr


def test_a_load_test_reaches_nobody_else(folder: Folder) -> None:
    """With --serve, a back end without a stub is refused, and the config's store is never used."""
    folder.text += '[redis]\nurl = "redis://127.0.0.1:9"\n'
    folder.app("phone", BACK_END.replace("reply.body", "reply.success"))
    campaign(
        folder,
        '{ dial = "*1#", expect = "hub says false" }',
        '[thresholds]\n"generator.late.p99" = "< 60s"\n"errors" = "== 0"\n',
        seconds="1s",
    )
    done, _ = load(folder, "--serve", "--no-tui")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_on_a_terminal_there_is_a_screen_and_ctrl_c_reports(folder: Folder) -> None:
    """It shows rates, percentiles and the pool; the first Ctrl-C ends the run with its report."""
    folder.app("phone", ECHO)
    file = campaign(
        folder, '{ dial = "*1#" }', '[thresholds]\n"generator.late.p99" = "< 60s"\n', seconds="60s"
    )
    terminal, inside = pty.openpty()
    argv = [
        sys.executable,
        "-m",
        "supervisor",
        "load",
        file,
        "-c",
        str(folder.config),
        "--serve",
        "--out",
        str(folder.path / "out"),
    ]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    with subprocess.Popen(
        argv, stdout=inside, stderr=inside, stdin=inside, env=environment
    ) as process:
        os.close(inside)
        shown = b""
        deadline = time.monotonic() + 120
        while b"replies, last minute" not in shown or shown.count(b"phone: ") < 8:
            assert time.monotonic() < deadline, shown.decode()
            shown += os.read(terminal, 65536)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while data := os.read(terminal, 65536):
                shown += data
        os.close(terminal)
    assert process.returncode == 0, shown.decode()
    assert b"passed" in shown
    assert json.loads((folder.path / "out" / "summary.json").read_text())["stopped"] is True
