"""What ends any command: files, encodings, closed streams. Each is said in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import httpx2
import pytest
from click.testing import CliRunner, Result

from supervisor.cli import client, jsbox
from supervisor.cli.client import FULL, FULL_TRIES, _Patient, path_of
from supervisor.cli.logs import _lines

from ...service import ECHO, Folder


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(jsbox, list(map(str, arguments)))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config with an app; nothing serves it."""
    folder = Folder(tmp_path)
    folder.app("phone", ECHO)
    folder.text += "[accounts.acct]\n"
    return folder.config


def test_a_line_of_a_followed_log_ends_where_json_ends() -> None:
    """Not at U+2028 or U+0085 in a message, and wherever the stream is cut: `logs -f` died."""
    entries = [{"message": "one\u2028two\u0085three\u2029"}, {"message": "four"}]
    data = b"".join(json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in entries)
    for size in (1, 7, len(data)):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert [json.loads(line) for line in _lines(pieces)] == entries
    assert list(_lines([b'{"cut of'])) == []


def test_what_is_no_text_is_named(config: Path) -> None:
    """An argument of bytes that are not UTF-8."""
    for arguments in (
        ("logs", "\udcff", "-c", config),
        ("contacts", "export", "a\udcffb", "-c", config),
        ("token", "new", "--name", "\ud83d"),
    ):
        found = invoke(*arguments)
        assert found.exit_code == 2, found
        assert "is not text in UTF-8" in found.stderr or "expected a name" in found.stderr
        assert "Traceback" not in found.stderr


@pytest.mark.parametrize("token", ["sécret", "sec\nret", "sec ret"])
def test_a_token_that_is_none_is_not_shown(
    config: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    """The HTTP client's error has the whole header."""
    monkeypatch.setenv("JSBOX_TOKEN", token)
    url = "ws://127.0.0.1:9/v1"
    for arguments in (("ps", "-c", config), ("chat", "phone", "--url", url)):
        found = invoke(*arguments)
        assert found.stderr.startswith("jsbox: JSBOX_TOKEN is no token"), found.stderr
        assert "ret" not in found.output
    monkeypatch.setenv("JSBOX_TOKEN", " secret\n")  # as a file has it
    assert invoke("ps", "-c", config).exit_code == 4


def test_urls_are_checked(config: Path, tmp_path: Path) -> None:
    """Before anything is opened; what may be a password is not shown."""
    campaign = tmp_path / "campaign.toml"
    campaign.write_text(CAMPAIGN)
    for url in (
        "127.0.0.1:8430",
        "http://h/v1",
        "ws://h:99999/v1",
        "ws://[::1/v1",
        "ws:///v1",
        "x",
    ):
        for arguments in (("chat", "phone", "--url", url), ("load", campaign, "--target", url)):
            found = invoke(*arguments)
            assert found.exit_code == 2, found
            assert f"got {url}: " in found.stderr
    found = invoke("load", campaign, "--target", "ws://h/v1", "--rate", "9000000/s")
    assert found.exit_code == 2
    assert "--rate: 9000000 sessions; a run may have 2000000" in found.stderr
    found = invoke("load", campaign, "--target", "ws://h/v1", "--admin", "u:secret@h")
    assert found.exit_code == 2
    assert "--admin: expected http://HOST:PORT, got " in found.stderr
    assert "secret" not in found.stderr


def test_a_file_that_cannot_be_written_is_named(config: Path, tmp_path: Path) -> None:
    """Before the work whose result it would be; the same goes for a folder."""
    gone = tmp_path / "none" / "found.xml"
    found = invoke("test", config.parent, "-c", config, "--junit", gone)
    assert (found.exit_code, found.stderr) == (
        2,
        f"jsbox: --junit: there is no folder {gone.parent}\n",
    )
    campaign = tmp_path / "campaign.toml"
    campaign.write_text(CAMPAIGN)
    found = invoke("load", campaign, "-c", config, "--out", config / "out")
    assert (found.exit_code, found.stderr) == (
        2,
        f"jsbox: --out: {config / 'out'} cannot be made: Not a directory\n",
    )
    summary = tmp_path / "out" / "summary.json"
    summary.mkdir(parents=True)
    found = invoke("load", campaign, "-c", config, "--out", summary.parent)
    assert (found.exit_code, found.stderr) == (2, f"jsbox: --out: {summary} cannot be written\n")
    recording = tmp_path / "recording.json"
    recording.write_text("{}")
    found = invoke("replay", recording, "-c", config, "--save", gone)
    assert (found.exit_code, found.stderr) == (1, f"jsbox: {gone}: No such file or directory\n")


CAMPAIGN = """
[run]
channel = "phone"
stages = [ { rate = "5/s", for = "1s" } ]

[[dialogue]]
name = "one"

[[dialogue.steps]]
dial = "*1#"
"""


def test_ctrl_c_has_one_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in commands that have no event loop."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(click, "echo", interrupt)
    assert invoke("token", "new").exit_code == 130


CLOSED = """
import os, socket
for number in (0, 1, 2):
    os.close(number)
import sys
sys.stdin = sys.stdout = sys.stderr = None
from supervisor.cli import main
try:
    main(["token", "hash"])
except SystemExit as ended:
    with socket.socket() as one:
        os.fstat(2)
        os._exit(10 * ended.code + one.fileno())
"""


def test_streams_that_the_caller_closed_are_opened() -> None:
    """None of ours gets their numbers; there is nothing to read then, and nobody reads."""
    done = subprocess.run([sys.executable, "-c", CLOSED], env=os.environ, timeout=60, check=False)
    assert done.returncode == 10 * 2 + 3


def test_lists_are_of_one_row_at_least(config: Path) -> None:
    """A number below is a mistake: said at once, with or without a server."""
    for command in (["logs", "phone"], ["trace"], ["deadletters"], ["deadletters", "list"]):
        found = invoke(*command, "-n", "0", "-c", config)
        assert found.exit_code == 2, found
        assert "0 is not in the range x>=1" in found.stderr


def test_a_full_port_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has turned the connection away, and seen nothing of the request. No other 503 is."""
    monkeypatch.setattr(client, "FULL_SECONDS", 0)
    asked = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.content)
        text = {"/full": FULL, "/standby": b"another server has the store"}[request.url.path]
        status = 200 if len(asked) == FULL_TRIES and text == FULL else 503
        return httpx2.Response(status, content=text)

    patient = _Patient(httpx2.MockTransport(answer))
    with httpx2.Client(base_url="http://jsbox", transport=patient) as one:
        assert one.post("/full", content=b"deed").status_code == 200
        assert asked == [b"deed"] * FULL_TRIES
        asked.clear()
        assert one.get("/standby").status_code == 503
        assert len(asked) == 1


def test_a_part_of_a_path_stays_one() -> None:
    """Whatever it is: `..` asked for something else."""
    url = httpx2.URL("http://jsbox" + path_of("v1", "..", "a/b", "."))
    assert url.raw_path == b"/v1/%2E%2E/a%2Fb/%2E"


FOLLOWING = """
import sys, time
from supervisor.cli.common import end_when_unread
end_when_unread()
print("a line", flush=True)
time.sleep(600)
"""


def test_a_reader_that_leaves_ends_what_waits() -> None:
    """`jsbox logs -f | head -1` ended with the next entry, hours later perhaps."""
    argv = [sys.executable, "-c", FOLLOWING]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == b"a line\n"
        command.stdout.close()
        assert command.wait(60) == 1
