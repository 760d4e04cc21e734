"""The pool: one app a process, reuse, retirement, room on the host."""

from __future__ import annotations

import os
from collections import Counter

import pytest
import trio
import trio.lowlevel
from attrs import evolve
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisor.config.model import App
from supervisor.errors import (
    AppRemoved,
    BootFailed,
    LimitHit,
    NotDelivered,
)
from supervisor.jail.argv import Jail
from supervisor.observe import Event, ProcessEnded, ignore
from supervisor.outcomes import Outcome
from supervisor.sandboxes import pool as module
from supervisor.sandboxes.pool import open_pool

from ...apps import walls
from ...service import eventually
from .pools import APP, pool_of, run


async def test_a_process_is_reused() -> None:
    """Two hundred runs in a row, one process."""
    async with pool_of(APP) as pool:
        assert len({await run(pool, APP) for _ in range(200)}) == 1
        assert pool.statistics("app") == module.PoolStatistics(busy=0, idle=1, booting=0)


async def test_two_runs_at_once_have_two_processes() -> None:
    """A process has one run at a time."""
    async with pool_of(APP) as pool, pool.lend(APP) as one, pool.lend(APP) as other:
        assert one.process.pid != other.process.pid
        assert pool.statistics("app").busy == 2


async def test_apps_never_share_a_process() -> None:
    """Also when one has idle processes and the other needs one."""
    other = evolve(APP, name="other")
    async with pool_of(APP, other) as pool:
        first = {await run(pool, APP) for _ in range(3)}
        second = {await run(pool, other) for _ in range(3)}
        assert len(first) == len(second) == 1
        assert first != second


@pytest.mark.parametrize(("setting", "runs"), [({"max_messages": 3}, 3), ({"max_messages": 1}, 1)])
async def test_a_process_is_retired_by_count(setting: dict[str, int], runs: int) -> None:
    """After max_messages runs the next has a new process; 1 is the old engine's way."""
    app = evolve(APP, pool=evolve(APP.pool, **setting))
    async with pool_of(app) as pool:
        pids = [await run(pool, app) for _ in range(runs * 3)]
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [runs] * 3


async def test_a_process_is_retired_by_age_and_idleness(mock_clock: MockClock) -> None:
    """Too old, or idle too long: it ends, and nothing is left; not before."""
    old = evolve(APP, name="old", pool=evolve(APP.pool, max_age=100, idle_stop=1000))
    idle = evolve(APP, name="idle", pool=evolve(APP.pool, max_age=1000, idle_stop=200))
    async with pool_of(old, idle) as pool:
        for app in (old, idle):
            await run(pool, app)

        async def left_after(seconds: float) -> list[str]:
            mock_clock.jump(seconds)
            await trio.lowlevel.checkpoint()  # the clock is looked at
            await wait_all_tasks_blocked()
            return [status.app for status in pool.sandboxes()]

        assert await left_after(99) == ["old", "idle"]
        assert await left_after(module.TEND + 1) == ["idle"]
        assert await left_after(98 - module.TEND) == ["idle"]
        assert await left_after(module.TEND + 2) == []


async def test_a_run_that_raises_or_is_cancelled_ends_its_process() -> None:
    """A broken or cancelled exchange leaves the wire in an unknown state: never reused."""
    async with pool_of(APP) as pool:
        with pytest.raises(RuntimeError):
            async with pool.lend(APP) as first:
                raise RuntimeError
        with trio.CancelScope() as scope:
            async with pool.lend(APP) as second:
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        await first.ended.wait()
        await second.ended.wait()
        assert await run(pool, APP) not in (first.process.pid, second.process.pid)


async def test_a_process_that_died_idle_is_not_lent() -> None:
    """The next run gets a living one."""
    async with pool_of(APP) as pool:
        pid = await run(pool, APP)
        assert pool.kill(pid)
        assert await run(pool, APP) != pid
        assert not pool.kill(1)


async def test_new_code_gets_new_processes() -> None:
    """After an update idle processes of the old generation end; a busy one ends after its run."""
    async with pool_of(APP) as pool:
        await run(pool, APP)
        changed = evolve(APP, source=APP.source + "//")
        async with pool.lend(APP) as busy, pool.lend(APP) as idle:
            pass
        async with pool.lend(APP) as busy:
            pool.update({"app": changed})
            with trio.fail_after(5):
                await idle.ended.wait()
            assert busy.process.returncode is None
        with trio.fail_after(5):
            await busy.ended.wait()
        assert await run(pool, changed) not in (busy.process.pid, idle.process.pid)


async def test_a_full_host_makes_room_from_what_is_idle() -> None:
    """With as many processes as the host may have, another app's idle one ends; with none idle, the
    run gets the first that is.
    """
    other = evolve(APP, name="other")
    async with pool_of(APP, other, most=1) as pool:
        await run(pool, APP)
        await run(pool, other)
        assert [status.app for status in pool.sandboxes()] == ["other"]
        async with trio.open_nursery() as nursery:
            async with pool.lend(other):
                nursery.start_soon(run, pool, APP)
                await wait_all_tasks_blocked()
                assert pool.statistics("app").booting == 0
        assert [status.app for status in pool.sandboxes()] == ["app"]


async def test_whoever_waits_for_a_process_of_a_removed_app_is_told() -> None:
    """At once, with the reason, whatever else goes on; the app's busy process ends with its run."""
    other = evolve(APP, name="other", pool=evolve(APP.pool, max_processes=1))
    async with pool_of(APP, other) as pool:
        said = []

        async def ask() -> None:
            with pytest.raises(AppRemoved) as raised:
                await run(pool, other)
            said.append(raised.value.detail)

        async with pool.lend(other) as busy:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                nursery.start_soon(ask)
                await wait_all_tasks_blocked()
                pool.update({"app": APP})
            assert busy.process.returncode is None
        await ask()
        assert said == ["there is no app other any more: a reload has removed it"] * 3
        await busy.ended.wait()
        await run(pool, APP)


async def test_a_run_that_stops_waiting_leaves_nothing() -> None:
    """No process, no start, no room that nobody can have."""
    async with pool_of(APP, most=1) as pool:
        for blocked in (True, False):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(run, pool, APP)
                    if blocked:
                        await wait_all_tasks_blocked()
                        assert pool.statistics("app").booting == 1
                    scope.cancel()
            await eventually(lambda: pool.statistics("app") == module.PoolStatistics(0, 0, 0), 60)
        await run(pool, APP)


@pytest.mark.parametrize("error", [ValueError, KeyError, MemoryError, OSError, ExceptionGroup])
async def test_whatever_a_run_raises_leaves_no_process_and_takes_no_room(
    error: type[Exception],
) -> None:
    """Its process ends, and is counted; the next run gets a new one, also where there may be only
    one.
    """
    app = evolve(APP, pool=evolve(APP.pool, max_processes=1))
    ends = Ends()
    async with open_pool(walls(), 1, ends) as pool:
        pool.update({"app": app})
        with pytest.raises(error):
            async with pool.lend(app) as sandbox:
                raise error("x", [ValueError()]) if error is ExceptionGroup else error
        assert await run(pool, app) != sandbox.process.pid
        assert sandbox.process.returncode == -9
        assert ends.seen == [("app", "crashed")]


async def test_a_message_that_could_not_be_sent_leaves_the_process_as_it_was() -> None:
    """Nothing was said to it."""
    async with pool_of(APP) as pool:
        pid = await run(pool, APP)
        with pytest.raises(NotDelivered):
            async with pool.lend(APP) as sandbox:
                await sandbox.deliver("r2", "message", {"x": "\ud83d"}, APP.limits, lambda _: {})
        assert await run(pool, APP) == pid


class Ends:
    """Which processes ended, and for what."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, ProcessEnded):
            self.seen.append((event.app, event.reason))


async def test_every_end_of_a_process_is_counted_once() -> None:
    """By itself while idle, also a spare one that was adopted; for the outcome of its run; because
    it was worn; by an operator.
    """
    once = evolve(APP, name="once", pool=evolve(APP.pool, max_messages=1))
    ends = Ends()
    async with open_pool(walls(), 10, ends, 1) as pool:
        pool.update({app.name: app for app in (APP, once)})
        await eventually(pool.spare_processes, 60)
        (spare,) = pool.spare_processes()
        assert await run(pool, APP) == spare.pid
        os.kill(spare.pid, 9)
        await eventually(lambda: ends.seen == [("app", "crashed")], 60)
        assert pool.kill(await run(pool, APP))
        await eventually(lambda: ends.seen[1:] == [("app", "killed_by_operator")], 60)
        await run(pool, once)
        await eventually(lambda: ends.seen[2:] == [("once", "retired")], 60)
        with pytest.raises(LimitHit):
            async with pool.lend(APP) as sandbox:
                sandbox.end(LimitHit(Outcome.CPU, "cpu", "1 s", "2 s"))
                await sandbox.deliver(
                    "r1", "message", {"message_id": "m"}, APP.limits, lambda _: {}
                )
        await eventually(lambda: ends.seen[3:] == [("app", "cpu")], 60)
    assert len(ends.seen) == 4


async def test_processes_that_are_started_ahead_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """max_processes and node.max_processes hold against min_idle and spares, whatever comes while
    they boot.
    """
    monkeypatch.setattr(module, "TEND", 0.01)
    app = evolve(APP, pool=evolve(APP.pool, min_idle=2, max_processes=2, max_messages=2))
    other = evolve(app, name="other")
    most: Counter[str] = Counter()

    def look() -> None:
        counts = Counter(status.app for status in pool.sandboxes())
        for name in ("app", "other"):
            counts[name] += pool.statistics(name).booting
        counts["all"] = counts.total() + len(pool.spare_processes())
        for name, count in counts.items():
            most[name] = max(most[name], count)

    async with pool_of(app, other, most=3, spare=2) as pool:

        async def some(which: App) -> None:
            for _ in range(6):
                await run(pool, which)
                look()

        async with trio.open_nursery() as nursery:
            for which in (app, other) * 3:
                nursery.start_soon(some, which)
            while len(nursery.child_tasks):
                look()
                await trio.sleep(0.005)
    assert most["app"] <= 2
    assert most["other"] <= 2
    assert most["all"] <= 3


async def test_warm_processes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """min_idle processes are there before anybody asks, and again after one is used up."""
    monkeypatch.setattr(module, "TEND", 0.05)
    app = evolve(APP, pool=evolve(APP.pool, min_idle=2, max_messages=1))
    async with pool_of(app) as pool:
        await eventually(lambda: pool.statistics("app").idle == 2)
        before = {status.pid for status in pool.sandboxes()}
        assert await run(pool, app) in before
        await eventually(lambda: pool.statistics("app").idle == 2)
        assert {status.pid for status in pool.sandboxes()} != before


async def test_a_boot_failure_reaches_the_borrower(monkeypatch: pytest.MonkeyPatch) -> None:
    """And only the borrower; warm processes that do not come up are tried again later, not in a
    loop.
    """
    monkeypatch.setattr(module, "TEND", 0.02)
    starts = []

    class Broken:
        def jail(self, app: App) -> Jail:
            starts.append(app)
            return Jail(("/bin/false",), {})

        blank = jail

        def kind(self, app: App) -> object:
            return app

    app = evolve(APP, pool=evolve(APP.pool, min_idle=1))
    async with open_pool(Broken(), 5, ignore) as pool:
        pool.update({"app": app})
        with pytest.raises(BootFailed):
            async with pool.lend(app):
                pass
        await trio.sleep(0.3)
        assert len(starts) <= 3
