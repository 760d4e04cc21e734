"""The key-value store: quota, expiry and integers in single atomic steps."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio

from resources.contract import Caller, Refused
from resources.kv import Get, Kv
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
    """Passing the soft limit warns, passing it again within the hour does not; the hard limit
    likewise.
    """
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
    """The time to live survives; values beyond the 53 bits of a Lua number are exact; overflow is
    refused.
    """
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


async def counted_bytes(redis: Redis, account: str) -> int:
    """How many bytes the names and values of an account have, as far as counted."""
    return int(await redis.execute("GET", f"jsbox:{{{account}}}:kvbytes") or 0)


async def sums(redis: Redis, account: str = "a") -> tuple[int, int, int]:
    """The bytes that are counted for an account, the sum of those of its keys, and what really is
    there.
    """
    names = [
        name.decode()
        for name in await redis.execute("ZRANGE", f"jsbox:{{{account}}}:kvkeys", 0, -1)
    ]
    sizes = await redis.execute("HVALS", f"jsbox:{{{account}}}:kvsizes")
    real = [
        len(name.encode()) + await redis.execute("STRLEN", f"jsbox:{{{account}}}:kv:{name}")
        for name in names
    ]
    return await counted_bytes(redis, account), sum(map(int, sizes)), sum(real)


def bytes_quota(most: int) -> Quota:
    return Quota(hard=1000, soft=1000, most_bytes=most)


async def test_bytes_have_a_quota_too(redis: Redis) -> None:
    """Of names and values together: what would be too much is refused, what shrinks or is deleted
    gives room.
    """
    keyspace, quota = Keyspace(redis), bytes_quota(100)
    await keyspace.set("a", "k1", b"x" * 48, None, quota)
    await keyspace.set("a", "k2", b"x" * 48, None, quota)
    for name, value in (("k3", b"1"), ("k1", b"x" * 49), ("", b"1")):
        with pytest.raises(KeyspaceFull) as full:
            await keyspace.set("a", name, value, None, quota)
        assert full.value.is_bytes
    with pytest.raises(KeyspaceFull):
        await keyspace.incr("a", "n", 1, quota)
    assert await keyspace.get("a", "k1") == b"x" * 48
    await keyspace.set("a", "k1", b"x" * 46, None, quota)
    await keyspace.set("a", "3", b"1", None, quota)
    assert await sums(redis) == (100, 100, 100)
    await keyspace.delete("a", "k1")
    await keyspace.set("a", "n", b"12345678", None, quota)
    assert await sums(redis) == (61, 61, 61)


async def test_what_is_full_may_still_shrink(redis: Redis) -> None:
    """The operator has lowered the quota: smaller values are accepted, larger and new ones not."""
    keyspace = Keyspace(redis)
    await keyspace.set("a", "k", b"x" * 500, None, bytes_quota(1000))
    await keyspace.set("a", "k", b"x" * 400, None, bytes_quota(10))
    await keyspace.set("a", "k", b"x" * 400, None, bytes_quota(10))
    with pytest.raises(KeyspaceFull):
        await keyspace.set("a", "k", b"x" * 401, None, bytes_quota(10))
    assert await sums(redis) == (401, 401, 401)


async def test_the_warning_about_bytes_comes_once(redis: Redis) -> None:
    """And apart from those about keys."""
    keyspace = Keyspace(redis)
    for expected in (Warn.BYTES, Warn.NONE):
        with pytest.raises(KeyspaceFull) as full:
            await keyspace.set("a", "k", b"x" * 11, None, Quota(5, 5, most_bytes=10))
        assert full.value.warn is expected


async def test_concurrent_writes_never_break_the_quota_of_bytes(redis: Redis) -> None:
    """Sets, increments and deletes of the same few keys at once: the count is exact, and never
    above the quota.
    """
    keyspace, quota = Keyspace(redis), bytes_quota(300)

    async def work(n: int) -> None:
        for step in range(40):
            name = f"k{(n * 7 + step) % 11}"
            try:
                match (n + step) % 4:
                    case 0 | 1:
                        await keyspace.set(
                            "a", name, b"9" * ((n * step) % 17 + 1), step % 3 or None, quota
                        )
                    case 2:
                        await keyspace.incr("a", name, 10**step % 10**9, quota)
                    case 3:
                        await keyspace.delete("a", name)
            except (KeyspaceFull, NotAnInteger):
                pass

    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(work, n)
    counted, of_keys, _ = await sums(redis)
    assert counted == of_keys
    assert 0 < counted <= 300


async def test_bytes_of_expired_keys_are_given_back(redis: Redis) -> None:
    """As soon as a write needs them, however many keys have expired."""
    keyspace, quota = Keyspace(redis), bytes_quota(30_000)
    for start in range(0, 3000, 500):
        async with trio.open_nursery() as nursery:
            for n in range(start, start + 500):
                nursery.start_soon(
                    keyspace.set, "a", f"{n:04}", b"123456", 9999, Quota(5000, 5000, 30_000)
                )
    assert await counted_bytes(redis, "a") == 30_000
    with pytest.raises(KeyspaceFull):
        await keyspace.set("a", "0000", b"1234567", None, quota)
    for n in range(3000):  # their time has come
        name = f"{n:04}"
        await redis.execute_many(
            [("DEL", f"jsbox:{{a}}:kv:{name}"), ("ZADD", "jsbox:{a}:kvkeys", "XX", 1, name)]
        )
    await keyspace.set("a", "large", b"x" * 29_000, None, quota)
    with pytest.raises(KeyspaceFull):
        await keyspace.set("a", "more", b"x" * 1000, None, quota)
    counted, of_keys, real = await sums(redis)
    assert counted == of_keys == real == 29_005


async def old_store(redis: Redis, count: int) -> int:
    """Keys as they were stored before bytes were counted; how many bytes they have."""
    for n in range(count):
        await redis.execute_many(
            [
                ("SET", f"jsbox:{{a}}:kv:ключ{n}", "x" * n),
                ("ZADD", "jsbox:{a}:kvkeys", "+inf", f"ключ{n}"),
            ]
        )
    return sum(len(f"ключ{n}".encode()) + n for n in range(1, count))


async def test_what_was_stored_before_bytes_were_counted_is_counted(redis: Redis) -> None:
    """In the background, while apps write; once, and each key once."""
    await redis.execute("FLUSHALL")
    expected = await old_store(redis, 900)
    keyspace, quota = Keyspace(redis), bytes_quota(10_000_000)

    async def work() -> None:
        for n in range(1, 900, 7):
            await keyspace.set("a", f"ключ{n}", b"y" * n, None, quota)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        nursery.start_soon(keyspace.count, "a")
        nursery.start_soon(keyspace.count, "a")
    assert await counted_bytes(redis, "a") == expected
    await keyspace.count("a")
    assert await counted_bytes(redis, "a") == expected
    await keyspace.delete("a", "ключ5")
    assert await counted_bytes(redis, "a") == expected - len("ключ5".encode()) - 5


async def test_accounts_that_come_later_are_counted_too(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload may bring them."""
    monkeypatch.setattr("resources.stores.keyspace.COUNT_EVERY", 0.01)
    await redis.execute("FLUSHALL")
    expected = await old_store(redis, 10)
    keyspace, accounts = Keyspace(redis), list[str]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keyspace.keep_counting, lambda: accounts)
        await trio.sleep(0.05)
        assert await counted_bytes(redis, "a") == 0
        accounts.append("a")
        with trio.fail_after(60):
            while await counted_bytes(redis, "a") != expected:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_one_account_that_cannot_be_counted_keeps_back_no_other(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Because a key of it has another type, or a bug shows; which is logged, once for a key. What
    is repaired is counted.
    """
    monkeypatch.setattr("resources.stores.keyspace.COUNT_EVERY", 0.01)
    await redis.execute("FLUSHALL")
    expected = await old_store(redis, 10)
    await redis.execute("SET", "jsbox:{0wrong}:kvkeys", "no sorted set")
    await redis.execute("ZADD", "jsbox:{1odd}:kvkeys", "+inf", b"\xff")
    keyspace = Keyspace(redis)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keyspace.keep_counting, lambda: ["0wrong", "1odd", "a"])
        with trio.fail_after(60):
            while await counted_bytes(redis, "a") != expected:
                await trio.sleep(0.01)
            await trio.sleep(0.1)  # several more rounds
            await redis.execute("DEL", "jsbox:{0wrong}:kvkeys")
            while not await redis.execute("EXISTS", "jsbox:{0wrong}:kvcounted"):
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    said = [record.getMessage() for record in caplog.records]
    assert sum("kv of account 0wrong cannot be counted: WRONGTYPE" in line for line in said) == 1
    assert any("internal error in keyspace (account 1odd)" in line for line in said)


async def test_a_value_that_somebody_else_wrote_breaks_no_reply(redis: Redis) -> None:
    """JSON in several lines comes as one; what is not JSON is refused, and says so."""
    kv = Kv(Keyspace(redis))
    caller = Caller("r", "a", "app", "phone", None, {}, cast("Any", None))
    await redis.execute("SET", "jsbox:{a}:kv:lines", b'{"a":\n1}')
    assert bytes((await kv.get(caller, Get("lines"))).value) == b'{"a": 1}'
    for text in (b"hello", b'1,"success":false', b'1\n{"cmd":"x"}', b'"\xff"'):
        await redis.execute("SET", "jsbox:{a}:kv:odd", text)
        with pytest.raises(Refused) as raised:
            await kv.get(caller, Get("odd"))
        assert raised.value.reason == "the value of 'odd' in the store is not JSON"
