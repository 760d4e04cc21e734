"""A whole service on a store that refuses, is cut off, talks garbage or goes back in time: it
lives, says so, and ends what it has accepted when the store is well again.

One service meets one fault after the other; everything is checked after each. The full matrix is
slow.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from resources import fence

from ..resources.asking import outcome
from ..store_faults import cut, garbage, half
from ..store_proxy import StoreProxy
from .town import SECONDS, after_all, meets, meets_refusal, town

REFUSED_BY_ALL = ["MISCONF", "READONLY", "BUSY"]
REFUSED_ONE = [
    ("OOM", "journal_accept"),
    ("WRONGTYPE", "outbox_post"),
    ("NOPERM", "XDEL"),
    ("OOM", "kv_incr"),
    ("MISCONF", "LPUSH"),
]


async def test_the_service_outlives_refusals(
    proxy: StoreProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rejects with retry_after, names what the store said, tells apps, and goes on."""
    before = dict(fence.tally)
    async with town(proxy, tmp_path, monkeypatch) as found:
        for code in REFUSED_BY_ALL:
            await meets_refusal(found, code)
        for code, name in REFUSED_ONE:
            await meets_refusal(found, code, name)
        await after_all(found, before)


async def test_the_service_outlives_cuts_and_garbage(
    proxy: StoreProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was accepted has its outcome and its reply, once the store answers again."""
    before = dict(fence.tally)
    async with town(proxy, tmp_path, monkeypatch) as found:
        for act, name in (
            (cut(), "journal_accept"),
            (cut(after=True), "journal_accept"),
            (cut(after=True), "outbox_post"),
            (garbage(), "XDEL"),
            (half(), "outbox_page"),
            (cut(after=True), "outbox_strike"),
        ):
            await meets(found, act, name, times=1)
        await after_all(found, before)


async def test_the_service_outlives_a_store_that_is_away(
    proxy: StoreProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it cannot be reached; when it is back, that is noticed without a message."""
    before = dict(fence.tally)
    async with town(proxy, tmp_path, monkeypatch) as found:
        running_one = await found.send_until_accepted()
        proxy.stop()
        _, answer = await found.send()
        assert answer["type"] == "rejected"
        assert "Redis cannot be reached" in await found.says()
        proxy.start()
        with trio.fail_after(SECONDS):
            while not (await found.says()).startswith(("ok", "ready")):
                await trio.sleep(0.05)
        await found.client.expect("outcome", SECONDS, message_id=running_one)
        await after_all(found, before)


async def test_replies_come_from_a_store_that_went_back_in_time(
    proxy: StoreProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failover to a replica that was behind, or a restart of a store that keeps
    nothing.
    """
    async with town(proxy, tmp_path, monkeypatch) as found:
        moment = proxy.remember()
        for there in (moment, None):
            for _ in range(4):
                await found.reply_to(await found.send_until_accepted())
            await found.nothing_left()
            proxy.go_back(there)
            for _ in range(4):
                await found.reply_to(await found.send_until_accepted())
        await found.is_well()


async def test_what_is_in_the_outbox_again_after_a_failover_is_struck_again(
    proxy: StoreProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing comes after it that would make the outlet look; it is known to be acknowledged, so
    it is not sent again.
    """
    async with town(proxy, tmp_path, monkeypatch) as found:
        redis = found.service.stores.redis
        found.client.acknowledge = False
        message_id = await found.send_until_accepted()
        sent = await found.client.expect("outbound")
        await found.client.expect("outcome", SECONDS, message_id=message_id)
        moment = proxy.remember()
        await found.client.send({"type": "ack", "delivery": sent["delivery"]})
        with trio.fail_after(SECONDS):
            await found.nothing_left()
            proxy.go_back(moment)
            while await outcome(redis, "XLEN", "jsbox:{channel:app}:out") != 0:
                await trio.sleep(0.02)
        assert not [frame for frame in found.client.frames if frame["type"] == "outbound"]
        found.client.acknowledge = True
        await found.is_well()
