"""Files saved with a byte order mark: it is no part of the text, for any command."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from supervisor.cli.dev import _value
from supervisor.cli.dev_config import Options, make_config
from supervisor.cli.limits import _sources
from supervisor.cli.migrate import migrate
from supervisor.cli.replay import _app
from supervisor.config import load

BOM = b"\xef\xbb\xbf"
APP = "api.on_inbound_message = function () {};"


def write(file: Path, text: str) -> Path:
    file.write_bytes(BOM + text.encode())
    return file


def test_dev_reads_none(tmp_path: Path) -> None:
    """Neither in the app, nor in its config, nor in a value from a file."""
    app = write(tmp_path / "app.js", APP)
    config = write(tmp_path / "config.json", '{"name": "x"}')
    value = _value(f"translation.af=@{write(tmp_path / 'af.json', '{}')}")
    made = make_config(
        Options(
            app=app,
            config=config,
            values=(value,),
            modules_dir=None,
            state=tmp_path / "state",
            allow=(),
            isolation="none",
        )
    ).apps["app"]
    assert made.source == APP
    assert made.config == {"config": '{"name": "x"}', "translation.af": "{}"}


def test_replay_and_limits_read_none(tmp_path: Path) -> None:
    """In another text of the app, and in the config whose lines are shown."""
    (tmp_path / "app.js").write_text(APP)
    text = (
        "defaults.limits.cpu = '1s'\nversion = 1\n[apps.x]\naccount = 'a'\njavascript = 'app.js'\n"
    )
    file = write(tmp_path / "jsbox.toml", text)
    config = load(file)
    changed = _app(config, "x", write(tmp_path / "changed.js", APP + "//"))
    assert changed.source == APP + "//"
    assert _sources(config, config.apps["x"], file)["cpu"] == f"{file}:1"


def test_migrate_reads_none(tmp_path: Path) -> None:
    """In the worker's YAML, and in its environment."""
    yaml = write(tmp_path / "worker.yaml", "javascript_file: app.js\nsandbox_id: old\n")
    environment = write(tmp_path / "worker.env", "VUMI_OPT_WORKER_NAME=sand\n")
    arguments = ["vxsandbox", str(yaml), "--env-file", str(environment)]
    with_marks = CliRunner().invoke(migrate, arguments)
    for file in (yaml, environment):
        file.write_bytes(file.read_bytes().removeprefix(BOM))
    without = CliRunner().invoke(migrate, arguments)
    assert (with_marks.exit_code, with_marks.output) == (without.exit_code, without.output)
    assert "sand" in without.output
