"""Servers that share a store, at the level of the store: who owns what, and whose writes count."""

from __future__ import annotations

import json

import pytest
import trio

from resources.stores import metric_sums
from resources.stores.errors import Fenced, StoreRefused
from resources.stores.fencing import fenced
from resources.stores.graphite import Bucket, Graphite, Target, Values, open_graphite
from resources.stores.identity import Sender, open_message_ids
from resources.stores.journal import Entry, Journal, KeptOutcome
from resources.stores.keyspace import Keyspace, Quota
from resources.stores.lease import Holder, Lease, keys_of_host
from resources.stores.metric_sums import MetricSums
from resources.stores.outbox import Outbox
from resources.stores.parcels import Slot
from resources.stores.partitions import Ownership, Part, Taken, fence_of, first_of, parts_of
from resources.stores.peers import Peers, Record
from resources.stores.redis import Redis
from resources.stores.statistics import Statistics

PART = Part("acme", "survey", "3")
SENDER = Sender("acme", "survey")
OK = KeptOutcome("ok", 1.5, 2)


async def _take(redis: Redis, me: str, dead: bytes = b"") -> bytes:
    (taken,) = await Ownership(redis, me).take([(PART, dead)])
    assert taken.is_ours
    return taken.owner


def test_a_host_that_goes_moves_only_its_own() -> None:
    """Every host has its share; when one goes, the others keep theirs."""
    parts = [str(part) for app in ("a", "b", "c") for part in parts_of("acme", app, 64)]
    before = {part: first_of(["x", "y", "z"], part) for part in parts}
    after = {part: first_of(["x", "y"], part) for part in parts}
    assert all(list(before.values()).count(host) > len(parts) // 5 for host in "xyz")
    assert all(after[part] == host for part, host in before.items() if host != "z")
    assert first_of([], "p") == ""


async def test_a_partition_has_one_owner(redis: Redis) -> None:
    """It is taken if it is free, or from one that is known to be dead; the epoch grows."""
    assert await _take(redis, "one a") == b"1 one a"
    other = Ownership(redis, "two b")
    (held,) = await other.take([(PART, b"")])
    assert (held.owner, held.is_ours) == (b"1 one a", False)
    (held,) = await other.take([(PART, b"1 one z")])  # not the one that has it
    assert not held.is_ours
    assert await _take(redis, "two b", b"1 one a") == b"2 two b"
    await Ownership(redis, "one a").give(PART, b"1 one a")  # too late
    assert await redis.execute("GET", PART.owner_key) == b"2 two b"
    await other.give(PART, b"2 two b")
    assert await _take(redis, "one a") == b"3 one a"


async def test_a_partition_that_we_took_without_knowing_is_taken_anew(redis: Redis) -> None:
    """The store's answer was lost; what was begun under the epoch before does not count."""
    assert await _take(redis, "one a") == b"1 one a"
    assert await _take(redis, "one a") == b"2 one a"
    await Ownership(redis, "one a").give(PART, b"1 one a")  # of before
    (held,) = await Ownership(redis, "one b").take([(PART, b"")])  # the host's next process
    assert (held.owner, held.is_ours) == (b"2 one a", False)


async def test_a_store_without_memory_lets_another_take_over(redis: Redis) -> None:
    """Else nothing would be run, and so nothing be freed; the end of a run frees what it held."""
    journal, peers = Journal(redis, partitions=16, host="two"), Peers(redis, Holder(id="two"))
    entry = _message("m1", "+1")
    (accepted,) = await journal.accept([entry])
    part = Part("acme", "survey", accepted.place.partition(":")[0])
    await Ownership(redis, "one a").take([(part, b"")])
    await redis.execute("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(StoreRefused, match="OOM"):
            await redis.execute("SET", "x", 1)
        assert await peers.bury("one")
        (taken,) = await Ownership(redis, "two b").take([(part, b"1 one a")])
        assert isinstance(taken, Taken)
        assert taken.is_ours
        await journal.end(entry, accepted.place, fence_of(part, taken.owner), OK, "")
        assert await journal.ends([(entry, accepted.place)]) == [(True, OK)]
        await Ownership(redis, "two b").give(part, taken.owner)
    finally:
        await redis.execute("CONFIG", "SET", "maxmemory", 0)


async def test_a_past_owner_writes_nothing(redis: Redis) -> None:
    """Neither values nor the end of its run; whoever asks is told that it was fenced off."""
    journal = Journal(redis, partitions=16, host="one", process="a")
    keyspace, told = Keyspace(redis), list[str]()
    redis.on_fenced.append(lambda: told.append("fenced"))
    entry = _message("m1", "+1")
    (accepted,) = await journal.accept([entry])
    part = Part("acme", "survey", accepted.place.partition(":")[0])
    (taken,) = await Ownership(redis, "one a").take([(part, b"")])
    fence = fence_of(part, taken.owner)
    with fenced(fence):
        assert await _incr(keyspace) == 1
        (stolen,) = await Ownership(redis, "two b").take([(part, taken.owner)])
        with pytest.raises(Fenced):
            await _incr(keyspace)
        with pytest.raises(Fenced):
            await journal.end(entry, accepted.place, fence, KeptOutcome("ok", 1.5, 2), "")
    assert told
    assert not redis.statistics().problem  # nothing is wrong with the store
    assert await _incr(keyspace) == 2  # of nobody's run
    assert await journal.ends([(entry, accepted.place)]) == [(False, None)]
    newer = fence_of(part, stolen.owner)
    await journal.end(entry, accepted.place, newer, KeptOutcome("ok", 1.5, 2), "")
    assert await journal.ends([(entry, accepted.place)]) == [(True, KeptOutcome("ok", 1.5, 2))]
    (again,) = await journal.accept([entry])
    assert again.duplicate
    assert again.place == accepted.place


async def test_a_buried_host_does_not_come_back(redis: Redis) -> None:
    """Its lease cannot be renewed; with a new process it can be had again."""
    peers = Peers(redis, Holder(id="two", nonce="b", name="the second"))
    first = Holder(id="one", boot="x", nonce="a", name="the first")
    lease = Lease(redis, 5.0, first, keys_of_host("one"), is_shared=True)
    assert await lease.take() is None
    await peers.say(Record(id="one", process="a", name="the first"))
    assert (await peers.look()).alive.keys() == {"one"}
    assert not await peers.bury("one")
    await redis.execute("DEL", keys_of_host("one")[0])
    assert (await peers.look()).gone == ("one",)
    assert await peers.bury("one")
    await lease._renew()
    assert lease.is_lost
    assert "counts as dead" in lease.problem
    assert "the second" in lease.problem
    assert not lease.is_open(1)
    again = Lease(redis, 5.0, Holder(id="one", nonce="c"), keys_of_host("one"), is_shared=True)
    assert await again.take() is None
    assert not await peers.lives("one", "a")
    assert await peers.lives("one", "c")


async def test_a_server_that_wants_the_store_alone_does_not_get_a_shared_one(redis: Redis) -> None:
    """Nor the other way round."""
    shared = Lease(redis, 5.0, Holder(id="one", nonce="a"), keys_of_host("one"), is_shared=True)
    assert await shared.take() is None
    alone = Lease(redis, 5.0, Holder(id="two", nonce="b", name="alone"))
    held = await alone.take()
    assert held is not None
    assert "share it" in held.name
    await redis.execute("DEL", "jsbox:lease")
    assert await alone.take() is None
    await shared._renew()
    assert shared.is_lost
    third = Lease(redis, 5.0, Holder(id="three", nonce="c"), keys_of_host("three"), is_shared=True)
    held = await third.take()
    assert held is not None
    assert held.name == "alone"


async def test_a_reply_goes_where_the_message_came_in(redis: Redis) -> None:
    """Or to any server that is connected; else it waits for one. It keeps its attempts."""
    one, two = await _outbox(redis, "one"), await _outbox(redis, "two")
    await one.say_taker("phone", "g")
    await two.say_taker("phone", "g")
    fence = fence_of(PART, b"1 one a", "two")
    with fenced(fence):
        await one.post_once("phone", SENDER, _reply("r1"), Slot("origin", "0 reply"))
        repeat = await one.post_once("phone", SENDER, _reply("r1"), Slot("origin", "0 reply"))
    assert repeat.is_repeat
    await one.post("phone", SENDER, _reply("r2"))  # of no run: ours
    assert await _texts(two) == ["r1"]
    assert await _texts(one) == ["r2"]
    with fenced(fence_of(PART, b"2 two b", "gone")):
        await one.post("phone", SENDER, _reply("r3"))
    with fenced(fence), pytest.raises(Fenced):
        await one.post("phone", SENDER, _reply("late"))
    two.note_handed("phone", 1, {}, lambda _: None)
    assert await two.leave("phone", "two") == 1
    await one.leave("phone", "one")
    await one.post("phone", SENDER, _reply("r4"))
    assert await _texts(one) == await _texts(two) == []
    await two.say_taker("phone", "g")
    assert await two.take_over("phone") == 4
    page = await two.page("phone", 0, 9)
    assert [_text(one.message) for one in page.parcels] == ["r1", "r2", "r3", "r4"]
    assert [parcel.attempts for parcel in page.parcels] == [1, 0, 0, 0]
    assert (await two.waits("phone")).count == 4


async def test_a_dead_server_leaves_no_keys(redis: Redis) -> None:
    """Of a channel that it is connected to again, or where messages of it wait, all stays."""
    one, two = await _outbox(redis, "one"), await _outbox(redis, "two")
    channels = ("phone", "sms", "chat")
    for channel in channels:
        await two.say_taker(channel, "g")
        await two.post(channel, SENDER, _reply("r"))
        two.note_handed(channel, 1, {1: 2}, lambda _: None)
        if channel != "chat":
            await one.leave(channel, "two")
    await two.say_taker("sms", "g")  # it is back there
    await redis.execute("HDEL", "jsbox:{channel:chat}:takers", "two")
    await one.forget(channels, "two")
    left = await redis.execute("KEYS", "*:two")
    assert {key.split(b"}")[0] for key in left} == {b"jsbox:{channel:sms", b"jsbox:{channel:chat"}
    assert len(left) == 9
    await two.say_taker("phone", "g")
    await two.post("phone", SENDER, _reply("again"))
    assert await _texts(two) == ["again"]


async def test_a_server_that_was_declared_dead_is_forgotten_in_time(redis: Redis) -> None:
    """When it takes its lease again, it is remembered as before."""
    lease = Lease(redis, 60.0, Holder(id="two", nonce="p"), keys_of_host("two"), is_shared=True)
    peers, last = Peers(redis, Holder(id="one")), keys_of_host("two")[1]
    assert await lease.take() is None
    assert await peers.is_back("two")
    assert await redis.execute("TTL", last) == -1
    await redis.execute("DEL", keys_of_host("two")[0])
    assert not await peers.is_back("two")
    assert await peers.bury("two")
    assert await redis.execute("TTL", last) > 86400
    again = Lease(redis, 60.0, Holder(id="two", nonce="q"), keys_of_host("two"), is_shared=True)
    assert await again.take() is None
    assert await redis.execute("TTL", last) == -1


async def _incr(keyspace: Keyspace) -> int:
    return (await keyspace.incr("acme", "n", 1, Quota(9, 9)))[0]


def _message(name: str, user: str) -> Entry:
    payload = {"message_id": name, "from_addr": user, "timestamp": "2020-01-01T00:00:00Z"}
    return Entry("message", "acme", "survey", "phone", payload)


def _reply(text: str) -> dict[str, object]:
    return {"to_addr": "+1", "content": text, "in_reply_to": "m1", "session_event": None}


def _text(message: bytes) -> str:
    return str(json.loads(message)["content"])


async def _texts(outbox: Outbox) -> list[str]:
    return [_text(one.message) for one in await outbox.after("phone", 0, 9)]


async def _outbox(redis: Redis, host: str) -> Outbox:
    return Outbox(redis, await open_message_ids(redis), Statistics(redis), host=host)


async def test_metrics_of_all_servers_add_up(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them sends what all have of a stretch of time, each aggregator in its way."""
    sent, target = list[str](), Target("graphite", 2003, 60.0)
    monkeypatch.setattr(Graphite, "put", lambda _, to, lines: sent.extend([to.host, *lines]))
    async with open_graphite() as graphite:
        start = 1_600_000_020
        for values in ((1.5, 7.0), (4.0,)):
            bucket = Bucket(target, start)
            for agg in ("sum", "avg", "min", "max", "last"):
                one = bucket.values["a.b", agg] = Values()
                for value in values:
                    one.add(value)
            sums = MetricSums(redis, graphite, lambda: True)
            monkeypatch.setattr(metric_sums.time, "time", lambda: start + 61.0)
            sums.take(bucket)
            await sums._add()
            await sums._send()
        assert sent == []  # others may still add to it
        monkeypatch.setattr(metric_sums.time, "time", lambda: start + 70.0)
        await sums._send()
        await sums._send()
    numbers = {"sum": 12.5, "avg": 12.5 / 3, "min": 1.5, "max": 7, "last": 4}
    assert sent[0] == "graphite"
    assert sorted(sent[1:]) == sorted(f"a.b.{k} {v:f} {start}\n" for k, v in numbers.items())


async def test_metrics_are_added_once_and_those_that_wait_are_bounded(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many of a stretch of time there are, and whoever else adds at the same time."""
    monkeypatch.setattr(metric_sums, "PARTS_MAX", 3)
    monkeypatch.setattr(metric_sums, "AT_ONCE", 2)
    target = Target("graphite", 2003, 60.0)
    async with open_graphite() as graphite:
        sums = MetricSums(redis, graphite, lambda: False)
        for start in (60, 120):
            bucket = Bucket(target, start)
            for n in range(5):
                bucket.values[f"m{n}", "sum"] = one = Values()
                one.add(1.0)
            sums.take(bucket)
        assert len(sums._waiting) == 3
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sums._add)
            nursery.start_soon(sums.finish)
    rows = await redis.execute("HVALS", metric_sums._key(bucket))
    assert rows == [b"1 1 1 1 1.0"] * 5
    assert not await redis.execute("EXISTS", metric_sums._key(Bucket(target, 60)))
