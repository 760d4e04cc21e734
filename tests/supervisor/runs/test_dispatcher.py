"""The dispatcher: a run ends alone, gives back all that it had, and leaves nothing behind, whatever
goes wrong in it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
import trio

from resources import fence
from resources.stores.journal import Journal
from resources.stores.redis import StoreRefused
from supervisor.observe import CommandServed, Event, ReplyMissing, RunEnded, RunUsed
from supervisor.outcomes import Outcome
from supervisor.runs import handling
from supervisor.runs.aftermath import Aftermath
from supervisor.runs.history import History
from supervisor.runs.router import Router
from supervisor.runs.traces import Trace
from supervisor.sandboxes.fairness import Turns
from supervisor.sandboxes.pool import Pool
from supervisor.service import Service

from ...gateway_client import connect, inbound
from ...service import ECHO, Folder, eventually, running

CREDIT = 100
ERRORS: list[Callable[[], Exception]] = [
    lambda: KeyError("no such thing"),
    lambda: RecursionError("too deep"),
    lambda: UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed"),
    lambda: ExceptionGroup(
        "many", [ValueError("one"), ExceptionGroup("more", [OSError(24, "Too many open files")])]
    ),
    trio.ClosedResourceError,
    AssertionError,
    MemoryError,
]


def assert_nothing_left(service: Service, before: int) -> None:
    """No run, lane, turn, process in use, way back to a connection, or task."""
    dispatcher = service.dispatcher
    for lanes in dispatcher._lanes.values():
        assert (lanes.waiting, lanes.in_progress) == (0, 0)
        assert (lanes._lanes, list(lanes._ready)) == ({}, [])
    assert dispatcher._known == set()
    assert dispatcher.recovery._owed == {}
    turns = dispatcher._handler._turns
    assert (turns._taken, turns._waiting) == ({}, {})
    for name in dispatcher.programs:
        assert service.pool.statistics(name).busy == 0
        share = service.pool._assignment.slots.shares.get(name)
        assert share is None or not any(
            slot.lent for slots in share.slots.values() for slot in slots
        )
    for outlet in service.deliveries._outlets.values():
        assert outlet._takers._origins == {}
    assert len(dispatcher._nursery.child_tasks) == before


def fails_now_and_then(
    patch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    every: int,
    raised: Counter[str],
    *,
    after: bool = False,
) -> None:
    """Let every n-th call of a function raise an error, before or after it does its work."""
    patch.setattr(owner, name, failing(getattr(owner, name), name, every, raised, after=after))


def failing(
    real: Callable[..., Any], name: str, every: int, raised: Counter[str], *, after: bool = False
) -> Callable[..., Any]:
    """A function that does as `real`, but every n-th call raises an error."""
    calls, errors = itertools.count(1), itertools.cycle(ERRORS)

    def call(*arguments: Any, **options: Any) -> Any:
        is_bad = next(calls) % every == 0
        if is_bad:
            raised[name] += 1
        if is_bad and not after:
            error = next(errors)()
            raise error
        result = real(*arguments, **options)
        if not is_bad:
            return result
        error = next(errors)()
        if isinstance(result, Coroutine):
            return fail(result, error)
        raise error

    async def fail(result: Coroutine[Any, Any, Any], error: Exception) -> None:
        await result
        raise error

    return call


PLACES: list[tuple[Any, str, int, bool]] = [  # what fails, how seldom, and whether afterwards
    (handling, "for_app", 2, False),
    (History, "begin", 7, False),
    (History, "end", 6, False),
    (History, "end", 11, True),
    (Aftermath, "report", 4, False),
    (Aftermath, "fall_back", 5, True),
    (Journal, "begin_soon", 9, False),
    (Journal, "finish_soon", 8, False),
    (Pool, "lend", 6, False),
    (Router, "route", 5, False),
    (Trace, "_begin", 6, False),
    (Trace, "_end", 5, True),
    (Turns, "give_back", 50, True),
]
EVENTS: list[tuple[type[Event], int, bool]] = [  # likewise, when it is counted
    (RunEnded, 5, False),
    (ReplyMissing, 3, False),
    (CommandServed, 4, False),
    (RunUsed, 9, True),
]


@contextmanager
def failing_everywhere(
    service: Service, monkeypatch: pytest.MonkeyPatch, seed: int
) -> Iterator[Counter[str]]:
    """Let whatever a run calls raise errors now and then; yields how often each has done so."""
    raised: Counter[str] = Counter()
    # Deliveries.run_ended, which was bound when the service opened
    places = [*PLACES, (service.dispatcher, "_announce", 10, bool(seed))]
    with monkeypatch.context() as patch:
        for owner, name, every, after in places:
            fails_now_and_then(patch, owner, name, every + seed, raised, after=after)
        counting = service.prometheus.counting
        for event, every, after in EVENTS:
            real, name = counting[event], event.__name__
            patch.setitem(counting, event, failing(real, name, every + seed, raised, after=after))
        yield raised
    assert set(raised) == {
        *(name for _, name, _, _ in places),
        *(event.__name__ for event, _, _ in EVENTS),
    }


@pytest.mark.parametrize(
    ("seed", "runs"),
    [(0, 200), *(pytest.param(n, 1000, marks=pytest.mark.slow) for n in range(3))],
)
async def test_runs_in_which_anything_fails(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, seed: int, runs: int
) -> None:
    """Each has one outcome and gives back its credit, lane, turn and process; nothing is left of
    any of them.
    """
    folder.text += f"[gateway]\ncredit = {CREDIT}\n"
    folder.app("phone", ECHO, 'limits = { fallback_reply = "sorry" }')
    async with running(folder) as service, connect(service.gateway_url) as client:
        before = len(service.dispatcher._nursery.child_tasks)
        tally, processes_failed = fence.tally.total(), fence.tally["process"]
        with failing_everywhere(service, monkeypatch, seed) as raised:
            for number in range(runs):
                await eventually(lambda: len(service.dispatcher._known) < CREDIT // 3)
                await client.send(inbound(f"m{number}", f"+{number % 50}"))
                await client.expect("accepted", 60, message_id=f"m{number}")
            async with httpx2.AsyncClient(base_url=service.admin_url, trust_env=False) as admin:
                assert (await admin.get("/livez")).status_code == 200
            await eventually(lambda: not service.dispatcher._known, 120)
        assert fence.tally.total() - tally > runs // 2
        await eventually(lambda: not service.dispatcher.recovery._owed, 30)
        assert_nothing_left(service, before)
        assert [one async for one in service.stores.journal.left("acct", "phone")] == []
        assert await service.stores.journal.begun("acct", "phone") == {}
        # All credit came back, and whoever comes next is served as if nothing had been.
        for number in range(150):
            outcome, replies = await client.say(
                "hello", "new", message_id=f"after{number}", from_addr=f"+{number % 50}"
            )
            assert outcome["outcome"] == "ok"
            assert [one["content"] for one in replies] == ["you said hello"]
        outcomes = Counter(
            frame["outcome"] for frame in client.frames if frame["type"] == "outcome"
        )
        told = runs if seed else runs - raised["_announce"]
        assert outcomes.total() >= told - raised.total() // 10
        # A process takes turns to boot, too: one of those errors may meet it there.
        boots_failed = fence.tally["process"] - processes_failed
        assert outcomes.pop("boot", 0) <= boots_failed
        assert set(outcomes) <= {"ok", "crashed", "no_reply"}
        assert_nothing_left(service, before)


async def test_an_internal_error_ends_as_crashed_and_the_user_is_answered(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outcome crashed, `internal error` in the app's log, the fallback reply, a count, a trace; the
    neighbour notices nothing.
    """
    folder.app("phone", ECHO, 'limits = { fallback_reply = "sorry" }')
    folder.app("other", ECHO)
    real = handling.for_app

    def breaks(message: dict[str, Any], account: str, app: str) -> dict[str, Any]:
        if app == "phone":
            raise RuntimeError("a bug")
        return real(message, account, app)

    monkeypatch.setattr(handling, "for_app", breaks)
    async with running(folder) as service:
        async with (
            connect(service.gateway_url) as client,
            connect(service.gateway_url, channel="other") as neighbour,
        ):
            outcome, replies = await client.say("hi", "new", message_id="m1")
            assert (outcome["outcome"], [one["content"] for one in replies]) == (
                "crashed",
                ["sorry"],
            )
            outcome, replies = await client.say("hi", message_id="m2")  # nobody waits
            assert (outcome["outcome"], replies) == ("crashed", [])
            outcome, replies = await neighbour.say("hi", "new")
            assert (outcome["outcome"], [one["content"] for one in replies]) == (
                "ok",
                ["you said hi"],
            )
        lines = [
            entry.message for entry in await service.stores.logbook.newest("acct", "phone", 10)
        ]
        assert "[crashed] message m1: internal error" in lines
        trace = service.history.traces.find("m1")
        assert trace is not None
        assert (trace.outcome, trace.detail) == (Outcome.CRASHED, "internal error")
        metrics = (await service.metrics()).decode()
        assert 'jsbox_messages_failed_total{app="phone",reason="crashed"} 2.0' in metrics
        assert 'jsbox_internal_errors_total{where="run"}' in metrics


async def test_a_group_with_a_cancellation_in_it_is_sorted(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is cut off while something breaks is cut off: it stays in the journal, and the
    error is logged.
    """
    started = trio.Event()

    async def breaks(*_: Any) -> None:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def fail() -> None:
                started.set()
                try:
                    await trio.sleep_forever()
                finally:
                    raise ValueError("while it was cancelled")

            await trio.sleep_forever()

    folder.app("phone", ECHO)
    async with running(folder) as service, connect(service.gateway_url) as client:
        monkeypatch.setattr(handling.Handler, "_run", breaks)
        await client.send(inbound("m1"))
        await client.expect("accepted")
        await started.wait()
        service.dispatcher.stop()
        service.dispatcher._nursery.cancel_scope.cancel()
        await client.expect("outcome", message_id="m1", outcome="shutdown")
        assert [one.place async for one in service.stores.journal.left("acct", "phone")]
        await eventually(lambda: service.dispatcher._known == set())
        counts = {}
        with trio.fail_after(60):
            while set(counts.values()) != {0}:
                counts = await service.stores.journal.begun("acct", "phone")
    assert fence.tally["run"] > 0


async def test_what_the_store_refuses_to_strike_is_struck_later(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a lost connection to remind us; meanwhile it is not run again, whoever looks for what
    is in the journal.
    """
    folder.app("phone", ECHO)
    async with running(folder) as service, connect(service.gateway_url) as client:
        real, refuses = Journal.finish_all, True

        async def refusing(self: Journal, ended: Any) -> None:
            if refuses:
                raise StoreRefused("OOM command not allowed")
            await real(self, ended)

        monkeypatch.setattr(Journal, "finish_all", refusing)
        with monkeypatch.context() as patch:
            patch.setattr(
                Journal,
                "finish_soon",
                lambda self, entry, place, failed, _: failed(StoreRefused("OOM")) or True,
            )
            for number in range(5):
                assert (await client.say("hi", "new", message_id=f"m{number}"))[0][
                    "outcome"
                ] == "ok"
        assert len(service.dispatcher.recovery._owed) == 5
        service.dispatcher.settle_soon()
        await client.say("hi", "new", message_id="last")
        await eventually(lambda: not service.dispatcher.recovery._due)
        assert len([one async for one in service.stores.journal.left("acct", "phone")]) == 5
        refuses = False
        await eventually(lambda: not service.dispatcher.recovery._owed, 20)
        assert [one async for one in service.stores.journal.left("acct", "phone")] == []
        assert len([f for f in client.frames if f["type"] == "outbound"]) == 6
