"""A search sees every write that was answered before it began: with writes and searches from
several tasks, from another host, and while the process is killed.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from attrs import define, field

from resources.stores.contacts import Change, Contacts, Writes
from resources.stores.redis import Redis, StoreError, open_redis
from supervisor.config.model import SearchSettings
from supervisor.observe import ignore
from supervisor.search import Search, open_search
from supervisor.search.client import TRUST_SECONDS

from .asking import keys, pid_of


@asynccontextmanager
async def searching(url: str, folder: Path, *, are_writes_ours: bool) -> AsyncIterator[Search]:
    with trio.fail_after(60):
        async with open_search(SearchSettings(), url, folder, ["a"], ignore) as search:
            search.writes.are_all = are_writes_ours
            yield search


def named(name: str) -> Change:
    return Change(set={"name": name, "created_at": "2014-01-02 03:04:05.000000"})


@define
class Peers:
    """Tasks that write and search. Names are used once: what was answered is found from then on,
    and what was replaced is not.
    """

    search: Search
    random: random.Random
    answered: dict[str, str] = field(factory=dict)  # the names that must be found: key
    replaced: list[str] = field(factory=list)  # the names that must not
    searches: int = 0

    async def live(self, me: int, contacts: Contacts, rounds: int) -> None:
        """Write, and search for what this task or another one has written."""
        mine: list[str] = []
        for n in range(rounds):
            name = f"n{me}x{n}"
            if mine and self.random.random() < 0.4:
                before = mine.pop(self.random.randrange(len(mine)))
                key = self.answered.pop(before)  # from here on either may be found
                await contacts.change("a", key, named(name))
                self.replaced.append(before)
            else:
                key = f"k{me}x{n}"
                await contacts.create("a", key, named(name), 10**6)
            self.answered[name] = key
            mine.append(name)
            for _ in range(self.random.randrange(4)):
                await self.look()

    async def look(self) -> None:
        """Search once."""
        self.searches += 1
        if self.replaced and self.random.random() < 0.2:
            assert await keys(self.search, f"name:{self.random.choice(self.replaced)}") == []
        elif self.random.random() < 0.2:
            least = len(self.answered)
            assert await self.search.count("a", "name:n*") >= least
        else:
            name = self.random.choice([*self.answered])
            key = self.answered[name]
            found = await keys(self.search, f"name:{name}")
            assert found == [key] or name not in self.answered


async def kill(search: Search, times: int) -> None:
    for _ in range(times):
        await trio.sleep(0.3)
        if search._running is not None:
            os.kill(pid_of(search), signal.SIGKILL)


@pytest.mark.parametrize("seed", [1, 2])
async def test_writes_of_this_server(redis: Redis, valkey: str, tmp_path: Path, seed: int) -> None:
    """It knows of each, so most searches do without the store."""
    async with searching(valkey, tmp_path, are_writes_ours=True) as search:
        peers, contacts = Peers(search, random.Random(seed)), Contacts(redis, writes=search.writes)
        async with trio.open_nursery() as nursery:
            for me in range(5):
                nursery.start_soon(peers.live, me, contacts, 60)
        assert peers.searches > 300
        assert await search.count("a", "*:*") == await contacts.count("a")


async def test_writes_of_two_hosts(redis: Redis, valkey: str, tmp_path: Path) -> None:
    """Neither knows of those of the other."""
    async with open_redis(valkey) as other_redis:
        async with (
            searching(valkey, tmp_path / "own", are_writes_ours=False) as search,
            searching(valkey, tmp_path / "other", are_writes_ours=False) as other_search,
            trio.open_nursery() as nursery,
        ):
            peers = Peers(search, random.Random(3))
            others = Peers(other_search, random.Random(4), peers.answered, peers.replaced)
            for me in range(2):
                own = Contacts(redis, writes=search.writes)
                nursery.start_soon(peers.live, me, own, 60)
                other = Contacts(other_redis, writes=other_search.writes)
                nursery.start_soon(others.live, 10 + me, other, 60)


@pytest.mark.slow
async def test_writes_while_the_process_is_killed(
    redis: Redis, valkey: str, tmp_path: Path
) -> None:
    async with searching(valkey, tmp_path, are_writes_ours=True) as search:
        peers, contacts = Peers(search, random.Random(5)), Contacts(redis, writes=search.writes)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill, search, 6)
            for me in range(5):
                nursery.start_soon(peers.live, me, contacts, 200)


async def test_a_write_behind_the_servers_back_is_seen_a_little_later(
    redis: Redis, valkey: str, tmp_path: Path
) -> None:
    """Such as with valkey-cli, which is nobody's way of writing."""
    async with searching(valkey, tmp_path, are_writes_ours=True) as search:
        assert await search.count("a", "*:*") == 0
        await Contacts(redis).create("a", "k", named("one"), 10)
        began = trio.current_time()
        while await search.count("a", "*:*") == 0:
            await trio.sleep(0.01)
        assert trio.current_time() - began < TRUST_SECONDS + 5


async def test_what_counts_as_a_write(redis: Redis) -> None:
    """All that has changed a contact, or may have; also one whose caller did not wait for it."""
    writes = Writes()
    contacts = Contacts(redis, writes=writes)
    seen = [writes.latest("a")]

    def is_news() -> bool:
        seen.append(writes.latest("a"))
        return seen[-1] > seen[-2]

    await contacts.create("a", "k", named("one"), 10)
    assert is_news()
    await contacts.change("a", "k", named("two"))
    assert is_news()
    await contacts.create_many("a", [("m", named("three"))], 10)
    assert is_news()
    _, is_new = await contacts.find_or_create("a", "msisdn", "+27123", "f", named("four"), 10)
    assert is_new
    assert is_news()
    new = Change(set={"msisdn": "+27124", "created_at": "2014-01-02 03:04:05.000000"})
    await contacts.find_or_create("a", "msisdn", "+27124", "g", new, 10)
    assert is_news()
    _, is_new = await contacts.find_or_create("a", "msisdn", "+27124", "h", new, 10)
    assert not is_new
    assert not is_news()
    await contacts.get("a", "k")
    assert not is_news()
    with trio.CancelScope() as scope:
        scope.cancel()
        await contacts.change("a", "k", named("five"))
    assert is_news()
    assert writes.latest("other") == 0
    writes.note_all()
    assert is_news()
    assert writes.latest("other") > 0


async def test_a_write_without_an_answer_counts(valkey: str) -> None:
    async with open_redis(valkey) as redis:
        writes = Writes()
        contacts = Contacts(redis, writes=writes)
    with pytest.raises(StoreError):
        await contacts.create("a", "k", named("one"), 10)
    assert writes.latest("a") > 0


def test_very_many_accounts_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resources.stores.contacts.ACCOUNTS_MAX", 3)
    writes = Writes()
    for account in "abcd":
        writes.note(account)
    assert len(writes._latest) <= 3
    before = {account: writes.latest(account) for account in "abcde"}
    writes.note("e")
    assert [account for account in before if writes.latest(account) > before[account]] == ["e"]
