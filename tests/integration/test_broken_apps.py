"""Broken code never replaces working code, and a broken app does not keep others from running."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
import trio
from attrs import evolve

from supervisor.cli.check import look_at_apps
from supervisor.config import load
from supervisor.config.model import Isolation
from supervisor.sandboxes import code_check
from supervisor.service import Service

from ..gateway_client import Client, connect
from ..programs import free_ports, jsbox, serve
from ..service import ECHO, Folder, eventually, running

BROKEN = "api.on_inbound_message = function (c) {\n  api.done( };\n"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


async def answer(client: Client, content: str) -> dict[str, Any]:
    """The answer to a message that need not be accepted."""
    message = {"message_id": uuid4().hex, "from_addr": "+27", "to_addr": "8", "content": content}
    await client.send({"type": "inbound", "id": content, "msg": message})
    return await client.expect_that(lambda frame: frame.get("id") == content)


async def get(service: Service, path: str, **params: str) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=service.admin_url, trust_env=False) as admin:
        return await admin.get(path, params=params)


async def test_a_reload_of_code_that_does_not_compile_is_refused(folder: Folder) -> None:
    """As a whole; with app, file, line, column and the words."""
    folder.app("phone", ECHO)
    folder.app("other", ECHO)
    async with running(folder) as service, connect(service.gateway_url) as client:
        good = (folder.path / "phone.js").read_text()
        (folder.path / "other.js").write_text(good.replace("you said", "now you say"))
        (folder.path / "phone.js").write_text(BROKEN)
        result = await service.reload()
        assert result == {
            "ok": False,
            "errors": [
                f"{folder.path}/phone.js:2:13: app phone: SyntaxError: Unexpected token '}}'"
            ],
        }
        assert (await client.say("x", "new"))[1][0]["content"] == "you said x"
        ready = await get(service, "/readyz")
        assert ready.status_code == 200
        assert ready.text.startswith(
            "ready, but:\nconfig: the last reload was refused (jsbox check)"
        )
        (folder.path / "phone.js").write_text(good)
        assert (await service.reload())["next_process"] == ["apps.other.javascript (its text)"]


async def test_a_reload_of_json_that_is_none_is_refused(folder: Folder) -> None:
    folder.app("phone", ECHO, 'config = { config = { file = "own.json" } }')
    own = folder.path / "own.json"
    own.write_text('{"name": "x"}')
    async with running(folder) as service, connect(service.gateway_url) as client:
        own.write_text('{"name":\n  x"}')
        (error,) = (await service.reload())["errors"]
        assert error == f"{own}:2:3: app phone: config.config is not JSON: Expecting value"
        assert (await client.say("x", "new"))[1][0]["content"] == "you said x"


async def test_a_service_starts_with_a_broken_app_and_serves_the_others(folder: Folder) -> None:
    """It is named everywhere; its messages are rejected as `broken`, events too; a fix and a reload
    cure it.
    """
    folder.app("phone", ECHO)
    folder.app("bad", "api.on_" + BROKEN)
    folder.app("worse", ECHO, 'config = { x = { file = "x.json" } }')
    (folder.path / "x.json").write_text("{")
    what = f"{folder.path}/bad.js:3:13: app bad: SyntaxError"
    (folder.path / "bad.js").write_text("\n" + BROKEN)
    async with running(folder) as service:
        async with connect(service.gateway_url) as client:
            assert (await client.say("x", "new"))[1][0]["content"] == "you said x"
        ready = await get(service, "/readyz")
        assert ready.status_code == 200
        assert f"app bad: state: it is broken: {what}" in ready.text
        assert "app worse: state: it is broken" in ready.text
        assert (await get(service, "/readyz", app="bad")).status_code == 503
        assert (await get(service, "/readyz", app="phone")).status_code == 200
        assert 'jsbox_app_tripped{app="bad"} 1.0' in (await get(service, "/metrics")).text
        apps = {one["name"]: one for one in (await get(service, "/v1/apps")).json()["apps"]}
        assert apps["bad"]["state"] == "broken"
        assert apps["bad"]["last"].startswith(what)
        assert apps["phone"]["state"] == "running"
        assert (await service.reload())["ok"] is False
        async with (
            connect(service.gateway_url, "bad") as client,
            connect(service.gateway_url, "worse") as other,
        ):
            refused = await answer(client, "a")
            assert (refused["type"], refused["code"]) == ("rejected", "broken")
            assert refused["retry_after"] == 60
            assert str(folder.path) not in refused["detail"]
            event = {"event_type": "ack", "user_message_id": "1", "sent_message_id": "2"}
            await client.send({"type": "event", "id": "e", "event": event})
            assert (await client.expect("rejected", id="e"))["code"] == "broken"
            assert (await answer(other, "a"))["code"] == "broken"
            assert service.pool.statistics("bad").busy == 0
            (folder.path / "bad.js").write_text((folder.path / "phone.js").read_text())
            (folder.path / "x.json").write_text("{}")
            assert (await service.reload())["ok"] is True
            assert (await get(service, "/readyz")).text == "ok\n"
            assert (await client.say("b", "new"))[1][0]["content"] == "you said b"
            assert (await other.say("c", "new"))[1][0]["content"] == "you said c"


async def test_what_was_accepted_waits_until_the_app_is_whole(folder: Folder) -> None:
    """A restart with broken code loses no message, and makes no app_error of it."""
    data = folder.path / "data"
    folder.text = folder.text.replace("[listen]", f'data_dir = "{data}"\n[listen]', 1)
    folder.app("phone", "while (true) {}", 'limits = { wall = "60s", cpu = "60s" }')
    async with running(folder) as service, connect(service.gateway_url) as client:
        assert (await answer(client, "x"))["type"] == "accepted"
        service.dispatcher.stop()
    (folder.path / "phone.js").write_text(BROKEN)
    async with running(folder) as service, connect(service.gateway_url) as client:
        assert service.dispatcher.waiting("phone") == 1
        (folder.path / "phone.js").write_text(
            "api.on_inbound_message = function (command) {" + ECHO + "};"
        )
        assert (await service.reload())["ok"] is True
        reply = await client.expect("outbound")
        assert reply["msg"]["content"] == "you said x"


async def test_a_reload_without_new_code_starts_no_compiler(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.app("phone", ECHO)
    async with running(folder) as service:
        asked: list[int] = []
        ask = code_check._ask_process

        async def counted(jail: Any, questions: Any) -> Any:
            asked.append(len(questions))
            return await ask(jail, questions)

        monkeypatch.setattr(code_check, "_ask_process", counted)
        assert (await service.reload())["ok"] is True
        assert asked == []
        with (folder.path / "phone.js").open("a") as file:
            file.write("\n// changed")
        assert (await service.reload())["ok"] is True
        assert asked == [1]


async def test_check_and_ps_name_the_broken_app(folder: Folder) -> None:
    """From the command line; `check` has no server."""
    folder.text = folder.text.replace(
        'admin = "127.0.0.1:0"', f'admin = "127.0.0.1:{free_ports(1)[0]}"'
    )
    folder.app("phone", ECHO)
    folder.app("bad", "api.on_" + BROKEN)
    (folder.path / "bad.js").write_text(BROKEN)
    config, what = str(folder.config), f"{folder.path}/bad.js:2:13: app bad: SyntaxError"
    checked = await trio.to_thread.run_sync(lambda: jsbox("check", "-c", config))
    assert checked.returncode == 3
    assert what in checked.stderr
    found = await trio.to_thread.run_sync(lambda: jsbox("check", "-c", config, "--json"))
    (error,) = json.loads(found.stdout)["errors"]
    assert (error["app"], error["line"], error["column"]) == ("bad", 2, 13)
    with serve(folder.config):
        shown = await trio.to_thread.run_sync(lambda: jsbox("ps", "-c", config))
        assert f"broken: {what}" in shown.stdout
        reloaded = await trio.to_thread.run_sync(lambda: jsbox("reload", "-c", config))
        assert (reloaded.returncode, what in reloaded.stderr) == (3, True)


async def test_a_reload_of_an_app_that_cannot_be_loaded_is_refused(folder: Folder) -> None:
    """As a whole; with app, file and line. What runs goes on."""
    folder.app("phone", ECHO)
    folder.app("other", ECHO, 'limits = { cpu = "300ms" }')
    phone, other = folder.path / "phone.js", folder.path / "other.js"
    async with running(folder) as service, connect(service.gateway_url) as client:
        good = phone.read_text()
        phone.write_text(good.replace("you said", "now you say") + "\nmissing.call();")
        other.write_text(good + "\n\nwhile (true) {}")
        errors = (await service.reload())["errors"]
        assert [one.partition(", measured")[0] for one in errors] == [
            f"{phone}:2:1: app phone: it cannot be loaded: ReferenceError: missing is not defined",
            f"{other}:3:1: app other: it cannot be loaded: limits.cpu = 0.3 s",
        ]
        assert (await client.say("x", "new"))[1][0]["content"] == "you said x"
        ready = await get(service, "/readyz")
        assert ready.status_code == 200
        assert ready.text.startswith(
            "ready, but:\nconfig: the last reload was refused (jsbox check)"
        )
        phone.write_text(good.replace("you said", "now you say"))
        other.write_text(good)
        assert (await service.reload())["ok"] is True
        assert (await client.say("y", "new"))[1][0]["content"] == "now you say y"


async def test_a_service_that_starts_with_an_app_that_cannot_be_loaded(folder: Folder) -> None:
    """The first message shows it. From then on it is broken, as one that does not compile."""
    folder.app("phone", ECHO)
    folder.app("bad", "api.on_" + ECHO)
    bad = folder.path / "bad.js"
    bad.write_text("var x;\nx.y();")
    async with (
        running(folder) as service,
        connect(service.gateway_url) as client,
        connect(service.gateway_url, "bad") as other,
    ):
        assert (await get(service, "/readyz")).text == "ok\n"
        assert (await answer(other, "a"))["type"] == "accepted"
        await eventually(lambda: bool(service.dispatcher.broken("bad")))
        what = f"{bad}:2:3: app bad: it cannot be loaded: TypeError: Cannot read properties of"
        assert what in (await get(service, "/readyz")).text
        assert (await get(service, "/readyz", app="bad")).status_code == 503
        (shown,) = (
            one for one in (await get(service, "/v1/apps")).json()["apps"] if one["name"] == "bad"
        )
        assert (shown["state"], shown["last"].startswith(what)) == ("broken", True)
        assert (await answer(other, "b"))["code"] == "broken"
        assert (await client.say("x", "new"))[1][0]["content"] == "you said x"
        assert (await service.reload())["ok"] is False
        bad.write_text((folder.path / "phone.js").read_text())
        assert (await service.reload())["ok"] is True
        assert (await other.say("c", "new"))[1][0]["content"] == "you said c"


async def test_one_failing_run_does_not_break_an_app_that_can_be_loaded(folder: Folder) -> None:
    folder.app("phone", "if (command.msg.content === 'loop') while (true) {} " + ECHO)
    folder.text = folder.text.replace("[listen]", '[defaults.limits]\ncpu = "300ms"\n[listen]', 1)
    async with running(folder) as service, connect(service.gateway_url) as client:
        assert (await answer(client, "loop"))["type"] == "accepted"
        await client.expect("outcome", outcome="cpu")
        await eventually(lambda: bool(service.load_check._good))  # it was loaded, and found whole
        assert (await client.say("x", "new"))[1][0]["content"] == "you said x"
        assert service.dispatcher.broken("phone") == ""


def test_check_loads_every_app(folder: Folder) -> None:
    folder.app("phone", ECHO)
    folder.app("bad", "api.on_" + ECHO)
    (folder.path / "bad.js").write_text("\n\nrequire('assert')(false);")
    (folder.path / "phone.js").write_text(
        "api.request('kv.set', { key: 'x', value: 1 });" + (folder.path / "phone.js").read_text()
    )
    done = jsbox("check", "-c", str(folder.config))
    (what,) = (line for line in done.stderr.splitlines() if "bad.js" in line)
    assert what.startswith(f"{folder.path}/bad.js:3:")
    assert what.endswith("app bad: it cannot be loaded: TypeError: require(...) is not a function")
    assert done.returncode == 3
    assert "app phone" not in done.stderr


async def test_check_where_there_is_no_jail_says_so(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.app("phone", "x.y;")
    config = evolve(load(folder.config), isolation=Isolation("strict"))
    monkeypatch.setenv("PATH", str(folder.path))
    breakages, warnings = await trio.to_thread.run_sync(look_at_apps, config)
    assert breakages == []
    assert warnings == [
        (
            "the apps were compiled, but not loaded: isolation.level = 'strict' needs bubblewrap:"
            " apt-get install bubblewrap"
        )
    ]


def test_dev_does_not_start_with_an_app_that_cannot_be_loaded(tmp_path: Path) -> None:
    app = tmp_path / "app.js"
    app.write_text("var go = go || {};\ngo.app.init();\n")
    done = jsbox("dev", str(app))
    assert done.returncode == 3
    assert f"{app}:2:8: app app: it cannot be loaded: TypeError: Cannot read" in done.stderr


def test_check_says_what_require_would_not_give(folder: Folder) -> None:
    modules = folder.path / "node_modules"
    (modules / "esm").mkdir(parents=True)
    (modules / "esm" / "index.js").write_text("export default 1;")
    folder.app(
        "phone", "require('left-pad'); " + ECHO, 'modules = ["esm"]\nmodules_dir = "node_modules"'
    )
    done = jsbox("check", "-c", str(folder.config))
    assert done.returncode == 0
    assert f"`npm install --prefix {folder.path} left-pad`" in done.stderr
    assert 'apps.phone.modules: "esm" is an ES module' in done.stderr
