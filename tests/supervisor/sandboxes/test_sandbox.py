"""One real Node process: runs, limits, and every way to go wrong."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import evolve

from supervisor.config.model import Isolation, Level
from supervisor.errors import AppFailed, SandboxFault
from supervisor.jail.walls import open_isolation
from supervisor.outcomes import Outcome
from supervisor.sandboxes.protocol import ConsoleLine, Request

from ...apps import NODE, make_app
from ...programs import bubblewrap
from .processes import booted, deliver, fault_of


async def test_a_run_is_commands_and_replies_until_done() -> None:
    """The app gets its message, asks, gets answers, and says done."""
    app = make_app(
        "api.request('kv.get', {key: command.msg.content}, function (r) { "
        "api.log_info(r.value); api.done(); });"
    )
    async with booted(app) as sandbox:
        use, asked = await deliver(sandbox, value="v")
    assert asked == [Request("kv.get", "1", {"key": "hi"}), Request("log.info", "2", {"msg": "v"})]
    assert use.commands == 2
    assert use.output_bytes > 100


async def test_a_run_sees_nothing_of_the_one_before() -> None:
    """Each run has a fresh context: globals, prototypes and pending callbacks of an earlier run are
    gone.
    """
    app = make_app(
        "var seen = typeof leaked + typeof Object.prototype.leaked; leaked = 1; "
        "Object.prototype.leaked = 1;"
        "api.log_info(seen); api.done();"
    )
    async with booted(app) as sandbox:
        for _ in range(3):
            _, asked = await deliver(sandbox)
            assert asked[0].fields["msg"] == "undefinedundefined"  # type: ignore[union-attr]
        assert sandbox.runs == 3


async def test_commands_begin_in_the_order_of_asking() -> None:
    """Commands that the app sends without waiting are begun in that order, run after run."""
    app = make_app("for (var i = 0; i < 30; i++) api.request('kv.set', {n: i}); api.done();")
    async with booted(app) as sandbox:
        for _ in range(20):
            _, asked = await deliver(sandbox)
            numbers = [request.fields["n"] for request in asked]  # type: ignore[union-attr]
            assert numbers == list(range(30))


async def test_more_commands_than_may_be_in_flight_wait() -> None:
    """At most commands_in_flight are answered at a time; all of them are answered."""
    app = make_app(
        "var left = 20; for (var i = 0; i < 20; i++) api.request('http.get', {}, function "
        "() { if (--left === 0) api.done(); });",
        limits={"commands_in_flight": 4},
    )
    at_once, most = 0, 0

    async def answer(_: object) -> dict[str, object]:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await trio.sleep(0.01)
        at_once -= 1
        return {"success": True}

    async with booted(app) as sandbox:
        with trio.fail_after(60):
            use = await sandbox.deliver("r1", "message", {"message_id": "m"}, app.limits, answer)
    assert most == 4
    assert use.commands == 20


@pytest.mark.parametrize(
    ("javascript", "expected"),
    [
        ("nothing.here();", ["ReferenceError: nothing is not defined", "app.js:1:"]),
        ("throw 'just text';", ["just text"]),
        ("throw {toString: function () { throw 1; }};", ["an error that cannot be shown"]),
        ("Promise.reject(new Error('rejected'));", ["Error: rejected", "app.js:1:"]),
        (
            "api.request('a.b', null);",
            ["TypeError: api.request(a.b): the second argument must be an object, got null"],
        ),
        ("api.request('a.b', {f: 1n});", ["BigInt"]),
        (
            "api.on_;\nvar x = ;",
            ["the app cannot be loaded", "app.js:2", "SyntaxError: Unexpected token ';'"],
        ),
        ("api.on_nothing = 1;", ["the app has no api.on_inbound_message"]),
        (
            "api.on_; require('lodash').nope();",
            ["the app cannot be loaded", "TypeError", "app.js:1:"],
        ),
    ],
)
async def test_what_the_app_does_wrong_is_an_app_error(
    javascript: str, expected: list[str]
) -> None:
    """Load errors, throws and rejections end the run as app_error, with message, file and line."""
    fault = await fault_of(javascript)
    assert isinstance(fault, AppFailed)
    for text in expected:
        assert text in fault.detail, fault.detail


async def test_what_was_asked_before_a_throw_is_carried_out() -> None:
    """The log line before the throw is often the useful one."""
    app = make_app("api.log_info('before'); throw new Error('x');")
    asked: list[object] = []

    async def answer(request: Any) -> dict[str, object]:
        await trio.sleep(0.05)
        asked.append(request.fields["msg"])
        return {}

    async with booted(app) as sandbox:
        with pytest.raises(AppFailed):
            await sandbox.deliver("r1", "message", {"message_id": "m"}, app.limits, answer)
    assert asked == ["before"]


@pytest.mark.parametrize(
    ("javascript", "limits", "outcome", "text"),
    [
        ("for (;;) {}", {"cpu": 0.2}, Outcome.CPU, "limits.cpu = 0.2 s, measured 0."),
        (
            "(function f() { Promise.resolve().then(f); })();",
            {"cpu": 0.2},
            Outcome.CPU,
            "limits.cpu",
        ),
        (
            "for (;;) api.request('log.info', {msg: 'x'.repeat(2000)});",
            {},
            Outcome.OUTPUT,
            "limits.output = 1048576 bytes",
        ),
        (
            "var a = []; for (;;) a.push({});",
            {"heap": 16 << 20},
            Outcome.HEAP,
            "limits.heap = 16777216 bytes",
        ),
        (
            "api.request('a.b', {x: 'y'.repeat(300000)});",
            {},
            Outcome.PROTOCOL,
            "limits.line = 262144 bytes",
        ),
        (
            "var d = {}, c = d; for (var i = 0; i < 70; i++) c = c.c = {}; api.request('a.b', d);",
            {},
            Outcome.PROTOCOL,
            "limits.json_depth = 64",
        ),
        (
            "for (var i = 0; i < 11; i++) api.request('a.b', {});",
            {"commands": 10},
            Outcome.COMMANDS,
            "limits.commands = 10, measured the next, a.b",
        ),
        (
            "for (var i = 0; i < 9; i++) api.request('a.b', {x: 'y'.repeat(2000)});",
            {"output": 10000, "line": 5000},
            Outcome.OUTPUT,
            "limits.output = 10000 bytes",
        ),
        (
            "api.request('js.done', {});",
            {},
            Outcome.APP_ERROR,
            "(js.done): there is no such command",
        ),
        ("api.request('a', []);", {}, Outcome.APP_ERROR, "must be an object, got an array"),
    ],
)
async def test_each_limit_ends_the_run_in_its_outcome(
    javascript: str, limits: dict[str, Any], outcome: Outcome, text: str
) -> None:
    """The outcome names the limit, the detail says limit, value and measured value."""
    fault = await fault_of(javascript, limits)
    assert (fault.outcome, text in fault.detail) == (outcome, True), fault.detail


async def test_deep_recursion_is_the_apps_own_error() -> None:
    """Beyond limits.stack a RangeError, which the app may catch; never a crash."""
    app = make_app(
        "function f() { f(); } try { f(); } catch (e) { api.log_info(e.name); } api.done();"
    )
    async with booted(app) as sandbox:
        _, asked = await deliver(sandbox)
    assert asked[0].fields["msg"] == "RangeError"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("statement", "outcome", "text"),
    [
        ("host.p.exit(0)", Outcome.CRASHED, "exited with code 0 before the run was done"),
        ("host.p.exit(7)", Outcome.CRASHED, "exited with code 7"),
        ("host.p.kill(host.p.pid, 'SIGTERM')", Outcome.CRASHED, "SIGTERM"),
        ("host.p.abort()", Outcome.CRASHED, "SIGABRT"),
        ("host.f.writeSync(1, 'hello\\n')", Outcome.PROTOCOL, "not JSON"),
        ("host.f.writeSync(1, '\\n')", Outcome.PROTOCOL, "not JSON"),
        (
            'host.f.writeSync(1, \'{"cmd":"a.b","cmd_id":"1","reply":true,"run":"r1"}\\n\')',
            Outcome.PROTOCOL,
            "a reply",
        ),
        (
            'host.f.writeSync(1, \'{"cmd":"a.b","cmd_id":"1","reply":false,"run":"r0"}\\n\')',
            Outcome.PROTOCOL,
            "'r0'",
        ),
        ("flood(host, 1)", Outcome.PROTOCOL, "limits.line"),
        ("flood(host, 2)", Outcome.OUTPUT, "limits.output"),
        ("host.f.closeSync(1); for (;;) {}", Outcome.PROTOCOL, "closed its pipes"),
    ],
)
@pytest.mark.parametrize("level", ["standard", "strict"])
async def test_an_app_that_has_the_process_in_hand_is_contained(
    statement: str, outcome: Outcome, text: str, level: Level, granted: Path
) -> None:
    """With access to the harness's own realm (granted here, as by a real escape) the supervisor
    still decides how it ends.
    """
    # A pipe that is full for the moment throws EAGAIN, which is for the app to try again.
    flood = (
        "function flood(host, fd) { for (;;) try { host.f.writeSync(fd, 'x'.repeat(4096)); }"
        " catch (e) { if (e.code !== 'EAGAIN') throw e; } }"
    )
    app = make_app(
        f"{flood} api.on_inbound_message = function () {{"
        " var host = {p: __test_host.process, f: __test_host.require('fs')};"
        f" {statement}; }};"
    )
    if level == "strict":
        bubblewrap()
        # bubblewrap keeps them open: what ends the run is its CPU time
        if "closed its pipes" in text:
            app, outcome, text = (
                evolve(app, limits=evolve(app.limits, cpu=0.3)),
                Outcome.CPU,
                "limits.cpu = 0.3 s",
            )
    with open_isolation(Isolation(level), NODE, granted) as walls:
        async with booted(app, walls.jail(app)) as sandbox:
            with pytest.raises(SandboxFault) as raised:
                await deliver(sandbox)
    assert (raised.value.outcome, text in raised.value.detail) == (outcome, True), (
        raised.value.detail
    )


async def test_a_stopped_process_is_ended_by_the_clock() -> None:
    """SIGSTOP, which nothing inside can undo: the caller's deadline still ends the run, and the
    process.
    """
    async with booted(make_app("")) as sandbox:
        with trio.move_on_after(0.3) as scope:
            os.kill(sandbox.process.pid, signal.SIGSTOP)
            await deliver(sandbox)
        assert scope.cancelled_caught
        sandbox.end()
        with trio.fail_after(60):
            await sandbox.ended.wait()
    assert sandbox.process.returncode == -signal.SIGKILL


async def test_someone_ends_a_run_from_outside() -> None:
    """The reason given is the reason the run ends for."""
    async with booted(make_app("")) as sandbox:

        async def operator() -> None:
            await trio.sleep(0.1)
            sandbox.end(SandboxFault(Outcome.KILLED_BY_OPERATOR, "by hand"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(operator)
            with pytest.raises(SandboxFault, match="by hand") as raised:
                await deliver(sandbox)
    assert raised.value.outcome is Outcome.KILLED_BY_OPERATOR


async def test_console_lines_are_not_commands_and_have_a_bound() -> None:
    """console.* comes as lines of its own, which need no answer; a flood is cut off in the app."""
    app = make_app(
        "console.log('a', {b: 1}, 5); console.error(new Error('e').message); for (var i = "
        "0; i < 99; i++) console.log('x'.repeat(1000)); api.done();"
    )
    async with booted(app) as sandbox:
        use, asked = await deliver(sandbox)
    lines = [line for line in asked if isinstance(line, ConsoleLine)]
    assert use.commands == 0
    assert lines[0] == ConsoleLine(20, 'a {"b":1} 5')
    assert lines[1] == ConsoleLine(40, "e")
    assert len(lines) < 80
    assert lines[-1].level == 30
    assert "the rest is dropped" in lines[-1].text


async def test_done_waits_for_quick_commands_and_not_for_slow_ones() -> None:
    """As the old `done` did in effect: callbacks of commands asked before it run, an http call in
    flight holds nothing up; yet it is carried out.
    """
    app = make_app(
        "api.request('http.get', {}, function () { api.log_info('never'); });"
        "api.request('kv.get', {}, function () { api.log_info('chained'); }); api.done();"
    )
    asked: list[str] = []

    async def answer(request: Any) -> dict[str, object]:
        await trio.sleep(0.3 if request.name == "http.get" else 0.05)
        asked.append(request.name)
        return {}

    async with booted(app) as sandbox:
        await sandbox.deliver("r1", "message", {"message_id": "m"}, app.limits, answer)
    assert asked == ["kv.get", "log.info", "http.get"]


async def test_a_process_that_spoke_out_of_turn_is_not_used_again() -> None:
    """Output while no run is in progress: the sandbox is not clean."""
    app = make_app("require('timers'); api.done();")
    async with booted(app) as sandbox:
        await deliver(sandbox)
        assert sandbox.is_clean()
        os.kill(sandbox.process.pid, signal.SIGKILL)
        await sandbox.ended.wait()
        assert not sandbox.is_clean()


async def test_whether_a_process_lives_is_not_asked_of_the_kernel_for_each_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its pipe tells, even before it is reaped; its limit of CPU is set when that changes."""
    calls: list[str] = []
    for module, name in ((subprocess.Popen, "poll"), (resource, "prlimit")):
        real = getattr(module, name)

        def counted(*given: Any, real: Any = real, name: str = name) -> Any:
            calls.append(name)
            return real(*given)

        monkeypatch.setattr(module, name, counted)
    async with booted(make_app("require('timers'); api.done();")) as sandbox:
        calls.clear()
        for _ in range(3):
            await deliver(sandbox)
            assert sandbox.is_clean()
        assert calls == ["prlimit"]
        os.kill(sandbox.process.pid, signal.SIGKILL)
        give_up = time.monotonic() + 60
        while sandbox.is_clean() and time.monotonic() < give_up:
            time.sleep(0.001)  # noqa: ASYNC251  # the event loop would reap it
        assert not sandbox.is_clean()
        assert not sandbox.process.is_reaped
        await sandbox.ended.wait()
        assert sandbox.process.is_reaped


async def test_commands_beyond_the_burst_are_answered_in_order_and_not_at_once() -> None:
    """An app that asks without end does not stand in everybody's way, and loses nothing."""
    app = make_app(
        "for (var i = 0; i < 60; i++) api.request('a.b', {n: i}); api.done();",
        limits={"commands_burst": 20, "commands_in_flight": 8},
    )
    async with booted(app) as sandbox:
        began = trio.current_time()
        _, asked = await deliver(sandbox)
        taken = trio.current_time() - began
    assert [request.fields["n"] for request in asked if isinstance(request, Request)] == list(
        range(60)
    )
    assert taken > 40 * 0.002
