"""Spare processes: ready for the first app that needs one, of its kind only."""

from __future__ import annotations

import os

import trio
from attrs import evolve

from supervisor.config.model import Limits
from supervisor.sandboxes.pool import Pool, PoolStatistics

from ...apps import make_app
from ...service import eventually
from .pools import APP, pool_of, run

TOOLKIT = make_app(
    "var v = require('vumigo_v02'); if (typeof v.App !== 'function') throw new "
    "Error('no'); api.done();",
    name="toolkit",
    modules=("vumigo_v02",),
)


def spares(pool: Pool) -> list[int]:
    return [status.pid for status in pool.spare_processes()]


async def test_the_first_app_that_needs_a_process_gets_the_spare_and_another_is_made_ready() -> (
    None
):
    """With the toolkit loaded already; it is that app's process from then on."""
    async with pool_of(APP, TOOLKIT, spare=1) as pool:
        await eventually(lambda: len(spares(pool)) == 1)
        (spare,) = spares(pool)
        assert await run(pool, TOOLKIT) == spare
        assert await run(pool, TOOLKIT) == spare
        assert pool.statistics("toolkit") == PoolStatistics(busy=0, idle=1, booting=0)
        await eventually(lambda: len(spares(pool)) == 1 and spares(pool) != [spare])
        assert await run(pool, APP) not in (spare, None)


async def test_an_app_of_another_kind_starts_a_process_of_its_own() -> None:
    """Other limits are other arguments: what was started without them cannot have them."""
    other = make_app("api.done();", name="other", limits={"memory": 200 << 20})
    async with pool_of(APP, TOOLKIT, other, spare=1) as pool:
        await eventually(lambda: len(spares(pool)) == 1)
        before = spares(pool)
        assert await run(pool, other) not in before
        assert spares(pool) == before


async def test_spares_are_of_the_kind_that_most_apps_have() -> None:
    """And are replaced when that changes."""
    big = evolve(APP, limits=Limits(memory=300 << 20))
    async with pool_of(APP, spare=1) as pool:
        await eventually(lambda: len(spares(pool)) == 1)
        before = spares(pool)
        pool.update({"app": big})
        await eventually(lambda: len(spares(pool)) == 1 and spares(pool) != before)
        after = spares(pool)
        assert await run(pool, big) in after


async def test_as_root_a_spare_has_a_user_of_its_own() -> None:
    """No two processes of different apps run as the same user."""
    async with pool_of(APP, TOOLKIT, spare=2) as pool:
        await eventually(lambda: len(spares(pool)) == 2)
        pids = spares(pool)
        users = {
            os.stat(f"/proc/{pid}").st_uid
            for pid in (
                *pids,
                await run(pool, make_app("api.done();", limits={"stack": 500 << 10})),
            )
        }
        assert len(users) == (3 if os.geteuid() == 0 else 1)


async def test_a_spare_makes_room_for_an_app() -> None:
    """On a host that has as many processes as it may."""
    other = make_app("api.done();", name="other", limits={"memory": 200 << 20})
    async with pool_of(APP, TOOLKIT, other, most=3, spare=1) as pool:
        await eventually(lambda: len(spares(pool)) == 1)
        async with pool.lend(other), pool.lend(other), pool.lend(other):
            assert spares(pool) == []


async def test_a_killed_spare_is_replaced() -> None:
    """Whoever killed it."""
    async with pool_of(APP, spare=1) as pool:
        await eventually(lambda: len(spares(pool)) == 1)
        (pid,) = spares(pool)
        os.kill(pid, 9)
        await trio.sleep(0.1)
        assert await run(pool, APP) != pid


async def test_a_spare_takes_no_time_from_those_who_run_until_it_has_an_app() -> None:
    """Where that can be taken back, which only root may."""
    async with pool_of(TOOLKIT, spare=1) as pool:
        await eventually(lambda: len(spares(pool)) == 1)
        (spare,) = spares(pool)
        assert os.sched_getscheduler(spare) == (
            os.SCHED_IDLE if os.geteuid() == 0 else os.SCHED_OTHER
        )
        async with pool.lend(TOOLKIT) as sandbox:
            assert sandbox.process.pid == spare
            assert os.sched_getscheduler(spare) == os.SCHED_OTHER
