"""A channel's connections: who gets which parcels and outcomes, and how much is held for them."""

from __future__ import annotations

from functools import partial

import pytest

from resources.messages import send
from resources.stores.identity import MessageIds
from resources.stores.outbox import Outbox
from resources.stores.redis import Redis
from resources.stores.statistics import Statistics
from supervisor.gateway import frames, lines, notices
from supervisor.gateway import outlet as outlet_module

from ...service import eventually
from .outlet_rig import SENDER, Rig, rigged


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


async def test_who_leaves_is_not_remembered_as_asking(redis: Redis) -> None:
    """A client that sends a message again and goes, again and again: each connection was kept until
    the run ended.
    """
    async with rigged(redis) as rig:
        gate = rig.gate()
        rig.outlet.brought("m1", gate)
        for _ in range(3):
            phone = rig.gate(only_own=True)
            rig.outlet.brought("m1", phone)
            assert [taker.receiver for taker in rig.outlet._takers.asking("m1")] == [phone]
            rig.outlet.detach(phone)
        assert not rig.outlet._takers._asking
        assert rig.outlet._takers._origins == {"m1": gate}


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
    """Its reply was not announced: it is found behind parcels for others, as long as somebody takes
    those.
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
    """Both what waits and what a connection holds; one that does not read gets no more. Nothing is
    lost.
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
        assert (list(rig.outlet._notices._behind), rig.outlet._line.take_notices()) == ([], [])


async def test_outcomes_of_pushes_are_bounded(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More are not sent; those that a connection's credit depends on always are."""
    monkeypatch.setattr(notices, "NOTICES_MAX", 5)
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


@pytest.mark.parametrize("has_gateway", [True, False])
@pytest.mark.parametrize("end_first", [True, False])
async def test_what_another_server_posts_for_a_phone_is_picked_out(
    redis: Redis, has_gateway: bool, end_first: bool
) -> None:
    """Its reply comes before its outcome, whichever is heard first, to nobody else, and past what
    waits for others; also if no gateway is connected.
    """
    async with rigged(redis) as rig:
        outlet = rig.outlet
        outlet.picking.is_shared = True
        others = Outbox(redis, MessageIds(b"s"), Statistics(redis))  # as another server has it
        gateway = rig.gate(window=1) if has_gateway else None
        await _post(others, "for anybody", "for anybody, too")
        phone = rig.gate(only_own=True)
        await eventually(lambda: not outlet.picking.is_due)
        outlet.brought("m1", phone)
        number = await _post(others, "for the phone", in_reply_to="m1")
        end = partial(frames.outcome, "message", "m1", "ok", 1.0, 2)
        if end_first:
            outlet.ended("m1", end)
            outlet.heard(number)
        else:
            outlet.heard(number)
            outlet.ended("m1", end)
        await eventually(lambda: len(phone.frames) == 2)
        assert [frame["type"] for frame in phone.frames] == ["outbound", "outcome"]
        assert phone.texts == ["for the phone"]
        assert not outlet._takers._origins
        rig.ack(phone, number)
        if gateway is not None:
            await eventually(lambda: gateway.texts == ["for anybody"])
            rig.ack(gateway, number - 2)
            await eventually(lambda: gateway.texts == ["for anybody", "for anybody, too"])
            rig.ack(gateway, number - 1)
            await rig.settled()


async def _post(outbox: Outbox, *texts: str, in_reply_to: str | None = None) -> int:
    for text in texts:
        message = send("+27", text, endpoint="default", helper_metadata={})
        number = await outbox.post("phone", SENDER, message | {"in_reply_to": in_reply_to})
    return number
