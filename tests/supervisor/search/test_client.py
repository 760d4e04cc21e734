"""The search client: deadlines, crashes of the process, slots; with a stand-in for the process."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing
from attrs import evolve

from resources.fence import tally
from resources.stores.redis import Unavailable
from resources.stores.search import CannotSearch, QueryError
from supervisor.config.model import SearchSettings
from supervisor.config.units import Duration
from supervisor.errors import CannotStart
from supervisor.search import Search, open_search, process

from .asking import Restarts, keys, pid_of, until

STAND_IN = (sys.executable, str(Path(__file__).with_name("search_stand_in.py")))
QUICK = SearchSettings(timeout=Duration(0.3))


@asynccontextmanager
async def stand_in(
    folder: Path, settings: SearchSettings = QUICK
) -> AsyncIterator[tuple[Search, Restarts]]:
    observer = Restarts()
    with trio.fail_after(30):
        async with open_search(
            settings, "unix:///none", folder, ["a"], observer, STAND_IN
        ) as search:
            yield search, observer


async def test_a_query_past_its_deadline_ends_the_process(tmp_path: Path) -> None:
    """It fails and says why; it is not asked again for a while; another process answers the others,
    who notice nothing.
    """
    async with stand_in(tmp_path, evolve(QUICK, timeout=Duration(1.0))) as (search, observer):
        (before,) = await keys(search, "x")
        slow: list[str] = []

        async def ask_another() -> None:
            await trio.sleep(0.7)
            # in the middle of which the process ends
            slow.extend(await keys(search, "slow 0.5", "b"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_another)
            began = trio.current_time()
            with pytest.raises(QueryError, match=r"took longer than search\.timeout = 1 s"):
                await keys(search, "hang")
            assert trio.current_time() - began < 2
        assert observer.count == 1
        assert slow != [before]
        assert (await keys(search, "x")) == slow
        began = trio.current_time()
        with pytest.raises(QueryError, match="took longer"):
            await keys(search, "hang")
        assert trio.current_time() - began < 0.1
        assert observer.count == 1


async def test_the_deadline_holds_when_nobody_waits_any_more(tmp_path: Path) -> None:
    """The task that asked was cancelled: its slot is not free until the process has ended, and the
    query is refused.
    """
    async with stand_in(tmp_path) as (search, observer):
        with trio.move_on_after(0.05):
            await keys(search, "hang")
        await keys(search, "x")
        assert observer.count == 0
        await trio.sleep(0.5)
        assert observer.count == 1
        with pytest.raises(QueryError):
            await keys(search, "hang")
        await keys(search, "x")


async def test_a_query_that_ends_the_process_is_found_out(tmp_path: Path) -> None:
    """Each query in progress is asked again alone: the others are answered, and that one is
    refused.
    """
    async with stand_in(tmp_path, evolve(QUICK, timeout=Duration(5.0))) as (search, observer):
        answers: list[str] = []

        async def ask(account: str) -> None:
            answers.extend(await keys(search, "slow 0.2", account))

        async with trio.open_nursery() as nursery:
            for account in ("b", "c", "d"):
                nursery.start_soon(ask, account)
            await trio.sleep(0.05)
            with pytest.raises(QueryError, match="the query ended the search process"):
                await keys(search, "crash")
        assert len(answers) == 3
        await keys(search, "x")  # there is a process again
        restarts = observer.count
        with pytest.raises(QueryError):
            await keys(search, "crash")
        assert observer.count == restarts


PATIENT = evolve(QUICK, timeout=Duration(5.0))


async def test_an_index_that_ends_the_process_is_built_anew(tmp_path: Path) -> None:
    """If its files are damaged; then the query is answered."""
    (tmp_path / "damaged").touch()
    async with stand_in(tmp_path, PATIENT) as (search, observer):
        assert await keys(search, f"crash {tmp_path / 'renewed'}")
        assert observer.count == 2
        with pytest.raises(QueryError, match="the query ended the search process"):
            await keys(search, "crash")  # for another reason than its index
        assert await keys(search, "x")
        assert observer.count == 2 + 3


@pytest.mark.parametrize("query", ["crash", "behind-crash"])
async def test_a_whole_index_is_kept(query: str, tmp_path: Path) -> None:
    """The second end of the process is the last, whatever else was answered between the two; the
    query is then refused without being asked.
    """
    async with stand_in(tmp_path, PATIENT) as (search, observer):
        for _ in range(3):
            with pytest.raises(QueryError, match="the query ended the search process"):
                await keys(search, query)
        assert await keys(search, "x")
        assert observer.count == 2
    assert not list(tmp_path.iterdir())


async def test_a_process_that_is_killed_from_outside_is_no_crash(tmp_path: Path) -> None:
    """The query is asked again until it is answered, within reason."""
    async with stand_in(tmp_path, PATIENT) as (search, observer):
        assert await keys(search, "killed 4")
        assert observer.count == 4


@pytest.mark.parametrize("verb", ["garbage", "unasked", "twice", "babbles"])
async def test_a_process_that_makes_no_sense_ends_alone(verb: str, tmp_path: Path) -> None:
    """Counted and logged; another is started, and the query is answered."""
    before = tally["search"]
    async with stand_in(tmp_path, PATIENT) as (search, observer):
        assert await keys(search, f"{verb} {tmp_path / 'said'}")
        assert observer.count == 1
    assert tally["search"] == before + 1


async def test_a_query_is_not_blamed_for_a_stopped_process(tmp_path: Path) -> None:
    """It is asked again, of another process."""
    async with stand_in(tmp_path, evolve(QUICK, timeout=Duration(2.0))) as (search, observer):
        assert await keys(search, f"stopped {tmp_path / 'said'}")
        assert observer.count == 1
        assert await keys(search, f"stopped {tmp_path / 'said'}")


async def test_an_answer_without_an_end_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that gives it is ended before it fills our memory."""
    monkeypatch.setattr(process, "ANSWER_MAX", 8 << 20)
    before = tally["search"]
    async with stand_in(tmp_path, PATIENT) as (search, observer):
        assert await keys(search, f"endless {tmp_path / 'said'}")
        assert observer.count == 1
    assert tally["search"] == before + 1


async def test_what_the_process_says_of_its_own_accord_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """How many lines for the log and how many accounts, and how long each is."""
    monkeypatch.setattr(process, "TROUBLES_MAX", 10)
    async with stand_in(tmp_path, PATIENT) as (search, _):
        await keys(search, "troubles 30")
        running = search._running
        assert running is not None
        assert len(running.troubles) == 10
        for account, reason in running.troubles.items():
            assert len(account) + len(reason) < 3 * process.TEXT_MAX
            assert reason.isprintable()
        await keys(search, "lines 300")
        said = [record for record in caplog.records if record.message.startswith("line ")]
        assert 0 < len(said) < 200
        for record in said:
            assert record.levelno <= logging.CRITICAL
            assert len(record.message) < 2 * process.TEXT_MAX
            assert record.message.isprintable()


async def test_questions_that_are_over_at_once_do_not_end_the_watch(tmp_path: Path) -> None:
    """Also if they are over before the task that keeps their deadlines runs."""
    before = tally["search"]
    async with stand_in(tmp_path, PATIENT) as (search, observer):
        await trio.testing.wait_all_tasks_blocked()
        running = search._running
        assert running is not None
        running._asked.set()
        await trio.testing.wait_all_tasks_blocked()
        assert await keys(search, "x")
        assert observer.count == 0
    assert tally["search"] == before


async def test_an_index_that_cannot_be_built_is_reported(tmp_path: Path) -> None:
    """With its account and the reason, until it can."""
    async with stand_in(tmp_path) as (search, _):
        assert not search.problem()
        await keys(search, "trouble the disk is read-only")
        await until(lambda: bool(search.problem()))  # it is told beside the answer
        assert search.problem() == (
            "the contacts of account t cannot be searched: the disk is read-only"
        )
        await keys(search, "trouble ")
        await until(lambda: not search.problem())


async def test_an_account_that_keeps_ending_the_process_is_refused(tmp_path: Path) -> None:
    """After three such queries all of the account's are refused for a while; others are not."""
    async with stand_in(tmp_path, evolve(QUICK, timeout=Duration(0.5))) as (search, _):
        for n in range(3):
            with pytest.raises(QueryError):
                await keys(search, f"hang {n}")
        with pytest.raises(CannotSearch, match="this account is refused for a minute"):
            await keys(search, "x")
        assert await keys(search, "x", "b")


async def test_one_account_does_not_take_every_turn(tmp_path: Path) -> None:
    """However much one account asks, another's query is asked at once."""
    async with stand_in(tmp_path, evolve(QUICK, timeout=Duration(5.0))) as (search, _):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(keys, search, "slow 0.3")
            await trio.sleep(0.05)
            began = trio.current_time()
            await keys(search, "x", "b")
            assert trio.current_time() - began < 0.2
            nursery.cancel_scope.cancel()


async def test_a_search_waits_for_its_index_or_fails(tmp_path: Path) -> None:
    """As `while_building` says."""
    async with stand_in(tmp_path) as (search, _):
        assert await keys(search, "behind 3")
        search.settings = evolve(QUICK, while_building="fail")
        with pytest.raises(
            CannotSearch,
            match="cannot be searched at the moment: 2 contacts are not in the index yet",
        ):
            await keys(search, "behind 2")
        assert await keys(search, "behind 2")


async def test_a_store_that_is_gone_is_told(tmp_path: Path) -> None:
    """It is Unavailable, as everywhere."""
    async with stand_in(tmp_path) as (search, _):
        with pytest.raises(Unavailable):
            await keys(search, "store")


async def test_what_the_process_says_before_it_is_ready_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as which walls the kernel lacks: it is ready all the same."""
    async with stand_in(tmp_path) as (search, observer):
        assert await keys(search, "x")
    assert observer.count == 0
    assert "it lacks a wall" in caplog.text


async def test_a_process_that_does_not_read_its_accounts_is_killed(tmp_path: Path) -> None:
    """A reload does not wait for it, and the next process begins with the accounts."""
    async with stand_in(tmp_path) as (search, observer):
        os.kill(pid_of(search), signal.SIGSTOP)
        await search.follow([f"account-{n}" for n in range(200_000)])
        assert await keys(search, "x")
        assert observer.count == 1


async def test_a_process_that_cannot_start_is_told(tmp_path: Path) -> None:
    """With its own output."""
    with pytest.RaisesGroup(CannotStart, flatten_subgroups=True) as raised:
        async with stand_in(tmp_path / "never"):
            pass
    assert "there is no such thing" in str(raised.value.exceptions[0])
