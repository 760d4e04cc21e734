"""Exchanges with a store that break: the caller learns of it, nobody else does, and the next one is
fine.
"""

from __future__ import annotations

import time

import pytest
import trio

from resources import fence
from resources.stores import redis as module
from resources.stores.redis import Unavailable, open_redis

from ..service import eventually
from ..store_faults import Act, answer, cut, drip, garbage, half, late, refuse
from ..store_proxy import StoreProxy
from .asking import outcome
from .strange_link import StrangeLink

EXTRA = answer(b"+OK\r\n+another\r\n")


@pytest.mark.parametrize(
    ("act", "carried_out"),
    [
        (cut(), False), (cut(after=True), True), (garbage(), False), (half(), True),
        (half(then_cut=False), True),
        (late(float("inf")), None), (drip(0.5), True), (EXTRA, False), (answer(b""), False),
        (answer(b"\r\n"), False),
        (answer(b"*1\r\n%1\r\n*0\r\n+x\r\n"), False), (answer(b":99999999999999999999\r\n"), False),
        (answer(b"$100000000\r\nnot so many"), False), (answer(b"*-7\r\n"), False),
        (answer(b"\xff\xfe\x00"), False),
    ],
)  # fmt: skip
async def test_a_broken_exchange_is_reported_and_overcome(
    plain_or_tls: StoreProxy, act: Act, carried_out: bool | None, quick: None
) -> None:
    """Whatever comes instead of an answer: whoever waits learns that nothing is known, and the next
    gets his own answer.
    """
    async with open_redis(plain_or_tls.url) as client:
        await client.execute("SET", "x", "value")
        with plain_or_tls.fault(act, "SETNX", times=1), trio.fail_after(20):
            error = await outcome(client, "SETNX", "y", "1")
        assert isinstance(error, Unavailable), error
        assert error.sent
        with trio.fail_after(20):
            assert [await client.execute("GET", "x") for _ in range(5)] == [b"value"] * 5
            if carried_out is not None:
                assert await client.execute("EXISTS", "y") == carried_out
        assert client.statistics().up
        assert client.statistics().problem == ""


async def test_answers_never_go_to_another_caller(proxy: StoreProxy, quick: None) -> None:
    """A server that says more than it was asked, after its answer and on its own: the connection is
    given up.
    """
    async with open_redis(proxy.url) as client:
        for n in range(20):
            with proxy.fault(EXTRA, "ECHO", times=1):
                await outcome(client, "ECHO", "x")
            assert await client.execute("INCR", "n") == n + 1
        session = next(iter(proxy._sessions))
        session.send(b"+unasked\r\n")
        await eventually(lambda: next(iter(proxy._sessions), session) is not session)
        assert await client.execute("INCR", "n") == 21


@pytest.mark.parametrize(
    "strange", [RuntimeError("never heard of"), KeyError(3), [], [1, 2], MemoryError(), 5]
)
async def test_an_error_nobody_expected_ends_one_batch(
    monkeypatch: pytest.MonkeyPatch, strange: object
) -> None:
    """Whoever waited learns of it, it is counted, and the next batch is fine."""
    link = StrangeLink([strange])
    link.connects.set()
    monkeypatch.setattr(module, "link_to", lambda _: link)
    before = fence.tally["store"]
    async with open_redis("any") as client:
        with trio.fail_after(5):
            assert isinstance(await outcome(client, "GET", "x"), Unavailable)
            assert await client.execute("GET", "x") == 0
    assert fence.tally["store"] == before + 1


async def test_a_listener_that_fails_keeps_nobody_waiting(proxy: StoreProxy) -> None:
    """The callback of a posted command raises: that is counted, and the rest of the batch is
    answered.
    """

    def failed(_: Exception) -> None:
        raise RuntimeError("a listener that fails")

    before = fence.tally["store"]
    async with open_redis(proxy.url) as client:
        await client.execute("PING")
        proxy.fault(refuse("OOM"), "RPUSH")
        assert client.post([("RPUSH", "l", 1)], failed)
        assert await client.execute("INCR", "n") == 1
    assert fence.tally["store"] == before + 1


async def test_the_loop_turns_while_the_store_hangs(plain_or_tls: StoreProxy) -> None:
    """Neither way of the client holds the thread up that everything runs in."""
    async with open_redis(plain_or_tls.url) as client:
        await client.execute("PING")
        with plain_or_tls.fault(late(0.5), "GET"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.execute, "GET", "x")
                worst, end = 0.0, time.monotonic() + 0.4
                while (now := time.monotonic()) < end:
                    await trio.sleep(0.01)
                    worst = max(worst, time.monotonic() - now)
    assert worst < 0.4


async def test_what_hung_on_its_way_is_not_carried_out_after_what_came_later(
    plain_or_tls: StoreProxy, quick: None
) -> None:
    """A write whose caller was told that it failed, which the store gets to only after the next
    one, over another connection.
    """
    async with open_redis(plain_or_tls.url) as client:
        await client.execute("SET", "x", "before")
        with plain_or_tls.fault(late(float("inf")), "SET", times=1), trio.fail_after(20):
            (hung,) = plain_or_tls._sessions
            error = await outcome(client, "SET", "x", "failed")
            assert isinstance(error, Unavailable), error
            await client.execute("SET", "x", "succeeded")
        await eventually(lambda: hung not in plain_or_tls._sessions)  # it has been let through
        assert await client.execute("GET", "x") == b"succeeded"
