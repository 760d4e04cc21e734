"""The pool: one app a process, reuse, retirement, room on the host."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.lowlevel
from attrs import evolve
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisor import pool as module
from supervisor.config.model import App
from supervisor.errors import BootFailed
from supervisor.jail import Jail
from supervisor.observe import NullObserver
from supervisor.pool import Pool, open_pool

from ..apps import make_app, walls
from ..service import eventually


@asynccontextmanager
async def pool_of(*apps: App, most: int = 10, spare: int = 0) -> AsyncIterator[Pool]:
    async with open_pool(walls(), most, NullObserver(), spare) as pool:
        pool.update({app.name: app for app in apps})
        yield pool


async def run(pool: Pool, app: App) -> int:
    """One run of an app that is done at once. The pid of the process that had it."""

    async def answer(_: object) -> dict[str, object]:
        return {}

    with trio.fail_after(60):
        async with pool.lend(app) as sandbox:
            await sandbox.deliver("r1", "message", {"message_id": "m"}, app.limits, answer)
            return sandbox.process.pid


APP = make_app("api.done();")


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
    """With as many processes as the host may have, another app's idle one ends; with none idle, the run waits."""
    other = evolve(APP, name="other")
    async with pool_of(APP, other, most=1) as pool:
        await run(pool, APP)
        await run(pool, other)
        assert [status.app for status in pool.sandboxes()] == ["other"]
        finished = []

        async def wait_for_room() -> None:
            await run(pool, APP)
            finished.append(True)

        async with trio.open_nursery() as nursery:
            async with pool.lend(other):
                nursery.start_soon(wait_for_room)
                await trio.sleep(0.3)
                assert not finished
            await trio.lowlevel.checkpoint()
            pool.update({"app": APP})  # the other app's process is idle now, and goes


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
    """And only the borrower; warm processes that do not come up are tried again later, not in a loop."""
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
    async with open_pool(Broken(), 5, NullObserver()) as pool:
        pool.update({"app": app})
        with pytest.raises(BootFailed):
            async with pool.lend(app):
                pass
        await trio.sleep(0.3)
        assert len(starts) <= 3
