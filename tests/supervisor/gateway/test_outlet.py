"""A channel's way out: in order, at least once, to whom it belongs, and never more in memory than
it may be.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from attrs import define, field

from resources.fence import keep_running
from resources.messages import send
from resources.stores.identity import MessageIds, Sender
from resources.stores.keys import channel_key
from resources.stores.outbox import Outbox
from resources.stores.redis import Redis, StoreError, open_redis
from resources.stores.statistics import Statistics
from supervisor.gateway import lines
from supervisor.gateway import outlet as outlet_module
from supervisor.gateway.outlet import Outlet
from supervisor.observe import ignore

from ...service import eventually
from ...store_proxy import refuse, store_proxy

SENDER = Sender("acct", "app")


@define(eq=False)
class Gate:
    """A connection that keeps what it gets."""

    window: int = 1000
    outcomes: bool = True
    only_own: bool = False
    is_free: bool = True
    frames: list[Any] = field(factory=list)

    def push(self, frame: bytes) -> None:
        self.frames.append(json.loads(frame))

    @property
    def parcels(self) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] == "outbound"]

    @property
    def numbers(self) -> list[int]:
        return [frame["delivery"] for frame in self.parcels]

    @property
    def texts(self) -> list[str]:
        return [frame["msg"]["content"] for frame in self.parcels]

    async def has(self, count: int) -> None:
        """Wait until it has got so many parcels."""
        await eventually(lambda: len(self.parcels) >= count, 20)
        assert len(self.parcels) == count


@define(eq=False)
class Rig:
    """An outlet of channel `phone`, on a store."""

    redis: Redis
    outlet: Outlet
    outbox: Outbox

    async def post(self, *texts: str, in_reply_to: str | None = None) -> None:
        for text in texts:
            message = send("+27", text, endpoint="default", helper_metadata={}) | {
                "in_reply_to": in_reply_to
            }
            await self.outbox.post("phone", SENDER, message)

    def ack(self, gate: Gate, *numbers: int) -> None:
        for number in numbers:
            self.outlet.acknowledge(number, gate)

    async def settled(self) -> None:
        """Wait until everything is acknowledged and struck."""
        with trio.fail_after(20):
            while not self.outlet.is_settled:
                await self.outlet.settled.park()
        assert await self.outbox.waiting("phone") == 0

    def gate(self, **fields: Any) -> Gate:
        gate = Gate(**fields)
        self.outlet.attach(gate)
        return gate


@asynccontextmanager
async def rigged(redis: Redis, ack_timeout: float = 1000.0) -> AsyncIterator[Rig]:
    """As a server has it from its start to its end."""
    outlets: list[Outlet] = []
    outbox = Outbox(
        redis, MessageIds(b"s"), Statistics(redis), lambda _, parcel: outlets[0].announce(parcel),
        is_awaited=lambda _: outlets[0].is_awaited,
    )  # fmt: skip
    outlets.append(Outlet("phone", outbox, ignore, ack_timeout))
    reconnected = outlets[0].doubt
    redis.on_reconnect.append(reconnected)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_running, "outlet", outlets[0].run)
        yield Rig(redis, outlets[0], outbox)
        nursery.cancel_scope.cancel()
    redis.on_reconnect.remove(reconnected)


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
    """Also late, when it went to another meanwhile; not somebody else, and not with numbers that
    were guessed.
    """
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
    """Those of parcels that were handed out once, several times, and never."""
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
    """What was handed out goes on, what is new goes out, and late acknowledgements strike what they
    mean.
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
            with trio.fail_after(20):
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
    """An answer that was cut off, say."""
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


async def test_a_phone_gets_its_own_replies_and_nothing_else(redis: Redis) -> None:
    """Beside a gateway, neither makes the other wait, whatever the other does not acknowledge."""
    async with rigged(redis, ack_timeout=0.05) as rig:
        gate, phone = rig.gate(window=2), rig.gate(only_own=True, window=2)
        rig.outlet.brought("real", gate)
        rig.outlet.brought("test", phone)
        await rig.post("1", "2", "3")
        await rig.post("mine", in_reply_to="test")
        await phone.has(1)
        await rig.post("4", in_reply_to="real")
        await eventually(
            lambda: phone.parcels[-1]["attempt"] == 3 and gate.parcels[-1]["attempt"] == 3
        )
        assert set(phone.texts) == {"mine"}
        assert "mine" not in gate.texts
        rig.outlet.ended("test", lambda: b'{"type":"outcome","message_id":"test"}')
        rig.outlet.ended("real", lambda: b'{"type":"outcome","message_id":"real"}')
        assert [frame["message_id"] for frame in phone.frames if frame["type"] == "outcome"] == [
            "test"
        ]
        gate.window = 10
        rig.ack(gate, 1, 2)
        await eventually(lambda: {"3", "4"} <= set(gate.texts))
        assert [frame["message_id"] for frame in gate.frames if frame["type"] == "outcome"] == [
            "test",
            "real",
        ]


async def test_a_phone_alone_takes_nothing_of_others_and_is_not_held_up(redis: Redis) -> None:
    """However much waits for the channel's gateway: more than fits into memory."""
    async with rigged(redis) as rig:
        await rig.post(*(str(n) for n in range(5)))
        phone = rig.gate(only_own=True)
        rig.outlet.brought("m1", phone)
        await rig.post("mine", in_reply_to="m1")
        await phone.has(1)
        released = []
        rig.outlet.ended("m1", lambda: b'{"type":"outcome"}', lambda: released.append(1))
        assert phone.frames[-1] == {"type": "outcome"}
        assert released == [1]
        gate = rig.gate()
        await gate.has(5)
        assert phone.texts == ["mine"]
        rig.ack(phone, 6)
        rig.ack(gate, 1, 2, 3, 4, 5)
        await rig.settled()


async def test_what_a_phone_leaves_goes_to_the_gateway(redis: Redis) -> None:
    """It would wait for ever: replies that it had, and those that it had no room for."""
    async with rigged(redis) as rig:
        phone = rig.gate(only_own=True, window=1)
        rig.outlet.brought("m1", phone)
        await rig.post("a", "b", in_reply_to="m1")
        assert phone.texts == ["a"]
        rig.outlet.detach(phone)
        gate = rig.gate()
        await gate.has(2)
        assert gate.texts == ["a", "b"]


async def test_a_phone_that_waits_for_what_is_read_from_the_store(redis: Redis) -> None:
    """Whose reply was not announced: it is found behind what is for others, as long as somebody
    takes that.
    """
    async with rigged(redis) as rig:
        gate, phone = rig.gate(), rig.gate(only_own=True)
        rig.outlet.brought("m1", phone)
        silent = Outbox(redis, MessageIds(b"s"), Statistics(redis))
        for reply_to in (None, "m1"):
            message = send("+27", str(reply_to), endpoint="default", helper_metadata={}) | {
                "in_reply_to": reply_to
            }
            await silent.post("phone", SENDER, message)
        rig.outlet.announce(None)
        await phone.has(1)
        await gate.has(1)


def bytes_in(rig: Rig) -> int:
    return sum(item.size for item in rig.outlet._items.values())


async def test_memory_is_bounded_in_bytes(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what waits, of what a connection holds; one that does not read gets nothing more. Nothing
    is left out.
    """
    monkeypatch.setattr(outlet_module, "READY_SIZE", 20_000)
    monkeypatch.setattr(lines, "WINDOW_SIZE", 8_000)
    monkeypatch.setattr("resources.stores.outbox.PAGE_SIZE", 4_000)
    async with rigged(redis) as rig:
        for n in range(60):
            await rig.post(f"{n} " + "x" * 1000)
            assert bytes_in(rig) < 25_000
        gate = rig.gate(window=1000)
        await eventually(
            lambda: (
                8_000
                <= sum(item.size for item in rig.outlet._items.values() if item.holder)
                < 10_000
            )
        )
        gate.is_free = False
        seen = 0
        while seen < 60:
            await eventually(lambda: rig.outlet._line.parcels > 0 or not rig.outlet._behind)
            assert bytes_in(rig) < 40_000
            rig.ack(gate, *gate.numbers[seen:])
            seen = len(gate.numbers)
            gate.is_free = True
            rig.outlet.wake()
            await eventually(lambda seen=seen: len(gate.numbers) > seen or seen == 60)
        rig.ack(gate, *gate.numbers)
        await rig.settled()
        assert gate.numbers == list(range(1, 61))
        assert (rig.outlet._line.parcels, rig.outlet._line.size, bytes_in(rig)) == (0, 0, 0)


async def test_one_parcel_may_be_larger_than_any_bound(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes out by itself."""
    monkeypatch.setattr(outlet_module, "READY_SIZE", 100)
    monkeypatch.setattr(lines, "WINDOW_SIZE", 100)
    async with rigged(redis) as rig:
        gate = rig.gate()
        await rig.post("x" * 3000, "y" * 3000)
        await gate.has(1)
        rig.ack(gate, 1)
        await gate.has(2)


async def test_nothing_is_kept_for_outcomes_that_nobody_waits_for(redis: Redis) -> None:
    """While no client is there; `then` is called at once. Nor for clients that want no outcomes."""
    calls: list[int] = []
    async with rigged(redis) as rig:
        for n in range(3):
            await rig.post(str(n))
            rig.outlet.ended(
                f"m{n}", lambda: pytest.fail("nobody wants it"), lambda: calls.append(1)
            )
        assert calls == [1, 1, 1]
        gate = rig.gate(outcomes=False, window=1)
        await gate.has(1)
        rig.outlet.ended("push", lambda: pytest.fail("nobody wants it"))
        assert (list(rig.outlet._notices), rig.outlet._line.take_notices()) == ([], [])


async def test_outcomes_of_pushes_are_bounded(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those beyond are not told; those that a connection's credit depends on always are."""
    monkeypatch.setattr(outlet_module, "NOTICES_MAX", 5)
    calls: list[int] = []
    async with rigged(redis) as rig:
        gate = rig.gate(window=1)
        await rig.post("a", "b")
        await gate.has(1)
        for n in range(50):
            rig.outlet.ended(
                f"push{n}", lambda n=n: b'{"type":"outcome","message_id":"push%d"}' % n
            )
        rig.outlet.brought("m1", gate)
        rig.outlet.ended(
            "m1", lambda: b'{"type":"outcome","message_id":"m1"}', lambda: calls.append(1)
        )
        assert calls == []
        rig.ack(gate, 1)
        await eventually(lambda: calls == [1])
        told = [frame["message_id"] for frame in gate.frames if frame["type"] == "outcome"]
        assert told == [f"push{n}" for n in range(5)] + ["m1"]
        rig.outlet.ended("push50", lambda: b'{"type":"outcome","message_id":"push50"}')
        await eventually(lambda: gate.frames[-1].get("message_id") == "push50")
        assert rig.outlet._takers._origins == {}


@pytest.mark.parametrize("behind", [False, True])
async def test_when_the_last_client_leaves_credit_is_given_back(
    redis: Redis, *, behind: bool
) -> None:
    """Also of runs whose outbounds nobody has taken."""
    calls: list[int] = []
    async with rigged(redis) as rig:
        gate = rig.gate(window=1)
        await rig.post("a")
        await gate.has(1)
        await rig.post("b")
        if behind:
            rig.outlet._behind = True
        rig.outlet.brought("m1", gate)
        rig.outlet.ended("m1", lambda: b'{"type":"outcome"}', lambda: calls.append(1))
        assert calls == []
        rig.outlet.detach(gate)
        assert calls == [1]


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
    """It could not be given to anybody, and must not stop what comes after it."""
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
