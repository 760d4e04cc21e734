"""A debugger attaches to the app of `jsbox dev --inspect`, and to no other."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from attrs import define, evolve, field
from click.testing import CliRunner
from trio_websocket import WebSocketConnection, open_websocket_url

from supervisor.cli import jsbox
from supervisor.cli.debugged import debugged
from supervisor.cli.dev_config import Options, make_config
from supervisor.client.phone import Phone, Turn, open_phone
from supervisor.jail.argv import Place, jail
from supervisor.service import open_service

from ..programs import free_ports

PATIENCE = 60
APP = """\
api.on_inbound_message = function (command) {
    var answer = 'you said ' + command.msg.content;
    api.request('outbound.reply_to', {
        content: answer, in_reply_to: command.msg.message_id, continue_session: true
    }, function () { api.done(); });
};
"""


@define
class Debugger:
    """A client of the Chrome DevTools protocol."""

    _socket: WebSocketConnection
    _id: int = field(default=0, init=False)
    _events: list[dict[str, Any]] = field(factory=list, init=False)

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._id += 1
        await self._socket.send_message(
            json.dumps({"id": self._id, "method": method, "params": params})
        )
        while True:
            message = json.loads(await self._socket.get_message())
            if message.get("id") == self._id:
                assert "result" in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._events.append(message)

    async def event(self, method: str) -> dict[str, Any]:
        while True:
            for index, message in enumerate(self._events):
                if message["method"] == method:
                    params: dict[str, Any] = self._events.pop(index)["params"]
                    return params
            self._events.append(json.loads(await self._socket.get_message()))


@asynccontextmanager
async def attached(port: int) -> AsyncIterator[Debugger]:
    async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
        (target,) = (await client.get(f"http://127.0.0.1:{port}/json/list")).json()
    async with open_websocket_url(target["webSocketDebuggerUrl"]) as socket:
        debugger = Debugger(socket)
        await debugger.ask("Runtime.enable")
        await debugger.ask("Debugger.enable", maxScriptsCacheSize=100_000_000)
        yield debugger


@pytest.fixture
def options(tmp_path: Path) -> Options:
    app = tmp_path / "app.js"
    app.write_text(APP)
    return Options(
        app=app, config=None, values=(), modules_dir=None, state=tmp_path / "state", allow=(),
        isolation="none",
    )  # fmt: skip


async def test_a_breakpoint_is_set_hit_and_left(options: Options) -> None:
    """In the file of the app, by its URL; what the app has there can be changed."""
    (port,) = free_ports(1)

    def read() -> Any:
        return debugged(make_config(options), port)

    turns: list[Turn] = []

    async def say(phone: Phone) -> None:
        turns.append(await phone.answer("hello"))

    async with (
        open_service(read(), read) as service,
        open_phone(service.gateway_url, "phone", "+27820000001", "*1#") as phone,
    ):
        assert (await phone.dial(PATIENCE)).text == "you said null"
        async with attached(port) as debugger, trio.open_nursery() as nursery:
            url = options.app.as_uri()
            made = await debugger.ask("Debugger.setBreakpointByUrl", lineNumber=2, url=url)
            assert made["locations"], "the debugger does not know the file"
            nursery.start_soon(say, phone)
            paused = await debugger.event("Debugger.paused")
            frame = paused["callFrames"][0]
            assert set(paused["hitBreakpoints"]) == {made["breakpointId"]}
            assert frame["location"]["lineNumber"] == 2
            await debugger.ask(
                "Debugger.evaluateOnCallFrame",
                callFrameId=frame["callFrameId"],
                expression="answer += ', as I heard'",
            )
            assert not turns
            await debugger.ask("Debugger.resume")
    assert [turn.text for turn in turns] == ["you said hello, as I heard"]


def test_only_dev_takes_it_and_only_without_a_jail(options: Options) -> None:
    app = str(options.app)
    for arguments, text in (
        (["serve", "--inspect"], "No such option"),
        (["dev", app, "--inspect", "--isolation", "standard"], "a debugger needs --isolation none"),
    ):
        done = CliRunner().invoke(jsbox, arguments)
        assert done.exit_code == 2
        assert text in done.stderr


@pytest.mark.parametrize("level", ["standard", "strict"])
def test_no_jailed_process_has_a_debugger(level: Any, options: Options) -> None:
    """Even if an app that could be debugged came as far."""
    (app,) = debugged(make_config(options), 9229).apps.values()
    folder = Path("/x")
    place = Place(level, folder, folder, "harness.js", launcher=folder, bubblewrap=folder)
    assert not any("inspect" in word for word in jail(app, place, None, None, 1).argv)
    open_place = evolve(place, level="none")
    assert "--inspect=127.0.0.1:9229" in jail(app, open_place, None, None, 1).argv
    (plain,) = make_config(options).apps.values()
    assert not any("inspect" in word for word in jail(plain, open_place, None, None, 1).argv)


def test_the_sources_of_a_bundle_are_named_by_their_files(options: Options) -> None:
    """A debugger finds them by the map in the text, and they are those that the developer edits."""
    config = make_config(options)
    (app,) = config.apps.values()
    mapped = evolve(
        app, source_map='{"mappings": "AAAA", "sources": ["../src/a b.js", "webpack://x/c.js"]}'
    )
    (made,) = debugged(evolve(config, apps={"app": mapped}), 1).apps.values()
    text, _, data = made.source.partition("\n//# sourceMappingURL=data:application/json;base64,")
    assert text == app.source
    root = options.app.parent.parent.as_uri()
    assert json.loads(base64.b64decode(data))["sources"] == [
        f"{root}/src/a%20b.js", "webpack://x/c.js",
    ]  # fmt: skip
