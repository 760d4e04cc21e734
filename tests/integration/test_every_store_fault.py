"""Every fault of every command, and random ones under traffic: the service outlives them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from resources import fence

from ..service import eventually
from ..store_faults import REFUSALS, cut, drip, garbage, half, late, refuse
from ..store_proxy import StoreProxy
from .town import SECONDS, after_all, meets, meets_refusal, town

SCRIPTS = [
    "journal_accept",
    "outbox_post",
    "outbox_page",
    "outbox_strike",
    "kv_incr",
    "kv_set",
    "contact_find_or_create",
    "group_list",
    "statistics_outbound",
    "recording_put",
]
COMMANDS = ["XDEL", "XRANGE", "LPUSH", "GET", "HMGET", "HINCRBY", "HDEL"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("code", [*REFUSALS])
async def test_every_refusal_of_everything(
    proxy: StoreProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """Each refusal, first by all commands that meet it, then by one command after the other."""
    before = dict(fence.tally)
    async with town(proxy, tmp_path, monkeypatch) as found:
        if code in ("WRONGTYPE", "EXECABORT", "ERR"):  # these are about one command
            await meets_refusal(found, code, *SCRIPTS)
        else:
            await meets_refusal(found, code)
        for name in (*SCRIPTS, *COMMANDS):
            await meets_refusal(found, code, name)
            await found.is_well()
        await after_all(found, before)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [*SCRIPTS, *COMMANDS, ""])
async def test_every_cut_of_everything(
    proxy: StoreProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Each way in which an exchange can break, of each command."""
    before = dict(fence.tally)
    async with town(proxy, tmp_path, monkeypatch) as found:
        for act in (
            cut(),
            cut(after=True),
            garbage(),
            half(),
            half(then_cut=False),
            late(float("inf")),
            drip(0.01),
        ):
            for times in (1, 3):
                await meets(found, act, *[name] if name else [], times=times)
            await found.is_well()
        await after_all(found, before)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(3))
async def test_traffic_through_random_faults(
    proxy: StoreProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """20 users, and a store that fails in a new way every 0.3 s: all that was accepted is answered,
    each once or with the same id.
    """
    rng = random.Random(seed)
    before = dict(fence.tally)
    async with town(proxy, tmp_path, monkeypatch) as found:
        sent: list[str] = []
        is_over = False

        async def user(n: int) -> None:
            while not is_over:
                message_id, answer = await found.send(user=n)
                while answer["type"] == "rejected":
                    await trio.sleep(0.1)
                    message_id, answer = await found.send(message_id, n)
                sent.append(message_id)
                await found.client.expect("outcome", SECONDS, message_id=message_id)
                await trio.sleep(rng.random() / 5)

        async with trio.open_nursery() as nursery:
            for n in range(20):
                nursery.start_soon(user, n)
            faults = 0
            while faults < 60 or len(sent) <= 100:  # a busy machine needs more time
                faults += 1
                acts = [
                    refuse(rng.choice([*REFUSALS])),
                    cut(),
                    cut(after=True),
                    garbage(),
                    half(),
                    late(0.2),
                ]
                names = [rng.choice([*SCRIPTS, *COMMANDS])] if rng.random() < 0.6 else []
                proxy.fault(rng.choice(acts), *names, every=rng.choice([1, 2, 5, 20]))
                await trio.sleep(0.3)
                proxy.cure()
                await trio.sleep(0.1)
            is_over = True
        await found.is_well()
        replies: dict[str, set[str]] = {}
        for frame in found.client.frames:
            if frame["type"] == "outbound":
                replies.setdefault(frame["msg"]["in_reply_to"], set()).add(
                    frame["msg"]["message_id"]
                )
        assert all(len(ids) == 1 for ids in replies.values())
        await after_all(found, before)
        await eventually(lambda: not found.service.dispatcher.waiting("app"))
