"""Groups in a real store: how they are listed, and what a name may stand for."""

from __future__ import annotations

from typing import Any

import pytest

from resources.stores.errors import Fenced
from resources.stores.fencing import Fence, fenced
from resources.stores.groups import Groups, GroupsTooLarge, SeveralGroups, TooManyGroups
from resources.stores.redis import Redis
from resources.stores.scripts import Script

MOST = 1000


async def test_many_groups_are_listed_in_pages(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once and by name; what is too large for one answer is refused."""
    groups = Groups(redis)
    names = [f"group {n:03}" for n in range(300)]
    for name in reversed(names):
        await groups.find_or_create("acct", name, f"key-{name}", "2014-01-01", MOST)
    assert [group["name"] for group in await groups.all("acct")] == names
    assert await groups.all("nobody") == []
    size = sum(map(len, names))
    monkeypatch.setattr("resources.stores.groups.TEXT_MAX", size)
    assert len(await groups.all("acct")) == 300
    monkeypatch.setattr("resources.stores.groups.TEXT_MAX", size - 1)
    with pytest.raises(GroupsTooLarge, match=f"more than {size - 1} bytes"):
        await groups.all("acct")


@pytest.mark.parametrize("count", [1, 100, 300])  # one answer has all of a small set of keys
async def test_large_groups_are_read_some_at_a_time(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """No answer of the store has many more bytes than allowed; each group is there, whole."""
    groups = Groups(redis)
    for n in range(count):
        await groups.find_or_create("acct", f"g{n:03}", f"key-{n}", "2014-01-01", MOST)
        await groups.update("acct", f"key-{n}", f"g{n:03}", f"{n}".rjust(500, "x"))
    await redis.execute("SADD", "{acct}:groups", "gone")
    sizes, run = list[int](), Redis.run

    async def measured(redis: Redis, script: Script, *args: Any) -> Any:
        answer = await run(redis, script, *args)
        sizes.append(len(repr(answer)))
        return answer

    monkeypatch.setattr("resources.stores.groups.PAGE_BYTES", 2_000)
    monkeypatch.setattr(Redis, "run", measured)
    found = await groups.all("acct")
    assert [group["name"] for group in found] == [f"g{n:03}" for n in range(count)]
    assert all(group["query"].lstrip("x") == f"{n}" for n, group in enumerate(found))
    assert max(sizes) < 2_000 + 1_000 + 25 * count
    assert len(sizes) >= count // 5


async def test_the_size_of_groups_is_that_of_their_bytes(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = Groups(redis)
    await groups.find_or_create("acct", "a", "key-a", "2014-01-01", MOST)
    await groups.update("acct", "key-a", "é", "\U0001f600" * 10)
    monkeypatch.setattr("resources.stores.groups.TEXT_MAX", 42)
    assert len(await groups.all("acct")) == 1
    monkeypatch.setattr("resources.stores.groups.TEXT_MAX", 41)
    with pytest.raises(GroupsTooLarge, match="more than 41 bytes"):
        await groups.all("acct")


async def test_groups_have_names_that_can_be_shared_only_by_update(redis: Redis) -> None:
    """A name that two groups have finds neither; the others are listed by name."""
    groups = Groups(redis)
    for name in ("b", "a"):
        await groups.find_or_create("acct", name, f"key-{name}", "2014-01-01", MOST)
    assert [group["name"] for group in await groups.all("acct")] == ["a", "b"]
    changed = await groups.update("acct", "key-b", "a", "")
    assert changed == {
        "name": "a", "query": "", "user_account": "acct", "created_at": "2014-01-01",
        "key": "key-b", "$VERSION": None,
    }  # fmt: skip
    with pytest.raises(SeveralGroups):
        await groups.find("acct", "a")
    with pytest.raises(SeveralGroups):
        await groups.find_or_create("acct", "a", "new", "2014-01-01", MOST)
    assert await groups.find("acct", "b") is None
    assert (await groups.update("acct", "key-b", "c", None) or {})["query"] is None
    assert (await groups.find("acct", "a") or {})["key"] == "key-a"
    assert await groups.update("acct", "nothing", "x", None) is None
    with pytest.raises(TooManyGroups, match="2 groups"):
        await groups.find_or_create("acct", "d", "new", "2014-01-01", 2)


async def test_a_run_whose_partition_has_moved_creates_no_group(redis: Redis) -> None:
    """And is told so: the group is none that cannot be read."""
    await redis.execute("SET", "owner", "2 two b")
    groups = Groups(redis)
    with fenced(Fence("owner", b"1 one a", "part")), pytest.raises(Fenced):
        await groups.find_or_create("acct", "x", "key-x", "2014-01-01", MOST)
    assert await groups.all("acct") == []
