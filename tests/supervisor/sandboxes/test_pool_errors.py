"""The pool: what goes wrong ends one process alone; many apps on a small host."""

from __future__ import annotations

import math
import os
import random
from collections import Counter

import pytest
import trio
import trio.lowlevel
from attrs import evolve
from trio.testing import MockClock, wait_all_tasks_blocked

from resources.fence import tally
from supervisor.config.model import App
from supervisor.errors import (
    AppRemoved,
    BootFailed,
    CannotStart,
    LimitHit,
    SandboxFault,
)
from supervisor.host.process import Process
from supervisor.jail.argv import Jail
from supervisor.observe import ignore
from supervisor.outcomes import Outcome
from supervisor.sandboxes import pool as module
from supervisor.sandboxes.assignment import Assignment
from supervisor.sandboxes.pool import Pool, open_pool
from supervisor.sandboxes.sandbox import Sandbox

from ...apps import make_app, walls
from ...service import eventually
from .pools import APP, pool_of, run


class Trouble:
    """Isolation that cannot make jails at the moment."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def jail(self, app: App) -> Jail:
        """See MakesJails."""
        if self.error is not None:
            raise self.error
        return walls().jail(app)

    def blank(self, like: App) -> Jail:
        """See MakesJails."""
        if self.error is not None:
            raise self.error
        return walls().blank(like)

    def kind(self, app: App) -> object:
        """See MakesJails."""
        return walls().kind(app)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(24, "Too many open files"), "internal error"),
        (FileNotFoundError(2, "No such file"), "internal error"),
        (UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed"), "internal error"),
        (RecursionError(), "internal error"),
        (CannotStart("the modules are gone"), "the modules are gone"),
    ],
)
async def test_a_jail_that_cannot_be_made_is_a_boot_failure_of_who_waits(
    error: Exception, text: str
) -> None:
    """Of spare and warm processes too; all goes on when it can be made again."""
    app = evolve(APP, pool=evolve(APP.pool, min_idle=1))
    jails = Trouble()
    jails.error = error
    async with open_pool(jails, 5, ignore, 1) as pool:
        pool.update({"app": app})
        for _ in range(3):
            with pytest.raises(BootFailed, match=text):
                await run(pool, app)
        jails.error = None
        await run(pool, app)


async def test_an_error_in_the_task_of_one_process_ends_that_one_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is killed and reaped, its run crashes; the others, and the service, go on."""
    doomed, other = evolve(APP, name="doomed"), evolve(APP, name="other")
    wait = Process.wait
    ends = trio.Event()

    async def fails(self: Process) -> int:
        if self.pid in pids:
            await ends.wait()
            pids.clear()
            raise OSError(24, "Too many open files")
        return await wait(self)

    pids: set[int] = set()
    monkeypatch.setattr(Process, "wait", fails)
    booted = Sandbox.boot

    async def boot(self: Sandbox, modules_dir: str, clock: float | None = None) -> None:
        if self.app.name == "doomed" and not ends.is_set():
            pids.add(self.process.pid)
        await booted(self, modules_dir, clock)

    monkeypatch.setattr(Sandbox, "boot", boot)
    before = tally["process"]
    async with pool_of(doomed, other) as pool:
        pid = await run(pool, other)
        with pytest.raises(SandboxFault):
            async with pool.lend(doomed) as sandbox:
                ends.set()
                await sandbox.ended.wait()
                await sandbox.deliver(
                    "r1", "message", {"message_id": "m"}, doomed.limits, lambda _: {}
                )
        assert sandbox.process.returncode == -9
        assert pool.statistics("doomed") == module.PoolStatistics(0, 0, 0)
        assert await run(pool, other) == pid
        await run(pool, doomed)
    assert tally["process"] == before + 1


async def test_a_process_whose_cpu_cannot_be_looked_at_ends_and_the_others_are_watched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An error with one of them does not let the others use what they like."""
    odd = evolve(APP, name="odd")
    greedy = make_app("for (;;) {}", name="greedy", limits={"cpu": 0.2})
    check = Sandbox.check_cpu

    def fails(self: Sandbox) -> None:
        if self.app.name == "odd":
            raise ZeroDivisionError
        check(self)

    monkeypatch.setattr(Sandbox, "check_cpu", fails)
    async with pool_of(odd, greedy) as pool, pool.lend(odd) as sandbox:
        with pytest.raises(LimitHit, match=r"limits\.cpu"):
            await run(pool, greedy)
        with trio.fail_after(60):
            await sandbox.ended.wait()


@pytest.mark.parametrize("name", ["tend", "warm", "start_spare"])
async def test_what_looks_after_processes_goes_on_after_an_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again after a moment."""
    app = evolve(APP, pool=evolve(APP.pool, min_idle=1))
    real, calls = getattr(Assignment, name), []

    def fails(*args: object) -> object:
        calls.append(name)
        if len(calls) < 3:
            raise OSError(24, "Too many open files")
        return real(*args)

    monkeypatch.setattr(Assignment, name, fails)
    async with pool_of(app, spare=1) as pool:
        await eventually(lambda: pool.statistics("app").idle == 1 and pool.spare_processes(), 60)
        assert len(calls) >= 3


async def test_the_pause_of_an_app_that_crashes_is_waited_out_and_not_more(
    mock_clock: MockClock,
) -> None:
    """On the clock; and a reload ends it."""
    async with pool_of(APP) as pool:
        for _ in range(4):
            pool.crashes.note(APP, Outcome.CRASHED, "")
        pause = pool.crashes.pause(APP)
        assert pause > 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, pool, APP)
            await wait_all_tasks_blocked()
            mock_clock.jump(pause * 0.9)
            await wait_all_tasks_blocked()
            assert pool.statistics("app").booting == 0
            mock_clock.jump(pause * 0.2)
        async with trio.open_nursery() as nursery:
            async with pool.lend(APP):
                nursery.start_soon(run, pool, APP)
                await wait_all_tasks_blocked()
                pool.update({"app": APP})
                assert pool.statistics("app").booting == 1


# A process that is ready at once, and does nothing.
QUICK = (
    "/bin/sh",
    "-c",
    """echo '{"cmd":"js.ready","cmd_id":"h","reply":false,"run":null}'; cat > /dev/null""",
)


class Quick:
    """Isolation without any, that counts the processes."""

    def jail(self, app: App) -> Jail:
        """See MakesJails."""
        return (
            Jail(QUICK, {"PATH": "/usr/bin:/bin"})
            if app.name != "broken"
            else Jail(("/bin/false",), {})
        )

    blank = jail

    def kind(self, app: App) -> object:
        """See MakesJails."""
        return app.name == "broken"


def children() -> int:
    """Processes of ours, reaped or not."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return len(file.read().split())


@pytest.mark.parametrize("seed", range(4))
async def test_many_apps_on_a_small_host(seed: int) -> None:
    """Every run gets a process or a reason, whatever ends in between; there are never more
    processes than allowed, and none at the end.
    """
    rng = random.Random(seed)
    before = children()
    apps = {
        name: evolve(
            APP,
            name=name,
            pool=evolve(
                APP.pool,
                max_processes=rng.randint(1, 3),
                messages_in_flight=rng.choice([1, 1, 3]),
                max_messages=5,
                min_idle=rng.choice([0, 1]),
            ),
        )
        for name in ("a", "b", "c", "d", "broken")
    }
    answers: Counter[str] = Counter()

    async def some(pool: Pool, name: str, rng: random.Random) -> None:
        for _ in range(12):
            with trio.move_on_after(rng.choice([math.inf, math.inf, 0.01])) as scope:
                try:
                    async with pool.lend(apps[name]) as sandbox:
                        assert sandbox.app.name == name
                        assert children() - before <= 4
                        sandbox.runs += 1
                        what = rng.random()
                        _ = 1 / (what > 0.1)
                        if what < 0.2:
                            pool.kill(sandbox.process.pid)
                        await trio.sleep(rng.choice([0, 0.001, 0.01]))
                        answers["ok"] += 1
                except BootFailed:
                    answers["not booted"] += 1
                except AppRemoved:
                    answers["removed"] += 1
                except ZeroDivisionError:
                    answers["raised"] += 1
            answers["cancelled"] += scope.cancelled_caught

    with trio.fail_after(280):
        async with open_pool(Quick(), 4, ignore, 1) as pool:
            pool.update(apps)
            async with trio.open_nursery() as nursery:
                for name in apps:
                    for number in range(3):
                        nursery.start_soon(some, pool, name, random.Random(f"{seed}{name}{number}"))
                for number in range(10):
                    await trio.sleep(0.02)
                    changed = {
                        name: evolve(app, source=f"// {number // 2}") for name, app in apps.items()
                    }
                    apps.update(changed)
                    pool.update({name: app for name, app in apps.items() if rng.random() < 0.9})
                pool.update(apps)
            assert answers.total() >= 5 * 3 * 12
            pool.update({})
            await eventually(lambda: children() <= before + 1, 60)
    assert children() == before
