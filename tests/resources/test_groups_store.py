"""Groups in a real store: how they are listed, and what a name may stand for."""

from __future__ import annotations

import pytest

from resources.stores.groups import Groups, GroupsTooLarge, SeveralGroups, TooManyGroups
from resources.stores.redis import Redis

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
    with pytest.raises(GroupsTooLarge, match=f"more than {size - 1} characters"):
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
