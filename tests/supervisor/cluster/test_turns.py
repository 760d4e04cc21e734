"""One server at a time takes in what waits at a broker."""

from __future__ import annotations

import pytest
import trio

from resources.stores.lease import Holder, Lease, keys_of_host
from resources.stores.partitions import Ownership
from resources.stores.peers import Peers
from resources.stores.redis import Redis, Unavailable
from supervisor.cluster.turns import ChannelTurns

from ...service import eventually


async def _host(redis: Redis, name: str) -> ChannelTurns:
    """A server that lives."""
    holder = Holder(id=name, nonce="p", name=name)
    assert await Lease(redis, 60.0, holder, keys_of_host(name), is_shared=True).take() is None
    return ChannelTurns(Peers(redis, holder), Ownership(redis, f"{name} p"))


async def test_a_turn_that_could_not_be_given_back_is_had_again(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection to the broker broke while the store was away: the next one gets the turn."""
    one = await _host(redis, "one")

    async def away(*_: object) -> None:
        raise Unavailable("the store is away", sent=False)

    with monkeypatch.context() as patch:
        patch.setattr(Ownership, "give", away)
        async with one.turn("bulk"):
            pass
    with trio.fail_after(30):
        async with one.turn("bulk"):
            pass
        async with (await _host(redis, "two")).turn("bulk"):
            pass


async def test_another_waits_until_it_ends_or_dies(redis: Redis) -> None:
    one, two, three = [await _host(redis, name) for name in ("one", "two", "three")]
    having, stop_one = list[str](), trio.Event()

    async def take(turns: ChannelTurns, name: str, stop: trio.Event) -> None:
        async with turns.turn("bulk"):
            having.append(name)
            await stop.wait()
        having.append(f"{name} gave it back")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, one, "one", stop_one)
        await eventually(lambda: having == ["one"])
        nursery.start_soon(take, two, "two", trio.Event())
        async with three.turn("other"):  # channels do not wait for each other
            assert having == ["one"]
        stop_one.set()
        await eventually(lambda: "two" in having)
        assert having == ["one", "one gave it back", "two"]
        await redis.execute("DEL", keys_of_host("two")[0])  # it dies, and never gives it back
        with trio.fail_after(30):
            async with three.turn("bulk"):
                assert not await Peers(redis, Holder()).lives("two", "p")
        nursery.cancel_scope.cancel()
