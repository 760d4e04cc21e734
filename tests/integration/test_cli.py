"""The command line, as its users call it."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import trio
from attrs import define

from ..gateway_client import PATIENCE, connect
from ..programs import free_ports, jsbox, serve
from ..service import ECHO, Folder

SAMPLE = Path(__file__).parents[2] / "sandbox_js" / "sample"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_demo_plays_its_conversation() -> None:
    """`jsbox demo --once` needs nothing and exits 0 when every screen was right."""
    done = jsbox("demo", "--once")
    assert done.returncode == 0, done.stdout + done.stderr
    for text in (
        "Welcome to Thuto Clinic.",
        "That is not one of the choices.",
        "Thank you, Thandi.",
        "Welcome back, Thandi!",
        "Kuruman Clinic",
    ):
        assert text in done.stdout
    assert done.stderr == ""


def test_demo_fails_when_a_reply_is_wrong(tmp_path: Path) -> None:
    """Non-zero, with what was expected and what came."""
    code = (
        "import supervisor.cli.demo as demo\n"
        "demo.FIRST_CALL = (demo.Step('dial', '^Something else$'),)\n"
        "from supervisor.cli import main\nmain(['demo', '--once'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "the demo failed: expected '^Something else$'" in done.stdout.replace("\n", " ")


@pytest.mark.slow
def test_demo_serves_until_interrupted() -> None:
    """After the conversation it goes on, on free ports if the usual ones are taken, and Ctrl-C ends
    it cleanly.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "supervisor", "demo"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if line.startswith("serving: gateway ws://127.0.0.1:"):
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_check_names_every_error(folder: Folder) -> None:
    """Exit code 3 and FILE:LINE for each; 0 and a summary for a good file; JSON for programs."""
    folder.app("phone", ECHO)
    good = str(folder.config)
    done = jsbox("check", "-c", good)
    assert (done.returncode, done.stdout) == (0, f"{good}: ok, 1 apps, 1 channels\n")
    assert json.loads(jsbox("check", "-c", good, "--json").stdout)["ok"] is True
    folder.text += "[nope]\n[defaults.limits]\nwall = 5\n"
    bad = str(folder.config)
    done = jsbox("check", "-c", bad)
    assert done.returncode == 3
    lines = done.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines[:2]] == ["nope", "defaults.limits.wall"]
    assert lines[-1] == f"jsbox: 2 errors in {bad}"
    found = json.loads(jsbox("check", "-c", bad, "--json").stdout)
    assert [error["line"] for error in found["errors"]] == [12, 14]
    assert jsbox("check", "-c", "/no/such/file").returncode == 3


def test_usage_errors_are_2() -> None:
    """As everywhere."""
    assert jsbox("nonsense").returncode == 2
    assert jsbox("logs").returncode == 2
    for name in ("demo", "dev", "serve", "check", "logs", "ps", "reload", "push", "contacts"):
        assert jsbox(name, "--help").returncode == 0
    assert jsbox("--version").stdout.startswith("jsbox, version ")


def test_a_server_that_is_not_there_is_4(folder: Folder) -> None:
    """With where it was looked for. The log of an app is read without one."""
    folder.text = folder.text.replace('admin = "127.0.0.1:0"', 'admin = "127.0.0.1:1"')
    config = str(folder.config)
    for command in (["ps"], ["reload"], ["push", "phone", "+27"]):
        done = jsbox(*command, "-c", config)
        assert done.returncode == 4, done
        assert "127.0.0.1:1" in done.stderr


async def _run(folder: Folder, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command with the folder's config as it is now."""
    return await trio.to_thread.run_sync(partial(jsbox, *command, "-c", str(folder.config)))


async def test_logs_ps_reload_and_push(folder: Folder) -> None:
    """Against a running server."""
    admin = f'admin = "127.0.0.1:{free_ports(1)[0]}"'
    folder.text = folder.text.replace('admin = "127.0.0.1:0"', admin)
    folder.app(
        "phone", "api.log_info('first\\nsecond \\u001b[31mred', function () { " + ECHO + " });"
    )
    # Of its own, since on a busy machine it may be read after the other has been changed.
    other = folder.path / "follow.toml"
    other.write_text(folder.config.read_text())
    run = partial(_run, folder)
    with serve(folder.config) as server:
        follow = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "supervisor", "logs", "phone", "-f", "-c", str(other)],
            stdout=subprocess.PIPE,
            text=True,
        )
        async with connect(server.gateway) as client:
            await client.say("x", "new")
            pushed = await run("push", "phone", "+1")
            text = "1 queued, 0 opted out, 0 without address\n"
            assert (pushed.returncode, pushed.stdout) == (0, text)
            await client.expect("outcome")
            first, second, *_ = (await run("logs", "phone", "-n", "1")).stdout.splitlines()
            assert first.endswith("INFO     first")
            assert second == "    second \\x1b[31mred"
            row, *_ = (await run("logs", "phone", "--json")).stdout.splitlines()
            assert json.loads(row)["level"] == "INFO"
            assert (await run("ps")).stdout.splitlines()[1].startswith("phone")
            assert (await run("reload")).stdout == "nothing has changed\n"
            folder.text += "[apps.phone.limits]\nwall = '9s'\n"
            changed = await run("reload")
            assert "live             apps.phone.limits.wall" in changed.stdout
            folder.text += "[broken]\n"
            assert (await run("logs", "phone")).returncode == 3
            server.process.send_signal(signal.SIGHUP)
            with trio.fail_after(PATIENCE):
                while "the config was not reloaded" not in server.log.read_text():
                    await trio.sleep(0.05)
            folder.text = folder.text.replace("[broken]\n", "")
            for name in ("nobody", "phone?x"):
                unknown = await run("logs", name)
                last = unknown.stderr.strip().splitlines()[-1]
                assert (unknown.returncode, last) == (1, f"jsbox: there is no app {name!r}")
            assert follow.stdout is not None
            followed = await trio.to_thread.run_sync(follow.stdout.readline)
            follow.terminate()
            follow.communicate(timeout=10)
            assert followed.endswith("INFO     first\n")


def test_dev_reads_lines_where_there_is_no_terminal() -> None:
    """A whole conversation by pipe; /words do what they say; it ends with the input."""
    typed = "9\n1\nSipho\n/new\n/hangup\n/as +27111\n/sms hello\n/nonsense\n/help\n"
    done = jsbox(
        "dev", str(SAMPLE / "clinic.js"), "--config", str(SAMPLE / "config.json"), input=typed
    )
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    places = [
        text.index(part)
        for part in (
            "Welcome to Thuto Clinic.",
            "not one of the choices",
            "What is your name?",
            "Thank you, Sipho.",
            "Welcome back, Sipho!",
        )
    ]
    assert places == sorted(places)
    assert "this is +27111" in text
    assert "there is no /nonsense" in text


def test_dev_says_what_is_wrong_with_the_app(tmp_path: Path) -> None:
    """The error with its place, live; and a missing file or config before anything starts."""
    app = tmp_path / "app.js"
    app.write_text("api.on_inbound_message = function () {\n  oops();\n};")
    done = jsbox("dev", str(app), "--sms", input="hi\n")
    assert "ReferenceError: oops is not defined" in done.stdout
    assert "app.js:2:3" in done.stdout
    app.write_text("\n  var 1;")
    done = jsbox("dev", str(app), "--sms", input="hi\n")
    assert (done.returncode, "app.js:2:7: app app: SyntaxError: " in done.stderr) == (3, True)
    app.write_text("require('vumigo_v02');")
    broken = tmp_path / "own.json"
    broken.write_text('{"name" 1}')
    done = jsbox("dev", str(app), "--config", str(broken), input="hi\n")
    assert (done.returncode, f"{broken}:1:9: app app: config.config" in done.stderr) == (3, True)
    done = jsbox("dev", str(app), "--set", f"translation.af=@{broken}", input="hi\n")
    assert (done.returncode, "config.translation.af" in done.stderr) == (3, True)
    assert jsbox("dev", str(tmp_path / "nothing.js")).returncode == 2
    assert jsbox("dev", str(app), "--set", "novalue").returncode == 2
    assert jsbox("dev", str(app), "--allow", "http://x").returncode == 3


OPTS_OUT = """
api.on_inbound_message = function (command) {
    api.request('optout.optout', {address_type: 'msisdn', address_value: '+27111',
        message_id: 'm1'}, function (reply) {
        api.request('outbound.reply_to', {content: 'opted out: ' + reply.success,
            in_reply_to: command.msg.message_id}, function () { api.done(); });
    });
};
"""


def test_dev_may_manage_opt_outs_and_says_what_require_does_not_give(tmp_path: Path) -> None:
    """The account is the developer's own."""
    app = tmp_path / "app.js"
    app.write_text("var here = require('q'), missing = require('left-pad');" + OPTS_OUT)
    done = jsbox("dev", str(app), "--sms", input="hi\n")
    assert "opted out: true" in done.stdout
    assert "require('left-pad') gives null: add" in done.stderr
    assert "require('left-pad') gave null: add it to modules" in done.stdout
    assert "'q'" not in done.stdout + done.stderr


def test_dev_is_a_phone_in_the_terminal_and_reloads(tmp_path: Path) -> None:
    """In a real terminal: type, see, change the file, type again; Ctrl-D leaves."""
    app = tmp_path / "app.js"
    app.write_text("api.on_inbound_message = function (command) { " + ECHO + " };")
    descriptor, inside = pty.openpty()
    terminal = _Terminal(descriptor)
    process = subprocess.Popen(
        [sys.executable, "-m", "supervisor", "dev", str(app)],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        env=os.environ | {"TERM": "dumb", "COLUMNS": "100"},
        start_new_session=True,
    )
    os.close(inside)
    try:
        terminal.until("you said null")
        os.write(descriptor, b"hello\n")
        terminal.until("you said hello")
        good = app.read_text()
        app.write_text(good + "\nvar a = ;\n")
        terminal.until("app.js:2:9: app app: SyntaxError: Unexpected token ';'")
        terminal.until("it goes on as it was")
        os.write(descriptor, b"still\n")
        terminal.until("you said still")
        app.write_text(
            "api.on_inbound_message = function (command) { "
            + ECHO.replace("you said", "now you say")
            + " };"
        )
        terminal.until("the app was reloaded")
        os.write(descriptor, b"again\n")
        terminal.until("now you say again")
        os.write(descriptor, b"\x04")
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()
        os.close(descriptor)


@define
class _Terminal:
    """What a program writes to a terminal, as far as it was not looked for yet."""

    descriptor: int
    _unread: str = ""

    def until(self, text: str) -> None:
        """Read on until a text has come; what comes after it is kept for the next time."""
        deadline = time.monotonic() + PATIENCE
        while text not in self._unread:
            assert time.monotonic() < deadline, self._unread
            if select.select([self.descriptor], [], [], 0.2)[0]:
                self._unread += os.read(self.descriptor, 4096).decode(errors="replace")
        self._unread = self._unread.partition(text)[2]


OTHERS = """
api.on_inbound_message = function (command) {
    api.request('outbound.send_to_endpoint', {endpoint: 'default', to_addr: '+27999',
        content: 'for somebody else'}, function () {
        api.request('outbound.reply_to', {content: 'you said ' + command.msg.content,
            in_reply_to: command.msg.message_id}, function () { api.done(); });
    });
};
"""


async def test_chat_is_a_phone_of_a_running_server(folder: Folder) -> None:
    """Sessions and text messages; what the app sends to other numbers is left for the channel's own
    gateway.
    """
    gateway, admin = free_ports(2)
    folder.text = (
        f'version = 1\n[listen]\ngateway = "127.0.0.1:{gateway}"\nadmin = "127.0.0.1:{admin}"\n'
    )
    folder.app("phone", OTHERS)
    down = await trio.to_thread.run_sync(
        lambda: jsbox("chat", "-c", str(folder.config), input="x\n")
    )
    assert (down.returncode, "cannot be reached" in down.stderr) == (4, True)
    with serve(folder.config) as server:
        talked = await trio.to_thread.run_sync(
            lambda: jsbox(
                "chat", "-c", str(folder.config), "--as", "+27111", input="hello\n/quit\n"
            )
        )
        assert talked.returncode == 0, talked.stdout + talked.stderr
        assert "you said hello" in talked.stdout
        assert "+27111 dials *120*1#" in talked.stdout
        texted = await trio.to_thread.run_sync(
            lambda: jsbox(
                "chat",
                "phone",
                "--sms",
                "--url",
                server.gateway,
                "-c",
                str(folder.config),
                input="hello again\n",
            )
        )
        assert "you said hello again" in texted.stdout
        async with connect(server.gateway) as client:
            left = [await client.expect_that(lambda f: f["type"] == "outbound") for _ in range(3)]
        assert {one["msg"]["to_addr"] for one in left} == {"+27999"}
        wrong = await trio.to_thread.run_sync(
            lambda: jsbox("chat", "nope", "-c", str(folder.config))
        )
        assert (wrong.returncode, "it has phone" in wrong.stderr) == (2, True)
