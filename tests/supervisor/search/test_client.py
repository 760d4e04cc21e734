"""The search client: deadlines, crashes of the process, slots; first with a stand-in, then with the
real process.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
import trio.lowlevel
import trio.testing
from attrs import define, evolve

from resources.fence import tally
from resources.stores.contacts import Change, Contacts
from resources.stores.groups import Groups
from resources.stores.redis import Redis, Unavailable
from resources.stores.search import CannotSearch, QueryError
from supervisor.config.model import SearchSettings
from supervisor.config.units import Duration
from supervisor.errors import CannotStart
from supervisor.observe import Event, SearchRestarted
from supervisor.search import Search, open_search

STAND_IN = (sys.executable, str(Path(__file__).with_name("search_stand_in.py")))
QUICK = SearchSettings(timeout=Duration(0.3))


@define
class Restarts:
    """Counts how often the process was started again."""

    count: int = 0

    def __call__(self, event: Event) -> None:
        self.count += isinstance(event, SearchRestarted)


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


async def keys(search: Search, query: str, account: str = "a") -> list[str]:
    return list(msgspec.json.decode(await search.keys_json(account, query, None)))


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


@pytest.mark.parametrize("verb", ["garbage", "unasked"])
async def test_a_process_that_makes_no_sense_ends_alone(verb: str, tmp_path: Path) -> None:
    """Counted and logged; another is started, and the query is answered."""
    before = tally["search"]
    async with stand_in(tmp_path, PATIENT) as (search, observer):
        assert await keys(search, f"{verb} {tmp_path / 'said'}")
        assert observer.count == 1
    assert tally["search"] == before + 1


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
        assert search.problem() == (
            "the contacts of account t cannot be searched: the disk is read-only"
        )
        await keys(search, "trouble ")
        assert not search.problem()


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


async def test_a_process_that_cannot_start_is_told(tmp_path: Path) -> None:
    """With its own output."""
    with pytest.RaisesGroup(CannotStart, flatten_subgroups=True) as raised:
        async with stand_in(tmp_path / "never"):
            pass
    assert "there is no such thing" in str(raised.value.exceptions[0])


@asynccontextmanager
async def real(
    url: str, folder: Path, settings: SearchSettings | None = None
) -> AsyncIterator[Search]:
    with trio.fail_after(60):
        async with open_search(
            settings or SearchSettings(), url, folder, ["acct"], Restarts()
        ) as search:
            yield search


def pid_of(search: Search) -> int:
    assert search._running is not None
    return search._running.process.pid


async def write(redis: Redis, first: int, count: int, account: str = "acct") -> None:
    new = [
        (
            f"k{n}",
            Change(set={"name": f"Name{n} Common", "created_at": "2014-01-02 03:04:05.000000"}),
        )
        for n in range(first, first + count)
    ]
    assert not await Contacts(redis).create_many(account, new, 10**7)


async def test_a_search_sees_every_write_before_it(
    redis: Redis, valkey: str, tmp_path: Path
) -> None:
    """Written from anywhere, found at once; only in its own account."""
    async with real(valkey, tmp_path) as search:
        for n in range(600):
            await write(redis, n, 1)
            assert await keys(search, f"name:name{n}", "acct") == [f"k{n}"]
        assert await search.count("acct", "name:common") == 600
        assert await search.count("other", "*:*") == 0
        await Contacts(redis).change("acct", "k5", Change(set={"name": "Renamed"}))
        assert await keys(search, "name:name5", "acct") == []
        assert await keys(search, "renamed", "acct") == ["k5"]


@pytest.mark.slow
async def test_groups_are_found_among_many(redis: Redis, valkey: str, tmp_path: Path) -> None:
    """Read in pages; those that are found have to fit into one answer, the others may be large."""
    groups = Groups(redis)
    for n in range(200):
        await groups.find_or_create("acct", f"g{n}", f"key-{n}", "2014-01-01 00:00:00.0", 1000)
        if n % 10 == 0:
            await groups.update("acct", f"key-{n}", f"large g{n}", "name:x " * 9_000)
    async with real(valkey, tmp_path) as search:
        found = await search.groups("acct", "name:/g1.?.?/ -name:large")
        assert [group["name"] for group in found] == sorted(
            f"g{n}" for n in range(200) if str(n).startswith("1") and n % 10
        )
        assert len(await search.groups("acct", "name:large")) == 20
        for n in range(1, 150, 2):
            await groups.update("acct", f"key-{n}", f"large g{n}", "x" * 65_536)
            await groups.update("acct", f"key-{n + 1}", f"large g{n + 1}", "x" * 65_536)
        with pytest.raises(QueryError, match="the groups have more than 8388608 characters"):
            await search.groups("acct", "name:large")
        assert len(await search.groups("acct", "name:large AND name:g3")) == 1


@pytest.mark.slow
async def test_nothing_is_lost_when_the_process_is_killed(
    redis: Redis, valkey: str, tmp_path: Path
) -> None:
    """kill -9 at any moment, again and again, while contacts are written and searched."""
    async with real(valkey, tmp_path) as search:
        written = 0
        for round_ in range(12):
            await write(redis, written, 150)
            written += 150
            async with trio.open_nursery() as nursery:
                nursery.start_soon(search.count, "acct", "*:*")
                await trio.sleep(0.004 * round_)
                os.kill(pid_of(search), signal.SIGKILL)
            assert await search.count("acct", "name:common") == written
            assert len(await keys(search, "*:*", "acct")) == written


async def test_the_folder_of_all_indexes_deleted_while_it_is_served(
    redis: Redis, valkey: str, tmp_path: Path
) -> None:
    """The process may write only the folder that it began with: it ends, and another one begins."""
    await write(redis, 0, 600)
    async with real(valkey, tmp_path / "search") as search:
        assert await search.count("acct", "*:*") == 600
        shutil.rmtree(tmp_path / "search")
        for n in range(600, 3000, 600):
            await write(redis, n, 600)
            assert await search.count("acct", "*:*") == n + 600
        await write(redis, 3000, 1200)
        assert await search.count("acct", "name:name4199") == 1
    assert (tmp_path / "search" / "a-acct" / "state.json").exists()


async def test_the_process_is_inside_its_walls(valkey: str, tmp_path: Path) -> None:
    """With a system call filter, from which there is no way back."""
    async with real(valkey, tmp_path) as search:
        status = Path(f"/proc/{pid_of(search)}/status").read_text()
    assert "NoNewPrivs:\t1\n" in status
    assert "Seccomp:\t2\n" in status


async def test_files_cut_short_while_they_are_served(
    redis: Redis, valkey: str, tmp_path: Path
) -> None:
    """The engine has them in its memory, and reading beyond their end kills the process: the index
    is built anew, and everything found.
    """
    await write(redis, 0, 3000)
    async with real(valkey, tmp_path) as search:
        assert await search.count("acct", "*:*") == 3000
        for file in (tmp_path / "a-acct" / "index").iterdir():
            os.truncate(file, min(file.stat().st_size, 20))
        assert await keys(search, "name:name2999", "acct") == ["k2999"]
        assert await search.count("acct", 'name:"name17 common"') == 1
        assert not search.problem()


@pytest.mark.slow
async def test_all_keys_come_without_a_stall(redis: Redis, valkey: str, tmp_path: Path) -> None:
    """20,000 keys, while the supervisor goes on: it never computes longer than 50 ms for them at a
    time.
    """
    for start in range(0, 20_000, 1000):
        await write(redis, start, 1000)
    async with real(valkey, tmp_path) as search:
        await search.count("acct", "*:*")
        async with trio.open_nursery() as nursery:
            stalls: list[float] = []
            nursery.start_soon(_watch_stalls, stalls)
            found = await search.keys_json("acct", "*:*", None)
            nursery.cancel_scope.cancel()
        assert msgspec.json.decode(found) == [f"k{n}" for n in range(20_000)]
        assert max(stalls) < 0.05


async def _watch_stalls(stalls: list[float]) -> None:
    """Note the CPU time that the loop's thread used between two moments when others could run."""
    while True:
        before = time.thread_time()
        await trio.lowlevel.checkpoint()
        stalls.append(time.thread_time() - before)


async def test_no_query_stalls_the_supervisor(redis: Redis, valkey: str, tmp_path: Path) -> None:
    """Whatever is asked, and however long it is: an answer or a refusal, and the supervisor goes on
    meanwhile.
    """
    await write(redis, 0, 500)
    hostile = [
        "(" * 60_000,
        "a AND " * 10_000,
        '"' + "a " * 30_000 + '"~9',
        "!" * 60_000,
        "[" * 60_000,
        "\\" * 60_001,
        "~" * 60_000,
        " ".join(f"name:/(a|b)*a(a|b){{{n}}}/" for n in range(60)),
        " ".join(f"*{chr(97 + n % 26)}?????*" for n in range(60)),
        "/((a*)*)*b/",
        "name:" + "?" * 256,
        "x~2 " * 1000,
        "\x00\ud800",
        'name:"common common common"~50',
        "/.{1000}/",
        "*a*b*c*d*e*f*" * 10,
        "(name:common " * 100 + ")" * 100,
        "dob:[* TO 9999]",
        "extras-" + "x" * 60_000 + ":*",
        "k" * 60_000,
    ]
    async with real(valkey, tmp_path) as search:
        await search.count("acct", "*:*")
        async with trio.open_nursery() as nursery:
            stalls: list[float] = []
            nursery.start_soon(_watch_stalls, stalls)
            for query in hostile:
                try:
                    await search.count("acct", query)
                except QueryError:
                    continue
            nursery.cancel_scope.cancel()
        assert max(stalls) < 0.05
        assert await search.count("acct", "name:common") == 500
