"""The key-value store: quota, expiry and integers in single atomic steps."""

from __future__ import annotations

import pytest
import trio

from resources.stores.keyspace import Keyspace, KeyspaceFull, NotAnInteger, Quota, Warn
from resources.stores.redis import Redis

QUOTA = Quota(hard=5, soft=3)


async def test_concurrent_new_keys_never_break_the_quota(redis: Redis) -> None:
    """Fifty runs set fifty new keys at once under a quota of five: five exist."""
    keyspace = Keyspace(redis)
    refused = 0

    async def put(n: int) -> None:
        nonlocal refused
        try:
            await keyspace.set("a", f"k{n}", b"1", None, QUOTA)
        except KeyspaceFull:
            refused += 1

    async with trio.open_nursery() as nursery:
        for n in range(50):
            nursery.start_soon(put, n)
    assert refused == 45
    assert await redis.execute("ZCARD", "jsbox:{a}:kvkeys") == 5


async def test_two_deletes_of_one_key_free_one_place(redis: Redis) -> None:
    """Only the delete that found the key gives its place back."""
    keyspace = Keyspace(redis)
    for n in range(5):
        await keyspace.set("a", f"k{n}", b"1", None, QUOTA)
    existed = []

    async def delete() -> None:
        existed.append(await keyspace.delete("a", "k0"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(delete)
        nursery.start_soon(delete)
    assert sorted(existed) == [False, True]
    await keyspace.set("a", "new", b"1", None, QUOTA)
    with pytest.raises(KeyspaceFull):
        await keyspace.set("a", "more", b"1", None, QUOTA)


async def test_the_warnings_come_once(redis: Redis) -> None:
    """Passing the soft limit warns, passing it again within the hour does not; the hard limit likewise."""
    keyspace = Keyspace(redis)
    warns = [await keyspace.set("a", f"k{n}", b"1", None, QUOTA) for n in range(5)]
    assert warns == [Warn.NONE, Warn.NONE, Warn.NONE, Warn.SOFT, Warn.NONE]
    for expected in (Warn.HARD, Warn.NONE):
        with pytest.raises(KeyspaceFull) as raised:
            await keyspace.incr("a", "more", 1, QUOTA)
        assert raised.value.warn is expected


async def test_accounts_share_nothing(redis: Redis) -> None:
    """The same name in two accounts is two keys, and one account's quota is not the other's."""
    keyspace = Keyspace(redis)
    for n in range(5):
        await keyspace.set("a", f"k{n}", b'"a"', None, QUOTA)
    await keyspace.set("b", "k0", b'"b"', None, QUOTA)
    assert await keyspace.get("a", "k0") == b'"a"'
    assert await keyspace.get("b", "k0") == b'"b"'


@pytest.mark.parametrize("name", ["", ":", "kv:k", "}", "{b}:kv:k0", "x\ny", "ключ", "k0\0"])
async def test_odd_names_are_just_names(redis: Redis, name: str) -> None:
    """A key's name cannot reach another key, whatever is in it."""
    keyspace = Keyspace(redis)
    await keyspace.set("b", "k0", b"1", None, QUOTA)
    assert await keyspace.get("a", name) is None
    await keyspace.set("a", name, b"2", None, QUOTA)
    assert await keyspace.get("a", name) == b"2"
    assert await keyspace.get("b", "k0") == b"1"
    assert await keyspace.delete("a", name)


async def test_incr_keeps_the_expiry_and_all_64_bits(redis: Redis) -> None:
    """The time to live survives; values beyond the 53 bits of a Lua number are exact; overflow is refused."""
    keyspace = Keyspace(redis)
    await keyspace.set("a", "n", b"9007199254740993", 100, QUOTA)
    assert await keyspace.incr("a", "n", 2, QUOTA) == (9007199254740995, Warn.NONE)
    assert 95 < await redis.execute("TTL", "jsbox:{a}:kv:n") <= 100
    await keyspace.set("a", "n", str(2**63 - 1).encode(), None, QUOTA)
    with pytest.raises(NotAnInteger, match="overflow"):
        await keyspace.incr("a", "n", 1, QUOTA)
    assert await keyspace.get("a", "n") == str(2**63 - 1).encode()


async def test_expired_keys_are_released(redis: Redis) -> None:
    """A key that has expired is gone, and its place in the quota is free."""
    keyspace = Keyspace(redis)
    for n in range(5):
        await keyspace.set("a", f"k{n}", b"1", 1, QUOTA)
    await trio.sleep(1.1)
    for n in range(5):
        await keyspace.set("a", f"n{n}", b"1", None, QUOTA)
    assert await keyspace.get("a", "k0") is None
