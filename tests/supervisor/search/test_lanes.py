"""The lanes to the workers of a search process: long questions and answers, and callers that leave
in the middle; with a stand-in for the process.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio
from attrs import evolve

from resources.fence import tally
from resources.stores.search import QueryError
from resources.stores.search.process import WORKERS
from supervisor.config.units import Duration
from supervisor.host.process import Process
from supervisor.search import process

from .asking import keys, pid_of, until
from .test_client import QUICK, stand_in

PATIENT = evolve(QUICK, timeout=Duration(20.0))


async def test_an_answer_of_any_length_comes_whole(tmp_path: Path) -> None:
    """From a byte to more than a pipe and a read have room for."""
    async with stand_in(tmp_path, PATIENT) as (search, observer):
        for size in (1, 4095, 65_536, (128 << 10) - 60, 128 << 10, 3 << 20):
            found = await keys(search, f"long {size}")
            assert [len(key) for key in found] == [size] * 3
        assert observer.count == 0


async def test_a_question_longer_than_a_pipe_goes_out_whole(tmp_path: Path) -> None:
    async with stand_in(tmp_path, PATIENT) as (search, observer):
        assert len(await keys(search, "y " + "x" * 250_000)) == 1
        assert observer.count == 0


async def test_callers_that_leave_at_any_moment_leave_nothing_behind(tmp_path: Path) -> None:
    """A question whose caller is cancelled is answered all the same, and nobody else gets that
    answer: each of the next finds its own.
    """
    async with stand_in(tmp_path, PATIENT) as (search, observer):
        pid = await keys(search, "x")
        for n in range(60):
            size = 1 + n * 40_000 % 1_000_000
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(keys, search, f"long {size}", f"a{n % 7}")
                    for _ in range(n % 12):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            assert await keys(search, f"y{n}", f"a{n % 7}") == pid
        async with trio.open_nursery() as nursery:
            for n in range(3 * WORKERS):
                nursery.start_soon(keys, search, f"long {1 << 20}", f"a{n}")
        running = search._running
        assert running is not None
        assert len(running._lanes) == WORKERS
        assert not running._open
        assert observer.count == 0


async def test_a_worker_that_closes_its_pipe(tmp_path: Path) -> None:
    """Its question is one that is not answered in time. No error of ours; others are answered."""
    before = tally["search"]
    async with stand_in(tmp_path) as (search, observer):
        with pytest.raises(QueryError, match="took longer"):
            await keys(search, f"closes {tmp_path / 'said'}")
        assert await keys(search, "x")
        assert observer.count == 1
    assert tally["search"] == before


async def test_a_process_that_does_not_die(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, and not dead: as in a frozen cgroup. Its questions are over all the same, and a
    caller that leaves then is only cancelled.
    """
    monkeypatch.setattr(process, "REAP_SECONDS", 0.05)
    before = tally["search"]
    async with stand_in(tmp_path, PATIENT) as (search, _):
        pid = pid_of(search)
        running = search._running
        assert running is not None
        with monkeypatch.context() as immortal, trio.CancelScope() as scope:
            immortal.setattr(Process, "kill", lambda _: None)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keys, search, "hang", "b")
                nursery.start_soon(keys, search, "mute")
                await until(lambda: len(running._open) == 2)
                await until(lambda: not running._open)
                await until(lambda: running._nursery._closed)
                scope.cancel()
        os.kill(pid, signal.SIGKILL)
        assert await keys(search, "x") != [str(pid)]
    assert tally["search"] == before


async def test_a_deadline_is_kept_whatever_was_asked_before(tmp_path: Path) -> None:
    """Also if the last question had a later one, as after a reload."""
    async with stand_in(tmp_path, evolve(QUICK, timeout=Duration(60.0))) as (search, _):
        pid = await keys(search, "x")
        search.settings = evolve(QUICK, timeout=Duration(0.2))
        with trio.fail_after(10):
            assert await keys(search, f"stopped {tmp_path / 'said'}") != pid
