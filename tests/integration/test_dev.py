"""`jsbox dev` reloads the app whenever one of its files was saved."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve

from supervisor import service
from supervisor.cli import dev
from supervisor.cli.back_ends import open_back_ends
from supervisor.cli.dev import _dev, _Watched
from supervisor.cli.dev_config import Options, Value, find_app, make_config
from supervisor.config import App, Config, Http, InvalidConfig, load

from ..programs import jsbox

APP = "api.on_inbound_message = function () { api.done(); };"


@pytest.fixture
def options(tmp_path: Path) -> Options:
    app, value = tmp_path / "app.js", tmp_path / "af.json"
    app.write_text(APP)
    value.write_text("{}")
    return Options(
        app=app,
        config=None,
        values=(Value("translation.af", "", value),),
        modules_dir=None,
        state=tmp_path / "state",
        allow=(),
        isolation="none",
    )


def test_each_file_is_watched(options: Options) -> None:
    watched = _Watched(options)
    assert not watched.have_changed()
    (file,) = (one.file for one in options.values)
    assert file is not None
    file.write_text('{"a": 1}')
    assert watched.have_changed()
    assert not watched.have_changed()


def test_a_missing_file_hides_no_change_of_another(options: Options) -> None:
    """It counts once it is back."""
    watched = _Watched(options)
    (file,) = (one.file for one in options.values)
    assert file is not None
    file.unlink()
    assert not watched.have_changed()
    options.app.write_text(APP + "\n")
    assert watched.have_changed()
    file.write_text("{}")
    assert watched.have_changed()


def test_another_file_of_the_same_size_and_time_is_a_change(options: Options) -> None:
    watched, before = _Watched(options), options.app.stat()
    other = options.app.with_name("other.js")
    other.write_text(APP.replace("done", "DONE"))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(options.app)
    assert options.app.stat().st_mtime_ns == before.st_mtime_ns
    assert watched.have_changed()


TOML = """\
[accounts.acme]
[apps.menu]
account = "acme"
javascript = "app.js"
http = { allow = ["hub.example.org"] }
endpoints = { default = "phone", sms = "bulk" }

[apps.menu.config]
greeting = "hello"
"translation.af" = { file = "af.json" }
[apps.other]
account = "acme"
javascript = "app.js"
[channels.phone]
app = "menu"
[channels.bulk]
"""


def test_the_app_of_a_folder_is_the_one_that_is_served(options: Options) -> None:
    """With its config and limits, but for where it sends; the command line has the last word."""
    folder = options.app.parent
    (folder / "jsbox.toml").write_text(TOML)
    found = find_app(folder)
    assert found is not None
    with pytest.raises(InvalidConfig, match=r"choose one with --app: it has menu, other"):
        make_config(evolve(options, app=found))
    with pytest.raises(InvalidConfig, match=r"no app 'meny'; it has menu"):
        make_config(evolve(options, app=found, name="meny"))
    chosen = evolve(
        options,
        app=found,
        name="menu",
        values=(Value("greeting", "hi"),),
        connect_to={"hub.example.org": "http://127.0.0.1:9"},
    )
    made = make_config(chosen)
    app, served = made.apps["menu"], load(found).apps["menu"]
    assert dict(app.config) == {"greeting": "hi", "translation.af": "{}"}
    assert dict(app.endpoints) == {"default": "phone", "sms": "phone"}
    assert (app.source, app.modules, app.limits) == (served.source, served.modules, served.limits)
    assert app.http.allow == ("hub.example.org",)
    assert dict(app.http.connect_to) == {"hub.example.org": "http://127.0.0.1:9"}
    assert set(made.apps) == {"menu"}


def test_packages_are_found(options: Options) -> None:
    """Scoped ones, too; a file whose name begins as a scope's does is none."""
    folder = options.app.parent / "node_modules"
    (folder / "@scope" / "inner").mkdir(parents=True)
    (folder / "plain").mkdir()
    (folder / "@file").write_text("")
    (app,) = make_config(evolve(options, modules_dir=folder)).apps.values()
    assert {"plain", "@scope/inner"} <= set(app.modules)
    assert not {name for name in app.modules if "@file" in name}


def test_every_file_of_a_folders_app_is_watched(options: Options) -> None:
    """Also a file that its jsbox.toml names only now; an error in it is no reason to stop."""
    folder = options.app.parent
    toml = folder / "jsbox.toml"
    toml.write_text(TOML)
    watched = _Watched(evolve(options, app=toml, name="menu", values=()))
    (folder / "af.json").write_text('{"a": 1}')
    assert watched.have_changed()
    (folder / "en.json").write_text("{}")
    assert not watched.have_changed()
    toml.write_text(TOML.replace("af.json", "en.json"))
    assert watched.have_changed()
    (folder / "en.json").write_text('{"a": 1}')
    assert watched.have_changed()
    toml.write_text("[apps")
    assert watched.have_changed()
    toml.write_text(TOML)
    assert watched.have_changed()


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"jsbox.toml": "", "app.js": ""}, "jsbox.toml"),
        ({"package.json": '{"main": "lib/go"}', "lib/go.js": "", "app.js": ""}, "lib/go.js"),
        ({"package.json": '{"main": "gone.js"}', "app.js": ""}, "app.js"),
        ({"package.json": "[1", "app.js": ""}, "app.js"),
        ({"package.json": '{"main": 5}', "app.js": ""}, "app.js"),
        ({"other.js": ""}, None),
    ],
)
def test_the_app_of_a_folder(files: dict[str, str], found: str | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert find_app(tmp_path) == (None if found is None else tmp_path / found)


async def test_a_save_while_it_starts_is_not_missed(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine, starting takes seconds."""
    is_reloaded, opened = trio.Event(), service.open_service

    @asynccontextmanager
    async def slowly(*args: Any) -> Any:
        async with opened(*args) as started:
            options.app.write_text(APP + "\n// saved meanwhile")
            yield started

    class FakeTalk:
        def __init__(self, *args: Any) -> None:
            pass

        async def run(self) -> bool:
            with trio.fail_after(60):
                await is_reloaded.wait()
            return True

    def note(_: Any, text: str) -> None:
        if text == "the app was reloaded":
            is_reloaded.set()

    monkeypatch.setattr(service, "open_service", slowly)
    monkeypatch.setattr(dev, "Talk", FakeTalk)
    monkeypatch.setattr(dev.Screen, "note", note)
    assert await _dev(options, dev.Screen(), sms=True) == 0


OLD = """\
module.exports = function (grunt) {
    grunt.loadNpmTasks('grunt-contrib-concat');
    grunt.initConfig({concat: {prd: {src: ['src/index.js', 'src/app.js'], dest: 'go-app.js'}}});
};
"""
SOURCE = """\
go.app = require('vumigo_v02').App.extend(function (self) {
    require('vumigo_v02').App.call(self, 'states:start');
    self.states.add('states:start', function (name) {
        return new EndState(name, {text: 'Hello.'});
    });
});
go.im = require('vumigo_v02').interact(api, go.app);
"""


def test_an_old_repository_talks_after_one_command(tmp_path: Path) -> None:
    """Nothing is installed, and nothing is written; an error is at its line of the source."""
    (tmp_path / "src").mkdir()
    (tmp_path / "Gruntfile.js").write_text(OLD)
    (tmp_path / "src" / "index.js").write_text("var go = {};\n")
    (tmp_path / "src" / "app.js").write_text(SOURCE)
    before = sorted(tmp_path.rglob("*"))
    failed = jsbox("dev", str(tmp_path), input="\n", cwd=tmp_path)
    assert "states:start, message null: ReferenceError: EndState is not defined" in failed.stdout
    assert "(src/app.js:4:9)" in failed.stdout
    (tmp_path / "src" / "app.js").write_text(
        SOURCE.replace("EndState", "(require('vumigo_v02').states.EndState)")
    )
    done = jsbox("dev", str(tmp_path), input="\n", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Hello." in done.stdout
    assert sorted(tmp_path.rglob("*")) == before


ASKS = """\
api.on_inbound_message = function (command) {
    api.request('http.get', {url: 'http://hub.example.org/towns/1'}, function (reply) {
        api.request('outbound.reply_to', {
            content: reply.body || reply.reason, in_reply_to: command.msg.message_id,
            continue_session: false
        }, function () { api.done(); });
    });
};
"""
STUB = """\
[stub."http://hub.example.org/towns/*"]
reply = { body = "Kuruman" }
"""


def test_back_ends_are_stubs_of_a_file(tmp_path: Path) -> None:
    """Those of a test or a campaign, whose other tables do not matter."""
    (tmp_path / "app.js").write_text(ASKS)
    stubs = tmp_path / "hub.chat.toml"
    stubs.write_text(STUB + '[[steps]]\ndial = "*120*1#"\n')
    done = jsbox("dev", str(tmp_path), "--stubs", str(stubs), input="")
    assert (done.returncode, "Kuruman" in done.stdout) == (0, True), done.stdout + done.stderr
    stubs.write_text('\n[stub."hub.example.org"]\n')
    refused = jsbox("dev", str(tmp_path), "--stubs", str(stubs))
    assert refused.returncode == 3
    assert f"{stubs}:2: stub.hub.example.org: expected a URL" in refused.stderr


async def test_stubs_are_read_again_and_connect_to_comes_first(tmp_path: Path) -> None:
    stubs = tmp_path / "stubs.toml"
    stubs.write_text(STUB)
    http = Http(connect_to={"hub.example.org": "http://127.0.0.1:9"})
    config = Config(
        apps={
            "a": App("a", "acct", Path("a.js")),
            "b": App("b", "acct", Path("b.js"), http=http),
        }
    )
    async with open_back_ends(stubs) as back_ends:
        apps = back_ends.put_into(config).apps
        assert apps["b"].http.connect_to == http.connect_to
        assert apps["a"].http.connect_to["hub.example.org"].startswith("http://127.0.0.1:")
        stubs.write_text(STUB.replace("hub", "other"))
        apps = back_ends.put_into(config).apps
        assert set(apps["a"].http.connect_to) == {"other.example.org"}
    async with open_back_ends(None) as nothing:
        assert nothing.put_into(config) is config
