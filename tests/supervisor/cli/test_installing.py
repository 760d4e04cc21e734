"""`jsbox dev --install`: what an app requires, in a folder of ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from attrs import evolve

from supervisor.cli.installing import folder_for, install, missing, packages_of, specifications
from supervisor.config import App, Config, InvalidConfig
from supervisor.host.version import node_path

from ...programs import jsbox

SOURCE = """\
require('vumigo_v02'); require('crypto'); require('node:url'); require('fs'); require('./mine');
require('greeter/lib/hello'); require('@scope/town'); require('greeter');
"""
VENDORED = {
    "greeter/package.json": '{"name": "greeter", "version": "1.2.3", "main": "index.js"}',
    "greeter/index.js": "exports.greet = function (name) { return 'Hello ' + name; };",
}


def app(folder: Path, source: str = SOURCE) -> App:
    return App("app", "dev", folder / "app.js", source=source)


def test_only_packages_that_do_not_come_with_it_count(tmp_path: Path) -> None:
    asking = app(tmp_path)
    assert packages_of(asking) == ["greeter", "@scope/town"]
    modules = tmp_path / "node_modules"
    (modules / "greeter").mkdir(parents=True)
    assert missing(evolve(asking, modules_dir=modules)) == ["@scope/town"]


def test_the_versions_are_those_of_the_repository(tmp_path: Path) -> None:
    """Of the package.json nearest to the app; a folder that it names is meant from there."""
    asking = app(tmp_path / "build")
    assert [*specifications(asking)] == ["greeter", "@scope/town"]
    wanted = {
        "devDependencies": {"greeter": "^9", "mocha": "1"},
        "dependencies": {"greeter": "file:vendor/greeter", "@scope/town": "~2.1.0"},
    }
    (tmp_path / "package.json").write_text(json.dumps(wanted))
    assert [*specifications(asking)] == [
        f"greeter@file:{tmp_path}/vendor/greeter", "@scope/town@~2.1.0",
    ]  # fmt: skip


def test_each_app_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one, other = folder_for(app(tmp_path)), folder_for(app(tmp_path / "other"))
    assert one != other
    assert one.is_relative_to(tmp_path / "cache" / "jsbox" / "dev")


def test_npm_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"dependencies": {"greeter": "file:gone"}}')
    asking = app(tmp_path, "require('greeter');")
    with pytest.raises(InvalidConfig, match=r"(?s)--install: .*gone"):
        install(asking, tmp_path / "own", node_path(Config()))


@pytest.mark.slow
def test_dev_installs_what_is_missing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real npm, and a package from a folder. The app's folder stays as it is; the second
    time nothing is left to do.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    repository = tmp_path / "repository"
    for name, text in VENDORED.items():
        file = repository / "vendor" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (repository / "package.json").write_text(
        '{"main": "app.js", "dependencies": {"greeter": "file:vendor/greeter"}}'
    )
    (repository / "app.js").write_text(
        "var greet = require('greeter').greet;\n"
        "api.on_inbound_message = function (command) {\n"
        "    api.request('outbound.reply_to', {content: greet('you'), continue_session: false,\n"
        "        in_reply_to: command.msg.message_id}, function () { api.done(); });\n"
        "};\n"
    )
    before = sorted(repository.rglob("*"))
    plain = jsbox("dev", str(repository))
    assert plain.returncode == 3
    assert "require('greeter') gives null" in plain.stderr
    assert "jsbox: --install has npm install what is missing" in plain.stderr
    first = jsbox("dev", str(repository), "--install")
    assert (first.returncode, "Hello you" in first.stdout) == (0, True), first.stderr
    assert f"npm install greeter@file:{repository}/vendor/greeter into {tmp_path}" in first.stderr
    second = jsbox("dev", str(repository), "--install")
    assert (second.returncode, "npm install" in second.stderr) == (0, False)
    assert sorted(repository.rglob("*")) == before
