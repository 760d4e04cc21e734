"""One real Node process: errors of ours, and what comes out of turn, end one run alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from resources.fence import tally
from supervisor.config.model import Isolation
from supervisor.errors import NotDelivered, SandboxFault
from supervisor.host.pipes import Wire
from supervisor.jail.walls import open_isolation
from supervisor.outcomes import Outcome
from supervisor.sandboxes.conversation import LINES_AT_ONCE
from supervisor.sandboxes.protocol import ConsoleLine, Request

from ...apps import NODE, make_app
from .processes import booted, deliver

ASKS_TWICE = (
    "api.request('kv.get', {}, function (one) { api.request('kv.set', {got: [one.success, "
    "one.reason, one.value]},"
    " function (two) { api.done(); }); });"
)


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def circular() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


UNENCODABLE = [
    "half \ud83d",
    {"\ud83d": 1},
    10**5000,
    object(),
    1j,
    {(1, 2): 3},
    {None: 1},
    circular(),
    deep(100_000),
]


@pytest.mark.parametrize("is_quick", [True, False])
@pytest.mark.parametrize("value", UNENCODABLE, ids=lambda value: type(value).__name__)
async def test_a_reply_that_cannot_be_sent_is_an_internal_error_of_that_command(
    value: Any, is_quick: bool
) -> None:
    """The app gets the error and goes on; so does everybody else."""
    asked: list[Request] = []

    def answer(request: Any) -> Any:
        asked.append(request)
        reply = {"success": True, "value": value if len(asked) == 1 else None}
        return reply if is_quick else wait(reply)

    async def wait(reply: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return reply

    app = make_app(ASKS_TWICE)
    before = tally["command"]
    async with booted(app) as sandbox:
        with trio.fail_after(60):
            use = await sandbox.deliver("r1", "message", {"message_id": "m"}, app.limits, answer)
        assert sandbox.is_clean()
    assert asked[1].fields == {"got": [False, "internal error", None]}
    assert use.commands == 2
    assert tally["command"] == before + 1


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        1e308,
        (1 << 64) - 1,
        1 << 64,
        10**4000,
        -(1 << 63),
        "\x00\ud7ff\uffff",
    ],
)
async def test_what_can_be_encoded_is_sent(value: Any) -> None:
    """NaN and infinity as null: so JavaScript's own JSON has it."""
    app = make_app(
        "api.request('kv.get', {}, function (r) { api.request('kv.set', {v: "
        "String(r.value)}); api.done(); });"
    )
    async with booted(app) as sandbox:
        _, asked = await deliver(sandbox, 60, value=value)
    assert isinstance(asked[1], Request)
    assert (asked[1].fields["v"] == "null") == (str(value) in {"nan", "inf"})


@pytest.mark.parametrize("when", ["at once", "later", "in a group"])
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("\ud83d"),
        KeyError(1),
        RecursionError(),
        MemoryError(),
        OSError(24, "x"),
        UnicodeDecodeError("utf-8", b"", 0, 1, "y"),
        AssertionError(),
    ],
)
async def test_an_error_in_the_answer_to_a_command_is_that_commands(
    error: Exception, when: str
) -> None:
    """At once, after a while, or from tasks of its own: `success: false`, and the run goes on."""
    asked: list[Request] = []

    def answer(request: Any) -> Any:
        asked.append(request)
        if len(asked) == 2:
            return {"success": True}
        if when == "at once":
            raise error
        return fail()

    async def fail() -> Any:
        await trio.lowlevel.checkpoint()
        if when == "in a group":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                raise error
        raise error

    app = make_app(ASKS_TWICE)
    async with booted(app) as sandbox:
        with trio.fail_after(60):
            await sandbox.deliver("r1", "message", {"message_id": "m"}, app.limits, answer)
    assert asked[1].fields["got"][:2] == [False, "internal error"]


async def test_an_error_in_what_takes_a_console_line_is_nobodys() -> None:
    """There is no reply; the run goes on."""
    asked: list[object] = []

    def answer(request: Any) -> Any:
        if isinstance(request, ConsoleLine):
            if "now" in request.text:
                raise ZeroDivisionError
            return fail()
        asked.append(request)
        return {"success": True}

    async def fail() -> Any:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    app = make_app(
        "console.log('now'); console.log('later'); api.request('kv.get', {}, function () "
        "{ api.done(); });"
    )
    before = tally["command"]
    async with booted(app) as sandbox:
        with trio.fail_after(60):
            await sandbox.deliver("r1", "message", {"message_id": "m"}, app.limits, answer)
    assert len(asked) == 1
    assert tally["command"] == before + 2


async def test_a_cancelled_answer_is_no_error() -> None:
    """A run that is cut off while a command is answered: nothing is counted, and the cancellation
    goes on.
    """
    app = make_app(ASKS_TWICE)
    began = trio.Event()

    async def answer(_: object) -> Any:
        began.set()
        await trio.sleep_forever()

    before = tally.total()
    async with booted(app) as sandbox:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    sandbox.deliver, "r1", "message", {"message_id": "m"}, app.limits, answer
                )
                with trio.fail_after(60):
                    await began.wait()
                scope.cancel()
        assert scope.cancelled_caught
    assert tally.total() == before


@pytest.mark.parametrize("value", UNENCODABLE, ids=lambda value: type(value).__name__)
async def test_a_message_or_config_that_cannot_be_sent_is_the_end_of_that_run_alone(
    value: Any,
) -> None:
    """Nothing was sent to the process, and it takes the next run."""
    app = make_app(
        "api.request('config.get', {key: 'a'}, function (r) { api.request('kv.set', {v: "
        "r.value}); api.done(); });"
    )
    asked: list[Any] = []

    def answer(request: Any) -> Any:
        asked.append(request)
        return {"success": True}

    async with booted(app) as sandbox:
        with trio.fail_after(60):
            for payload, config in (
                ({"x": value}, {"a": "b"}),
                ({"message_id": "m"}, {"a": value}),
            ):
                with pytest.raises(NotDelivered, match="internal error") as raised:
                    await sandbox.deliver(
                        "r1",
                        "message",
                        payload,
                        app.limits,
                        answer,
                        config,  # type: ignore[arg-type]
                    )
                assert raised.value.outcome is Outcome.CRASHED
                assert sandbox.is_clean()
            await sandbox.deliver(
                "r2", "message", {"message_id": "m"}, app.limits, answer, {"a": "b"}
            )
    assert asked[-1].fields == {"v": "b"}


async def test_an_error_nobody_expected_in_the_reading_ends_the_run_as_crashed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With its process; whatever the error is, and wherever it arises."""
    app = make_app(ASKS_TWICE)
    for name in ("receive", "send_pushed", "begin_run"):
        async with booted(app) as sandbox:
            with monkeypatch.context() as patched:

                def fail(*_: object) -> None:
                    raise ZeroDivisionError

                patched.setattr(sandbox._wire.__class__, name, fail)
                before = tally["run"]
                with pytest.raises(SandboxFault, match="internal error") as raised:
                    await deliver(sandbox)
                assert (raised.value.outcome, tally["run"]) == (Outcome.CRASHED, before + 1)


async def test_a_run_that_waits_for_a_command_learns_of_its_process_s_end() -> None:
    """At once, and for what it was ended, though the store does not answer."""
    app = make_app(ASKS_TWICE)
    began = trio.Event()

    async def answer(_: object) -> Any:
        began.set()
        await trio.sleep_forever()

    async with booted(app) as sandbox, trio.open_nursery() as nursery:

        async def end() -> None:
            await began.wait()
            sandbox.end(SandboxFault(Outcome.KILLED_BY_OPERATOR, "by hand"))

        nursery.start_soon(end)
        with trio.fail_after(60), pytest.raises(SandboxFault, match="by hand") as raised:
            await sandbox.deliver("r1", "message", {"message_id": "m"}, app.limits, answer)
        assert raised.value.outcome is Outcome.KILLED_BY_OPERATOR
        assert not sandbox.is_clean()


async def test_a_command_that_is_read_after_its_process_has_ended_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though the store does not answer: the next read finds the end."""
    app = make_app(ASKS_TWICE)
    receive = Wire.receive

    async def answer(_: object) -> Any:
        await trio.sleep_forever()

    async with booted(app) as sandbox:

        async def receive_late(wire: Wire) -> list[bytes]:
            lines = await receive(wire)
            sandbox.end(SandboxFault(Outcome.KILLED_BY_OPERATOR, "by hand"))
            await sandbox.ended.wait()
            return lines

        monkeypatch.setattr(Wire, "receive", receive_late)
        with trio.fail_after(20), pytest.raises(SandboxFault, match="by hand"):
            await sandbox.deliver("r1", "message", {"message_id": "m"}, app.limits, answer)


async def test_half_a_line_after_a_run_is_not_the_next_ones(granted: Path) -> None:
    """What came with `done` and does not end keeps the process from being used again."""
    app = make_app(
        "api.on_inbound_message = function () { var f = __test_host.require('fs');"
        ' f.writeSync(1, \'{"cmd":"js.done","cmd_id":"h","reply":false,"run":"r1"}\\n{"cmd":\'); };'
    )
    with open_isolation(Isolation("standard"), NODE, granted) as walls:
        async with booted(app, walls.jail(app)) as sandbox:
            await deliver(sandbox, 60)
            assert not sandbox.is_clean()
            assert sandbox.process.returncode is None


async def test_a_closed_pipe_is_found_before_the_next_run(granted: Path) -> None:
    """A process that closed its stdout and lives on is of no use to anybody's message."""
    app = make_app(
        "api.on_inbound_message = function () { api.done(); "
        "var later = __test_host.require('timers').setTimeout, fs = __test_host.require('fs');"
        " later(function () { fs.closeSync(1); }, 100); };"
    )
    with open_isolation(Isolation("standard"), NODE, granted) as walls:
        async with booted(app, walls.jail(app)) as sandbox:
            await deliver(sandbox, 60)
            with trio.fail_after(60):
                while sandbox.is_clean():
                    await trio.sleep(0.01)
            assert sandbox.process.returncode is None


async def test_a_flood_of_lines_keeps_nobody_waiting() -> None:
    """Others have their turn after every few lines, also of those that need no waiting."""
    app = make_app(
        "for (var i = 0; i < 900; i++) api.log_info('x'); api.done();",
        limits={"commands_burst": 1000},
    )
    turns, seen, over = 0, [], trio.Event()

    def answer(_: object) -> Any:
        seen.append(turns)
        return {"success": True}

    async def neighbour() -> None:
        nonlocal turns
        while not over.is_set():
            turns += 1
            await trio.lowlevel.checkpoint()

    async with booted(app) as sandbox, trio.open_nursery() as nursery:
        nursery.start_soon(neighbour)
        with trio.fail_after(60):
            await sandbox.deliver("r1", "message", {"message_id": "m"}, app.limits, answer)
        over.set()
    assert len(seen) == 900
    assert max(seen.count(turn) for turn in set(seen)) <= 2 * LINES_AT_ONCE


async def test_a_command_with_a_name_of_any_length_is_answered() -> None:
    """Nothing knows it; that is no reason to end the run."""
    app = make_app(
        "api.request('x'.repeat(100000), {}, function (r) { api.request('a.b', {r: "
        "r.success}); api.done(); });"
    )
    async with booted(app) as sandbox:
        _, asked = await deliver(sandbox, 60)
    assert [request.name for request in asked if isinstance(request, Request)] == [
        "x" * 200 + "...",
        "a.b",
    ]
