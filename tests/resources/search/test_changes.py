"""How the search process reads from the store when its connections are cut."""

from __future__ import annotations

import pytest

from resources.stores.contacts import Change, Contacts
from resources.stores.keys import account_key
from resources.stores.links import link_to
from resources.stores.redis import Redis
from resources.stores.search.changes import Changes, StoreGone

from ...store_faults import cut
from ...store_proxy import StoreProxy


def test_a_connection_that_was_closed_is_made_again(proxy: StoreProxy) -> None:
    """A question is asked once more, whether the connection was idle or in use."""
    changes = Changes(lambda: link_to(proxy.url))
    assert changes.newest(["a"]) == [0]
    proxy.cut()
    assert changes.newest(["a"]) == [0]
    proxy.fault(cut(after=True), "GET", times=1)
    assert changes.newest(["a"]) == [0]
    proxy.fault(cut(after=True), "GET")
    with pytest.raises(StoreGone, match="Redis did not answer"):
        changes.newest(["a"])
    proxy.cure()
    assert changes.newest(["a"]) == [0]
    changes._links.link.close()


@pytest.mark.parametrize("number", ["-1", "0", "x", "", "1.5", str(2**53), str(10**18)])
async def test_a_contact_whose_number_another_program_has_changed_is_left_out(
    redis: Redis, valkey: str, number: str
) -> None:
    new = [
        (key, Change(set={"name": "x", "created_at": "2014-01-02 03:04:05.000000"}))
        for key in ("a", "b")
    ]
    assert not await Contacts(redis).create_many("acct", new, 100)
    await redis.execute("HSET", account_key("acct", "contact", "a"), "~seq", number)
    changes = Changes(lambda: link_to(valkey))
    try:
        page = changes.after("acct", 0, 100)
        assert [one.key for one in page.changed] == ["b"]
        assert page.last == 2
    finally:
        changes._links.link.close()


@pytest.mark.parametrize("value", ["x", "", "-1", "1.5", "inf", "9" * 400, b"\xff", None])
async def test_a_number_of_changes_that_another_program_has_overwritten_is_an_error_of_its_account(
    redis: Redis, valkey: str, value: str | bytes | None
) -> None:
    """With a text, or with a list. The other accounts have theirs."""
    key = account_key("acct", "contacts", "changes")
    if value is None:
        await redis.execute("RPUSH", key, "x")
    else:
        await redis.execute("SET", key, value)
    await redis.execute("SET", account_key("other", "contacts", "changes"), "7")
    changes = Changes(lambda: link_to(valkey))
    try:
        before, mine, after = changes.newest(["other", "acct", "none"])
        assert (before, after) == (7, 0)
        assert isinstance(mine, StoreGone)
        assert "account acct" in str(mine)
        assert key in str(mine)
        assert len(str(mine)) < 300
    finally:
        changes._links.link.close()


@pytest.mark.parametrize("value", ["x", "1.5", b"\xff", "1"])
async def test_contacts_whose_changes_have_other_numbers_are_not_read(
    redis: Redis, valkey: str, value: str | bytes
) -> None:
    """Their newest is no number, or less than that of the last: what is written would be missed."""
    new = [(key, Change(set={"created_at": "2014-01-02 03:04:05.000000"})) for key in ("a", "b")]
    assert not await Contacts(redis).create_many("acct", new, 100)
    await redis.execute("SET", account_key("acct", "contacts", "changes"), value)
    changes = Changes(lambda: link_to(valkey))
    try:
        with pytest.raises(StoreGone):
            changes.after("acct", 0, 100)
        if value != "1":
            with pytest.raises(StoreGone, match="account acct"):
                changes.state("acct")
    finally:
        changes._links.link.close()


async def test_what_another_program_has_put_among_the_changes(redis: Redis, valkey: str) -> None:
    """A number that is none ends the reading of this account; a key that is none is left out."""
    new = [(key, Change(set={"created_at": "2014-01-02 03:04:05.000000"})) for key in ("a", "b")]
    assert not await Contacts(redis).create_many("acct", new, 100)
    changed = account_key("acct", "contacts", "changed")
    await redis.execute("ZADD", changed, "1", b"\xff")
    await redis.execute("HSET", b"jsbox:{acct}:contact:\xff", "name", "x")
    await redis.execute("SET", account_key("acct", "contacts", "epoch"), b"\xff")
    changes = Changes(lambda: link_to(valkey))
    try:
        page = changes.after("acct", 0, 100)
        assert [one.key for one in page.changed] == ["a", "b"]
        assert changes.state("acct") == (page.epoch, 2)
        await redis.execute("ZADD", changed, "1.5", "a")
        with pytest.raises(StoreGone, match=r"contact b'a' of account acct, is b'1\.5'"):
            changes.after("acct", 0, 100)
    finally:
        changes._links.link.close()


async def test_large_contacts_come_in_smaller_pages(
    redis: Redis, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least one at a time, each once and in order; so do those that are asked for by key."""
    monkeypatch.setattr("resources.stores.search.changes.PAGE_BYTES", 10_000)
    monkeypatch.setattr("resources.stores.search.changes.CONTACTS_READ", 2)
    sizes = [20_000, 1, 1, 1, 9_000, 9_000, 30_000, 6_000, 6_000, 1]
    new = [
        (f"k{n}", Change(set={"name": "x" * size, "created_at": "2014-01-02 03:04:05.000000"}))
        for n, size in enumerate(sizes)
    ]
    assert not await Contacts(redis).create_many("acct", new, 100)
    changes = Changes(lambda: link_to(valkey))
    try:
        page = changes.after("acct", 0, 100)
        pages = [page]
        while page.left > len(page.changed):
            page = changes.after("acct", page.last, 100)
            pages.append(page)
        assert [len(page.changed) for page in pages] == [1, 5, 1, 2, 1]
        assert [page.left for page in pages] == [10, 9, 4, 3, 1]
        changed = [one for page in pages for one in page.changed]
        assert [one.key for one in changed] == [key for key, _ in new]
        assert all(size < one.size < size + 100 for size, one in zip(sizes, changed, strict=True))
        found = changes.contacts("acct", [*(key for key, _ in new[::-1]), "none"])
        assert [contact["key"] for contact in found] == [key for key, _ in new[::-1]]
    finally:
        changes._links.link.close()
