"""What the Redis client sends: what can be encoded, in bounded batches, scripts by their digest."""

from __future__ import annotations

import pytest
import trio

from resources.stores import redis as module
from resources.stores.keyspace import script_keys
from resources.stores.reconnecting import Reconnecting
from resources.stores.redis import NotEncodable, Redis, StoreRefused, Unavailable, open_redis
from resources.stores.resp import Command
from resources.stores.scripts import script

from ..service import eventually
from ..store_faults import refuse
from ..store_proxy import StoreProxy
from .asking import outcome, with_neighbours
from .strange_link import StrangeLink


@pytest.mark.parametrize(
    "bad",
    [
        ("SET", "k", "\ud83d"), ("SET", "\udcff", "v"), ("SET", "k", None), ("SET", "k", True),
        ("SET", "k", object()),
        ("SET", "k", ["v"]), ("SET", "k", {}), ("SET", "k", 10**5000), (None,), (), ("\ud800",),
        ("SET", "k", 1j),
    ],
)  # fmt: skip
async def test_what_cannot_be_encoded_is_an_error_of_its_caller(redis: Redis, bad: Command) -> None:
    """It raises at once, nothing is sent, and nobody else in the pipeline notices; also what is
    posted, and a list.
    """
    before = redis.statistics().commands
    found = await with_neighbours(redis, *bad)
    assert found[::2] == [1, 1]
    assert isinstance(found[1], NotEncodable)
    assert not found[1].sent
    assert redis.statistics().commands == before + 2
    with pytest.raises(NotEncodable):
        redis.post([("PING",), bad], lambda _: pytest.fail("it was sent"))
    with pytest.raises(NotEncodable):
        await redis.attempt([("SET", "neither", 1), bad])
    with pytest.raises(NotEncodable):
        await redis.execute_many([list(bad)])  # type: ignore[list-item]
    assert await redis.execute("EXISTS", "neither", "k") == 0


async def test_nothing_asked_is_nothing_answered(redis: Redis) -> None:
    """No command at all is no error."""
    assert await redis.attempt([]) == []
    assert redis.post([], lambda _: None)
    assert await redis.execute("PING") == b"PONG"


async def test_what_waits_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One command may be of any size; what comes when too much waits is refused at once, also to be
    posted.
    """
    monkeypatch.setattr(module, "WAITING_BYTES", 10_000)
    client = Redis(Reconnecting(StrangeLink()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outcome, client, "SET", "x", "v" * 50_000)
        await eventually(lambda: client.statistics().waiting == 1)
        assert isinstance(await outcome(client, "SET", "x", "v"), Unavailable)
        assert not client.post([("PING",)], lambda _: None)
        nursery.cancel_scope.cancel()


async def test_large_commands_go_in_several_batches(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline is bounded in bytes, and their order is kept."""
    monkeypatch.setattr(module, "BATCH_BYTES", 100_000)
    before = redis.statistics().batches
    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(redis.execute, "RPUSH", "l", f"{n:05}" + "x" * 40_000)
            await trio.lowlevel.checkpoint()
    assert [value[:5] for value in await redis.execute("LRANGE", "l", 0, -1)] == [
        b"%05d" % n for n in range(20)
    ]
    assert redis.statistics().batches - before >= 6


async def test_scripts_that_are_all_forgotten_come_again_together(plain_or_tls: StoreProxy) -> None:
    """As after a failover: two exchanges, not one for each; a script of somebody else's stays
    unknown.
    """
    async with open_redis(plain_or_tls.url) as client:
        await client.execute("SCRIPT", "FLUSH")
        kv_set = script("kv_set")
        keys = script_keys("a", "v")
        calls = [kv_set.call(keys, "v", n, "", 10, 10, 1000) for n in range(50)]
        found = await client.attempt([*calls, ("EVALSHA", "f" * 40, 0), ("GET", keys[0])])
        assert found[:50] == [[1, 0]] * 50
        assert isinstance(found[50], StoreRefused)
        assert found[50].code == "NOSCRIPT"
        assert plain_or_tls.commands["kv_set"] == 100
        assert await client.execute("GET", keys[0]) == b"49"


async def test_a_server_that_will_not_load_scripts_is_used(proxy: StoreProxy) -> None:
    """A user who may not SCRIPT LOAD, and may EVAL: scripts go in full."""
    proxy.fault(refuse("NOPERM"), "SCRIPT")
    with proxy._direct() as direct:
        direct.script_flush()
    async with open_redis(proxy.url) as client:
        one = script("kv_delete")
        assert await client.run(one, script_keys("a", "k"), "k") == 0
