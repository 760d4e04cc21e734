"""The search client with the real process: what it finds, and what it survives."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
import trio.lowlevel
import trio.testing

from resources.stores.contacts import Change, Contacts
from resources.stores.groups import Groups
from resources.stores.keys import account_key
from resources.stores.redis import Redis
from resources.stores.search import QueryError
from supervisor.config.model import SearchSettings
from supervisor.search import Search, open_search

from .asking import Restarts, keys, pid_of


@asynccontextmanager
async def real(
    url: str, folder: Path, settings: SearchSettings | None = None
) -> AsyncIterator[Search]:
    with trio.fail_after(60):
        async with open_search(
            settings or SearchSettings(), url, folder, ["acct"], Restarts()
        ) as search:
            yield search


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


async def test_a_store_that_was_set_back_is_noticed_before_the_process_is_ready(
    redis: Redis, valkey: str, tmp_path: Path
) -> None:
    """Later it may have as many changes again, and nobody could tell."""
    await write(redis, 0, 600)
    async with real(valkey, tmp_path) as search:
        assert await keys(search, "name:name595", "acct") == ["k595"]
    changes, changed = (account_key("acct", "contacts", part) for part in ("changes", "changed"))
    await redis.execute("SET", changes, 590)
    await redis.execute("ZREMRANGEBYSCORE", changed, 591, "+inf")
    async with real(valkey, tmp_path) as search:
        await write(redis, 600, 20)
        assert await keys(search, "name:name595", "acct") == []
        assert await keys(search, "name:name605", "acct") == ["k605"]


async def test_an_account_whose_changes_cannot_be_read_stops_no_other(
    redis: Redis, valkey: str, tmp_path: Path
) -> None:
    """Another program has written something else in place of their number."""
    await redis.execute("SET", account_key("acct", "contacts", "changes"), "x")
    await write(redis, 0, 1, "other")
    async with real(valkey, tmp_path) as search:
        assert await search.count("other", "*:*") == 1


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
        with pytest.raises(QueryError, match="the groups have more than 8388608 bytes"):
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
