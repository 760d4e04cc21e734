"""A channel's way out: in order and at least once, whatever clients and the store do."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio

from resources.messages import send
from resources.stores.identity import MessageIds
from resources.stores.keys import channel_key
from resources.stores.outbox import Outbox
from resources.stores.redis import Redis, StoreError, open_redis
from resources.stores.statistics import Statistics

from ...service import eventually
from ...store_faults import refuse
from ...store_proxy import store_proxy
from .outlet_rig import SENDER, Gate, rigged


async def test_what_a_client_leaves_goes_to_the_next_in_order(redis: Redis) -> None:
    """Before what came later, with attempt 2; what was acknowledged does not go out again."""
    async with rigged(redis) as rig:
        first = rig.gate(window=4)
        await rig.post("a", "b", "c", "d", "e", "f")
        await first.has(4)
        rig.ack(first, 2)
        await first.has(5)
        rig.outlet.detach(first)
        second = rig.gate()
        await second.has(5)
        assert second.texts == ["a", "c", "d", "e", "f"]
        assert [frame["attempt"] for frame in second.parcels] == [2, 2, 2, 2, 1]
        rig.ack(second, 1, 3, 4, 5, 6)
        await rig.settled()


async def test_parcels_that_come_back_together_stand_in_order_with_those_before_them(
    redis: Redis,
) -> None:
    """Two clients that hold every other parcel leave one after the other."""
    async with rigged(redis) as rig:
        one, two = rig.gate(window=3), rig.gate(window=3)
        await rig.post(*"abcdef")
        await eventually(lambda: sorted(one.numbers + two.numbers) == [1, 2, 3, 4, 5, 6])
        rig.outlet.detach(two)
        rig.outlet.detach(one)
        third = rig.gate()
        await third.has(6)
        assert third.texts == list("abcdef")


async def test_only_who_was_handed_a_parcel_may_acknowledge_it(redis: Redis) -> None:
    """Even late, after it went to another; but no other client, and not by guessing numbers."""
    async with rigged(redis, ack_timeout=0.05) as rig:
        holder = rig.gate(window=1)
        await rig.post("a")
        await holder.has(1)
        stranger = rig.gate(window=1)
        rig.ack(stranger, *range(20))
        await eventually(lambda: rig.outlet.unacked == 1)
        holder.is_free = False  # so that it goes to the other
        await eventually(lambda: stranger.numbers == [1])
        bystander = rig.gate(window=1)
        rig.ack(bystander, 1)
        assert rig.outlet.unacked == 1 or not rig.outlet.is_settled
        rig.ack(holder, 1)
        await rig.settled()


async def test_who_has_left_may_not_acknowledge(redis: Redis) -> None:
    """And is not kept."""
    async with rigged(redis) as rig:
        first = rig.gate()
        await rig.post("a")
        await first.has(1)
        rig.outlet.detach(first)
        rig.ack(first, 1)
        second = rig.gate()
        await second.has(1)
        assert [item.had for item in rig.outlet._items.values()] == [(second,)]


async def test_a_late_acknowledgement_spares_the_repetition(redis: Redis) -> None:
    """One that comes while the parcel waits to go out again."""
    async with rigged(redis, ack_timeout=0.05) as rig:
        gate = rig.gate(window=2)
        await rig.post("a", "b")
        gate.is_free = False
        await eventually(lambda: rig.outlet.unacked == 0)  # both wait in line again
        rig.ack(gate, 1)
        gate.is_free = True
        rig.outlet.wake()
        await eventually(lambda: len(gate.parcels) > 2)
        assert gate.numbers[2] == 2
        rig.ack(gate, 2)
        await rig.settled()


async def test_attempts_go_on_after_a_restart(redis: Redis) -> None:
    """For parcels that were handed out once, several times, and never."""
    async with rigged(redis, ack_timeout=0.02) as rig:
        gate = rig.gate(window=1)
        await rig.post("a")
        await eventually(lambda: gate.parcels[-1]["attempt"] == 3 if gate.parcels else False)
        gate.is_free = False
        await eventually(lambda: rig.outlet.unacked == 0)
        await redis.flush()
        times = gate.parcels[-1]["attempt"]
    async with rigged(redis) as rig:
        gate = rig.gate(window=2)
        await rig.post("b", "c", "d")
        await gate.has(2)
        assert [(frame["delivery"], frame["attempt"]) for frame in gate.parcels] == [
            (1, times + 1),
            (2, 1),
        ]
        await redis.flush()
    async with rigged(redis) as rig:
        gate = rig.gate()
        await gate.has(4)
        assert [frame["attempt"] for frame in gate.parcels] == [times + 2, 2, 1, 1]
        rig.ack(gate, 1, 2, 3, 4)
        await rig.settled()
    assert await redis.execute("EXISTS", channel_key("phone", "attempts")) == 0


async def test_attempts_are_noted_when_the_store_takes_them_again(redis: Redis) -> None:
    """A refusal is made up for with the next parcel."""
    with store_proxy(str(redis._connection._link.url)) as proxy:
        async with open_redis(proxy.url) as client:
            async with rigged(client) as rig:
                gate = rig.gate()
                await rig.post("a")
                await gate.has(1)
                with proxy.fault(refuse("READONLY"), "SET"):
                    rig.outlet.detach(gate)
                    gate = rig.gate()
                    await gate.has(1)
                    await rig.post("b")
                    await client.flush()
                await rig.post("c")
                await client.flush()
    async with rigged(redis) as rig:
        gate = rig.gate()
        await gate.has(3)
        assert [frame["attempt"] for frame in gate.parcels] == [3, 2, 2]


@pytest.mark.parametrize(
    "lost",
    [
        ["FLUSHALL"],
        ["SET", channel_key("phone", "posted"), 1],
        ["DEL", channel_key("phone", "posted")],
    ],
)
async def test_a_store_that_forgot_while_it_serves(redis: Redis, lost: list[object]) -> None:
    """Handed-out parcels stay known, new ones go out, and late acknowledgements strike the right
    ones.
    """
    async with rigged(redis) as rig:
        gate = rig.gate(window=4)
        await rig.post("a", "b", "c", "d")
        await gate.has(4)
        rig.ack(gate, 1, 2)
        await eventually(lambda: rig.outlet._acknowledged.is_struck)
        await redis.execute(*lost)
        await rig.post("e", "f", "g")
        await gate.has(6)
        rig.ack(gate, 3)
        await gate.has(7)
        assert gate.texts == list("abcdefg")
        assert len(set(gate.numbers)) == 7
        rig.outlet.detach(gate)
        other = rig.gate()
        await other.has(4)
        assert other.texts == list("defg")
        rig.ack(other, *other.numbers)
        await rig.settled()


async def test_a_failover_to_a_replica_that_was_behind(redis: Redis) -> None:
    """Three deliveries are forgotten and two strikes: nothing new is lost, nothing that was
    acknowledged goes out or stays.
    """
    with store_proxy(str(redis._connection._link.url)) as proxy:
        async with open_redis(proxy.url) as client, rigged(client) as rig:
            gate = rig.gate()
            await rig.post(*"abcd")
            await gate.has(4)
            rig.ack(gate, 1)
            await eventually(lambda: rig.outlet._acknowledged.is_struck)
            before = await trio.to_thread.run_sync(proxy.remember)
            await rig.post(*"efg")
            await gate.has(7)
            rig.ack(gate, 2, 5, 6)
            await eventually(lambda: rig.outlet._acknowledged.is_struck)
            await trio.to_thread.run_sync(proxy.go_back, before)
            while "h" not in gate.texts:
                with suppress(StoreError):
                    await rig.post("h")
                await trio.sleep(0.01)
            await rig.post("i")
            await eventually(lambda: "i" in gate.texts)
            assert gate.texts[:7] == list("abcdefg")
            assert set(gate.texts[7:]) == {"h", "i"}
            assert client.statistics().reconnects == 2
            with trio.fail_after(60):
                while await rig.outbox.waiting("phone"):
                    rig.ack(gate, *gate.numbers)
                    await trio.sleep(0.01)


async def test_what_another_server_put_there_goes_out_after_a_lost_connection(redis: Redis) -> None:
    """A message below the numbers that were taken; it may be known to nobody here."""
    async with rigged(redis) as rig:
        gate = rig.gate()
        await rig.post(*"abc")
        await gate.has(3)
        rig.ack(gate, 1, 2)
        await eventually(lambda: rig.outlet._acknowledged.is_struck and rig.outlet.unacked == 1)
        await redis.execute("DEL", channel_key("phone", "out"))
        await redis.execute(
            "XADD",
            channel_key("phone", "out"),
            "2-1",
            "m",
            b'{"content":"theirs","in_reply_to":null}',
        )
        rig.outlet.doubt()
        await gate.has(4)
        assert gate.texts == ["a", "b", "c", "theirs"]


async def test_what_nobody_announced_is_found_after_a_lost_connection(redis: Redis) -> None:
    """For example after an answer that was cut off."""
    async with rigged(redis) as rig:
        gate = rig.gate()
        await rig.post("a")
        await gate.has(1)
        silent = Outbox(redis, MessageIds(b"s"), Statistics(redis))
        await silent.post("phone", SENDER, send("+27", "b", endpoint="default", helper_metadata={}))
        rig.outlet.doubt()
        await gate.has(2)


async def test_the_store_may_refuse_as_long_as_it_likes(redis: Redis) -> None:
    """Strikes and pages: tried again until they are done; timers go on meanwhile."""
    with store_proxy(str(redis._connection._link.url)) as proxy:
        async with open_redis(proxy.url) as client, rigged(client, ack_timeout=0.05) as rig:
            gate = rig.gate()
            await rig.post("a", "b")
            with proxy.fault(refuse("BUSY"), "outbox_strike", "outbox_page"):
                rig.ack(gate, 1)
                rig.outlet.announce(None)
                await eventually(lambda: gate.numbers.count(2) > 1)
                assert [one.delivery for one in rig.outlet._acknowledged._waiting] == [1]
            rig.ack(gate, 2)
            await rig.settled()


async def test_announcements_out_of_order_go_out_in_order(redis: Redis) -> None:
    """Posts that end together may be announced in any order."""
    async with rigged(redis) as rig:
        gate = rig.gate()
        async with trio.open_nursery() as nursery:
            for n in range(200):
                nursery.start_soon(rig.post, str(n))
        await gate.has(200)
        assert gate.numbers == list(range(1, 201))
        assert {frame["attempt"] for frame in gate.parcels} == {1}


async def test_what_is_no_message_is_dropped(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot be handed to anybody, and must not stop what comes after it."""
    async with rigged(redis) as rig:
        await redis.execute("XADD", channel_key("phone", "out"), "1-1", "m", b"\xff{")
        await redis.execute("SET", channel_key("phone", "posted"), 1)
        await rig.post("a")
        gate = rig.gate()
        await gate.has(1)
        rig.ack(gate, 2)
        await rig.settled()
    assert "entry 1 of its outbox is not a message" in caplog.text


async def test_an_error_of_ours_does_not_reach_who_posts(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection raises: the app's command succeeds, and another connection gets the parcel."""
    async with rigged(redis) as rig:
        broken = rig.gate()
        monkeypatch.setattr(Gate, "push", lambda *_: 1 / 0)
        await rig.post("a")
        monkeypatch.undo()
        rig.outlet.detach(broken)
        gate = rig.gate()
        await gate.has(1)
