"""The phone of `jsbox dev` and `jsbox chat`: its commands, its keyboard, how it ends."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import termios
import tomllib
from pathlib import Path

import pytest

from ..programs import COMMAND_SECONDS, JSBOX, jsbox
from ..terminal import terminal

APP = """
api.on_inbound_message = function (command) {
    var said = command.msg.content;
    if (command.msg.session_event === 'close') return api.done();
    if (said === 'throw') throw new Error('as asked');
    var text = said === 'long' ? Array(92).join('{}') : 'you said ' + said;
    api.request('kv.set', {key: 'users.app.' + command.msg.from_addr, value: {
        lang: 'af', state: {name: 'states:one'}, answers: {'states:one': said}}}, function () {
            api.request('outbound.reply_to', {content: text, in_reply_to: command.msg.message_id,
                continue_session: said !== 'end'}, function () { api.done(); });
        });
};
api.on_inbound_event = function (command) {
    api.request('outbound.send_to', {to_addr: '+1',
        content: command.msg.delivery_status + ' ' + command.msg.user_message_id},
        function () { api.done(); });
};
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    file = tmp_path / "app.js"
    file.write_text(APP)
    (tmp_path / "jsbox.toml").write_text(
        '[accounts.a]\n[apps.app]\naccount = "a"\njavascript = "app.js"\nevents = "always"\n'
        '[channels.phone]\napp = "app"\n'
    )
    return file


def test_the_commands(app: Path) -> None:
    """Piped in: every run ended well, so the exit code is 0; what was saved is a test."""
    lines = [
        "long", "/dr failed", "/dr soon", "/state", "/kv", "/kv users.app.+27820000001",
        "/hangup", "/sms hello", "/as +2782", "/state", "/new", "end", "/save talk", "/save talk",
        "/nothing",
    ]  # fmt: skip
    done = jsbox("dev", str(app.parent), input="\n".join(lines) + "\n", cwd=app.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    for part in (
        "TOO LONG: 364 of 182 characters, GSM-7",
        "the app was told: failed; the run ended as ok",
        "/dr: expected delivered, failed, pending, got soon",
        "state     states:one",
        "language  af",
        'answer    states:one = "long"',
        "users.app.+27820000001",
        "14 characters, GSM-7, 1 part",
        "the toolkit has stored nothing of +2782",
        "12 of 182 characters, GSM-7",
        "there is no /nothing",
        "File exists",
    ):
        assert part in done.stdout, f"{part}\n{done.stdout}"
    assert re.search(r"a message to \+1: failed \w{32}", done.stdout)
    saved = tomllib.loads((app.parent / "talk.chat.toml").read_text())
    assert saved == {
        "from": "+2782",
        "steps": [
            {"dial": "*120*1#", "expect": "you said null"},
            {"send": "end", "expect": "you said end", "expect_end": True},
        ],
    }
    tested = jsbox("test", "-c", str(app.parent / "jsbox.toml"))
    assert (tested.returncode, "1 passed" in tested.stdout) == (0, True), tested.stdout


def test_a_run_that_fails_fails_a_piped_conversation(app: Path) -> None:
    """Whatever comes after it."""
    done = jsbox("dev", str(app), "--screen", "160", input="throw\nhello\n")
    assert done.returncode == 1
    assert "the run ended as app_error" in done.stdout
    assert "14 of 160 characters, GSM-7" in done.stdout


def test_a_reader_that_has_enough_ends_it_quietly(app: Path) -> None:
    """As `jsbox dev | head -2` does."""
    with subprocess.Popen(
        [*JSBOX, "dev", str(app)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write("1\n" * 5)
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write("2\n" * 20)
        process.stdin.close()
        assert process.stderr.read() == ""
        process.wait(COMMAND_SECONDS)


def test_the_keyboard(app: Path) -> None:
    """Arrows edit and repeat lines; what was typed stays when something is said meanwhile; Ctrl-C
    ends it without a word and leaves the terminal as it was.
    """
    with terminal([sys.executable, "-m", "supervisor", "dev", str(app)]) as phone:
        phone.until("you said null")
        phone.until("> ")
        phone.types("helo\x1b[Dl\n")  # one to the left, and a second l
        phone.until("you said hello")
        phone.until("> ")
        phone.types("\x1b[A\n")  # the line before
        phone.until("you said hello")
        phone.until("> ")
        phone.types("par")
        phone.until("par")
        app.write_text(APP.replace("you said", "now you say"))
        phone.until("the app was reloaded")
        phone.until("> par")
        phone.types("tial\n")
        phone.until("now you say partial")
        phone.until("> ")
        phone.process.send_signal(signal.SIGINT)
        assert phone.process.wait(COMMAND_SECONDS) == 130
        assert "Traceback" not in phone.rest()
        assert termios.tcgetattr(phone.inside)[3] == phone.modes[3]


def test_the_end_may_be_typed_before_it_is_asked_for(app: Path) -> None:
    """Ctrl-D while the app still thinks ends the conversation after its answer."""
    with terminal([sys.executable, "-m", "supervisor", "dev", str(app)]) as phone:
        phone.until("you said null")
        phone.until("> ")
        phone.types("hello\n\x04")
        phone.until("you said hello")
        assert phone.process.wait(COMMAND_SECONDS) == 0
        assert termios.tcgetattr(phone.inside)[3] == phone.modes[3]


@pytest.mark.slow
def test_what_goes_wrong_is_said_with_what_may_help(app: Path) -> None:
    """A run that never ends, bytes that are no text, and a line that no gateway takes."""
    app.write_text(APP.replace("var text", "if (said === 'wait') return;\n    var text"))
    toml = app.parent / "jsbox.toml"
    toml.write_text(toml.read_text().replace("[apps.app]\n", '[apps.app]\nlimits.wall = "1s"\n'))
    given = b"wait\n\xff\n" + 100_000 * b"1" + b"\n"
    done = subprocess.run(
        [*JSBOX, "dev"], cwd=app.parent, input=given, capture_output=True, timeout=COMMAND_SECONDS,
        check=False,
    )  # fmt: skip
    said = done.stdout.decode()
    assert done.returncode == 1, said
    for part in (
        "the run ended as wall\nA run ends with api.done(): is it called, whatever comes back?",
        "you said \ufffd",
        "the gateway closed the connection: expected a frame of at most 65536 bytes",
    ):
        assert part in said, said
    assert not done.stderr
    app.write_text("module.exports = {};")
    done = jsbox("dev", str(app), cwd=app.parent)
    assert done.returncode == 3
    assert "An app is one script, and no module" in done.stderr
