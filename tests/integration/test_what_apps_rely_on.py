"""The points that real apps rely on (found by running them on the old system), one test each or
more.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..echo_server import echo_server
from ..gateway_client import connect
from ..service import REPLY, Folder, running


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


async def logged(service: object, app: str = "phone") -> list[tuple[str, str]]:
    """The app's log, oldest first."""
    entries = await service.stores.logbook.newest("acct", app, 1000)  # type: ignore[attr-defined]
    return [(entry.level, entry.message) for entry in reversed(entries)]


async def test_the_reply_leaves_before_the_state_is_saved_and_the_lane_waits(
    folder: Folder,
) -> None:
    """Saving comes after the reply, yet the user's next message, sent at once, sees what was
    saved.
    """
    folder.app(
        "phone",
        """api.on_inbound_message = function (command) {
            api.request('kv.get', {key: 'state'}, function (got) {
                var count = (got.value || 0) + 1;
                api.request('outbound.reply_to', {content: String(count),
                    in_reply_to: command.msg.message_id}, function () {
                    require('timers').setTimeout(function () {
                        api.request('kv.set', {key: 'state', value: count, seconds: 604800},
                            function () { api.done(); });
                    }, 50);
                });
            });
        };""",
        'modules = ["timers"]',
    )
    async with running(folder) as service, connect(service.gateway_url) as client:
        for n in range(5):
            await client.send(
                {"type": "inbound", "id": str(n), "msg": {"message_id": str(n), "from_addr": "+27"}}
            )
            await client.expect("outbound")  # the next is sent the moment the reply is there
            assert not [
                frame
                for frame in client.frames
                if frame["type"] == "outcome" and frame["message_id"] == str(n)
            ]
        await client.expect("outcome", message_id="4")
        assert await service.stores.redis.execute("GET", "jsbox:{acct}:kv:state") == b"5"


async def test_a_failed_reply_means_no_save(folder: Folder) -> None:
    """The toolkit saves the user only after a successful reply: a reply that is refused keeps the
    old state.
    """
    folder.app(
        "phone",
        "api.request('outbound.reply_to', {content: 'x', in_reply_to: 'another'}, function"
        " (reply) {"
        " if (!reply.success) return api.done(); api.request('kv.set', {key: 'saved', value:"
        " 1}, function () { api.done(); }); });",
    )
    async with running(folder) as service, connect(service.gateway_url) as client:
        outcome, replies = await client.say("x", "new")
        assert (outcome["outcome"], replies) == ("no_reply", [])
        assert await service.stores.redis.execute("EXISTS", "jsbox:{acct}:kv:saved") == 0


async def test_every_log_command_is_answered_and_done_writes_no_line(folder: Folder) -> None:
    """Hundreds of log commands, each with its reply; the harness's own words are not in the log."""
    folder.app(
        "phone",
        (
            "var left = 200; for (var i = 0; i < 200; i++) api.log_info('line ' + i, function (r)"
            " { if (r.success && --left === 0) api.done(); });"
        ),
    )
    async with running(folder) as service, connect(service.gateway_url) as client:
        outcome, _ = await client.say("x")
        assert outcome["outcome"] == "ok"
        assert await logged(service) == [("INFO", f"line {i}") for i in range(200)]


async def test_code_is_a_script_with_api_a_global(folder: Folder) -> None:
    """`typeof api`, then `var api = ...`, `this.api`, api.im; `this` in handlers and callbacks is
    api.
    """
    folder.app(
        "phone",
        """
        if (typeof api === 'undefined') { var api = this.api = null; }
        var app = this;
        api.im = {name: 'im'};
        api.on_inbound_message = function (command) {
            var facts = [this === api, app.api === api, api.im.name, typeof app, command.reply,
                command.cmd];
            api.request('kv.get', {key: 'x'}, function (reply) {
                facts.push(this === api, reply.cmd, reply.reply, typeof reply.cmd_id, reply.run);
                api.log_info(JSON.stringify(facts), function () { api.done(); });
            });
        };""",
    )
    async with running(folder) as service, connect(service.gateway_url) as client:
        await client.say("x")
        (facts,) = await logged(service)
        expected = [
            True,
            True,
            "im",
            "object",
            False,
            "inbound-message",
            True,
            "kv.get",
            True,
            "string",
            None,
        ]
        assert json.loads(facts[1]) == expected


async def test_the_globals_are_the_languages_and_four_more(folder: Folder) -> None:
    """api, require, Buffer, and a console that may be called; no setTimeout, process, URL, module,
    global, fetch.
    """
    names = [
        "setTimeout",
        "setInterval",
        "setImmediate",
        "process",
        "URL",
        "module",
        "exports",
        "global",
        "fetch",
        "WebSocket",
        "queueMicrotask",
        "structuredClone",
    ]
    folder.app(
        "phone",
        "var names = "
        + json.dumps(names)
        + ", self = this; var there = names.filter(function (n) { return typeof globalThis[n]"
        " !== 'undefined'; });"
        "api.log_info(JSON.stringify([there, typeof require, typeof Buffer, typeof"
        " console.log, Buffer.from('é').toString('hex')]));"
        "console.log('to the log', {a: [1]}); console.warn('careful'); api.done();",
    )
    async with running(folder) as service, connect(service.gateway_url) as client:
        await client.say("x")
        lines = await logged(service)
        assert json.loads(lines[0][1]) == [[], "function", "function", "function", "c3a9"]
        assert lines[1:] == [("INFO", 'to the log {"a":[1]}'), ("WARNING", "careful")]


async def test_buffer_is_there_only_where_it_is_granted(folder: Folder) -> None:
    """globals = [] takes it away."""
    folder.app("phone", REPLY % "typeof Buffer", "globals = []")
    async with running(folder) as service, connect(service.gateway_url) as client:
        assert (await client.say("x"))[1][0]["content"] == "undefined"


async def test_modules_come_from_the_apps_own_node_modules_first(folder: Folder) -> None:
    """The app's version wins over the bundled one, is loaded once a process, and what is not listed
    is null.
    """
    own = folder.path / "node_modules"
    for name, text in {
        "lodash/index.js": (
            "exports.VERSION = '2.4-own'; exports.loads = (globalThis.loads ="
            " (globalThis.loads || 0) + 1);"
        ),
        "needs/index.js": (
            "var dep = require('dep'); exports.value = dep.value +"
            " require('./lib/data.json').n + require('path').sep;"
        ),
        "needs/lib/data.json": '{"n": 2}',
        "dep/package.json": '{"main": "main.js"}',
        "dep/main.js": (
            "exports.value = 40; try { require('fs').readFileSync('/etc/passwd'); }"
            " catch (e) { exports.value = '4' + '0:' + e.message + ':'; }"
        ),
        "broken/index.js": "throw new Error('cannot load');",
    }.items():
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text(text)
    folder.app(
        "phone",
        "var _ = require('lodash'), facts = [_.VERSION, _.loads, require('needs').value,"
        " require('fs'), require('child_process'), require('./x'),"
        " require('q').Promise !== undefined,"
        " require('crypto').createHash('md5').update('a').digest('hex')];"
        "try { require('broken'); } catch (e) { facts.push(e.message); }"
        + REPLY
        % "JSON.stringify(facts)",
        'modules = ["lodash", "needs", "q", "crypto", "broken"]\nmodules_dir = "node_modules"',
    )
    async with running(folder) as service, connect(service.gateway_url) as client:
        for _ in range(3):
            _, replies = await client.say("x")
            found = json.loads(replies[0]["content"])
            expected = [
                "2.4-own",
                1,
                "40:fs.readFileSync is not available in the sandbox:2/",
                None,
                None,
                None,
                True,
            ]
            assert found == [*expected, "0cc175b9c0f1b6a831c399e269772661", "cannot load"]


async def test_the_built_in_modules_that_apps_may_have(folder: Folder) -> None:
    """All of the list, when they are asked for."""
    names = [
        "assert",
        "buffer",
        "crypto",
        "events",
        "path",
        "querystring",
        "string_decoder",
        "timers",
        "url",
        "util",
    ]
    folder.app(
        "phone",
        REPLY % f"{json.dumps(names)}.map(function (n) {{ return typeof require(n); }}).join()",
        f"modules = {json.dumps(names)}",
    )
    async with running(folder) as service, connect(service.gateway_url) as client:
        kinds = (await client.say("x"))[1][0]["content"].split(",")
        assert kinds == ["function" if name in ("assert", "events") else "object" for name in names]


async def test_a_config_key_that_is_not_there_is_null(folder: Folder) -> None:
    """And values are strings, JSON or not, "null" too."""
    folder.app(
        "phone",
        (
            "api.request('config.get', {key: 'nope'}, function (a) { api.request('config.get',"
            " {key: 'translation.af'}, function (b) {"
        )
        + REPLY % "JSON.stringify([a.success, a.value, b.value])"
        + "}); });",
        "config = { \"translation.af\" = 'null' }",
    )
    async with running(folder) as service, connect(service.gateway_url) as client:
        assert json.loads((await client.say("x"))[1][0]["content"]) == [True, None, "null"]


async def test_small_things_that_toolkits_send(folder: Folder) -> None:
    """kv.incr without amount, kv.set with integer seconds, null helper_metadata, header lists, and
    a 500 that is a success.
    """
    with echo_server() as url:
        folder.app(
            "phone",
            f"""api.request('kv.incr', {{key: 'n'}}, function (a) {{
                api.request('kv.set', {{key: 'u', value: {{}}, seconds: 604800}}, function (b) {{
                api.request('http.get', {{url: '{url}/status/500',
                    headers: {{'Content-Type': ['application/json']}}}}, function (c) {{
                api.request('outbound.reply_to', {{in_reply_to: command.msg.message_id,
                    helper_metadata: null, continue_session: false,
                    content: JSON.stringify([a.value, b.success, c.success, c.code])}},
                    function () {{ api.done(); }}); }}); }}); }});""",
            'http = { allow = ["127.0.0.1"] }',
        )
        async with running(folder) as service, connect(service.gateway_url) as client:
            _, replies = await client.say("x")
        assert json.loads(replies[0]["content"]) == [1, True, True, 500]


async def test_voice_apps_may_set_their_helper_metadata(folder: Folder) -> None:
    """Where the operator allows the key."""
    folder.app(
        "phone",
        "api.request('outbound.reply_to', {in_reply_to: command.msg.message_id, content: 'x',"
        " helper_metadata: {voice: {speech_url: 'u'}}},"
        " function (r) { api.done(); });",
        'allowed_helper_metadata = ["voice"]',
    )
    async with running(folder) as service, connect(service.gateway_url) as client:
        _, replies = await client.say("x", helper_metadata={"from": "gateway"})
        assert replies[0]["helper_metadata"]["voice"] == {"speech_url": "u"}
        assert replies[0]["helper_metadata"]["from"] == "gateway"


async def test_events_to_a_v02_app_do_no_harm(folder: Folder) -> None:
    """The toolkit writes a junk key for the user that an event does not have; it succeeds."""
    (folder.path / "config.json").write_text('{"name": "app", "process_events": true}')
    folder.app(
        "phone",
        "var v = require('vumigo_v02'); var A = v.App.extend(function (self) {"
        " v.App.call(self, 's'); self.states.add('s', function (n) {"
        " return new v.states.EndState(n, {text: 'x', next: 's'}); }); });"
        " v.interact(this.api, A); // api.on_",
        'config = { config = { file = "config.json" } }',
    )
    async with running(folder) as service, connect(service.gateway_url) as client:
        event = {
            "event_type": "ack",
            "user_message_id": "u",
            "sent_message_id": "s",
            "event_id": "e1",
        }
        await client.send({"type": "event", "id": "1", "event": event})
        assert (await client.expect("outcome"))["outcome"] == "ok"


async def test_a_runaway_is_ended_by_its_limits_and_the_user_gets_the_fallback(
    folder: Folder,
) -> None:
    """An app that asks http.get for ever because its back end answers 500: commands ends it, the
    host and the user are safe.
    """
    with echo_server() as url:
        folder.app(
            "phone",
            (
                f"(function again() {{ api.request('http.get', {{url: '{url}/status/500'}}, again);"
                f" }})();"
            ),
            (
                'http = { allow = ["127.0.0.1"] }\nlimits = { commands = 100, fallback_reply ='
                ' "Please try again later." }'
            ),
        )
        async with running(folder) as service, connect(service.gateway_url) as client:
            outcome, replies = await client.say(None, "new")
            assert (outcome["outcome"], outcome["commands"]) == ("commands", 100)
            assert [(reply["content"], reply["session_event"]) for reply in replies] == [
                ("Please try again later.", "close")
            ]
            ((level, text),) = await logged(service)
            assert level == "ERROR"
            assert text.startswith("[commands] message ")
            assert "limits.commands = 100" in text


async def test_a_reused_process_does_not_grow(folder: Folder) -> None:
    """Hundreds of runs with callbacks that never come, in one process: its memory stays within a
    few megabytes.
    """
    folder.app(
        "phone",
        (
            "for (var i = 0; i < 20; i++) api.request('log.debug', {msg: 'x'});"
            " api.request('http.get', {}, function () {}); api.done();"
        ),
    )
    async with running(folder) as service, connect(service.gateway_url) as client:
        for n in range(300):
            await client.say(str(n))
            if n == 100:
                before = service.pool.sandboxes()[0].rss_bytes
        (after,) = service.pool.sandboxes()
        assert after.runs == 300
        assert after.rss_bytes < before + (24 << 20)
