"""An outcome that a client was not told, as its connection was gone: it sends the message again."""

from __future__ import annotations

from functools import partial

import pytest

from resources.stores.redis import Redis
from supervisor.gateway import frames
from supervisor.service import Service

from ...gateway_client import Client, Frame, connect
from ...service import REPLY, Folder, eventually, running
from .messages import inbound
from .outlet_rig import rigged

# Replies when `go` is set.
HELD = (
    "var wait = require('timers').setTimeout; (function look() {"
    "api.request('kv.get', {key: 'go'}, function (found) {"
    "if (!found.value) { return wait(look, 10); }" + REPLY % "'at last'" + "}); })();"
)


async def _again(client: Client, name: str) -> Frame:
    """Send a message again whose run has ended; its outcome."""
    await client.send(inbound(name))
    assert (await client.expect("accepted", message_id=name))["duplicate"]
    return await client.expect("outcome", message_id=name)


async def test_sent_again_it_is_told(service: Service) -> None:
    """Who asked for outcomes, each time the same; it costs no credit for good, and nobody else is
    told.
    """
    async with connect(service.gateway_url) as client:
        await client.send(inbound("m1"))
        told = await client.expect("outcome", message_id="m1")
        assert told["outcome"] == "ok"
    async with (
        connect(service.gateway_url) as client,
        connect(service.gateway_url, outcomes=False) as deaf,
        connect(service.gateway_url, only_own=True) as phone,
    ):
        for _ in range(10):
            assert await _again(client, "m1") == told
        assert await _again(phone, "m1") == told
        for _ in range(10):
            await deaf.send(inbound("m1"))
            await deaf.expect("accepted", message_id="m1", duplicate=True)
        frames = client.frames + deaf.frames + phone.frames
        assert {frame["type"] for frame in frames} <= {"welcome", "credit"}


async def test_it_is_told_after_what_the_run_sent(service: Service) -> None:
    """What was not acknowledged goes out again first, however little of it at a time."""
    async with connect(service.gateway_url, acknowledge=False) as client:
        for name in ("m1", "m2"):
            await client.send(inbound(name))
            await client.expect("outcome", message_id=name)
    async with connect(service.gateway_url, acknowledge=False, window=1) as client:
        await client.send(inbound("m2"))
        await client.expect("accepted", duplicate=True)
        first = await client.expect("outbound")
        assert first["msg"]["in_reply_to"] == "m1"
        await client.send({"type": "ack", "delivery": first["delivery"]})
        await client.expect("outcome", message_id="m2")
        # expect takes out what it finds, so what came before the outcome is still there
        assert [f["msg"]["in_reply_to"] for f in client.frames if f["type"] == "outbound"] == ["m2"]


@pytest.mark.parametrize("only_own", [True, pytest.param(False, marks=pytest.mark.slow)])
async def test_it_is_told_when_the_run_ends(folder: Folder, only_own: bool) -> None:
    """Sent again while it is in progress; so is its reply, to the connection that sent it."""
    folder.app("phone", HELD, 'modules = ["timers"]')
    async with running(folder) as service:
        async with connect(service.gateway_url) as client:
            await client.send(inbound("m1"))
            await client.expect("accepted")
        outlet = service.deliveries.outlet("phone")
        await eventually(lambda: not outlet._takers.all)
        async with connect(service.gateway_url, only_own=only_own) as client:
            await client.send(inbound("m1"))
            assert (await client.expect("accepted", message_id="m1"))["duplicate"]
            await service.stores.redis.execute("SET", "jsbox:{acct}:kv:go", "1")
            outcome = await client.expect("outcome", message_id="m1")
            assert outcome["outcome"] == "ok"
            (reply,) = [frame for frame in client.frames if frame["type"] == "outbound"]
            assert reply["msg"]["content"] == "at last"
            assert await _again(client, "m1") == outcome
        await eventually(lambda: not outlet._takers._origins)


async def test_nothing_is_settled_until_it_is_told(redis: Redis) -> None:
    """A server that stops waits for that: the end may follow what has still to be read."""
    async with rigged(redis) as rig:
        gate = rig.gate()
        await rig.settled()
        rig.outlet.doubt()
        rig.outlet.ended("m1", partial(frames.outcome, "message", "m1", "ok", 1.0, 2))
        assert not rig.outlet.is_settled
        await rig.settled()
        assert [frame["type"] for frame in gate.frames] == ["outcome"]


async def test_each_that_sends_it_again_is_told(folder: Folder) -> None:
    """While it is in progress, and the connection that brought it is still there."""
    folder.app("phone", HELD, 'modules = ["timers"]')
    async with (
        running(folder) as service,
        connect(service.gateway_url, only_own=True) as first,
        connect(service.gateway_url, only_own=True) as second,
    ):
        for client, duplicate in ((first, False), (second, True)):
            await client.send(inbound("m1"))
            await client.expect("accepted", message_id="m1", duplicate=duplicate)
        await service.stores.redis.execute("SET", "jsbox:{acct}:kv:go", "1")
        outcome = await first.expect("outcome", message_id="m1")
        assert await second.expect("outcome", message_id="m1") == outcome
        await first.expect("outbound")
        assert not [f for f in first.frames + second.frames if f["type"] != "welcome"]
        takers = service.deliveries.outlet("phone")._takers
        assert not takers._origins
        assert not takers._asking


async def test_ends_that_cannot_be_told_hold_nothing_up(redis: Redis) -> None:
    """A broker that takes nothing for now: a server that stops does not wait for it."""
    async with rigged(redis) as rig:
        gate = rig.gate()
        await rig.settled()
        gate.is_free = False
        await rig.post("a reply")
        rig.outlet.ended("m1", partial(frames.outcome, "message", "m1", "ok", 1.0, 2))
        assert rig.outlet.is_settled
        gate.is_free = True
        assert not rig.outlet.is_settled
        rig.outlet.wake()
        await gate.has(1)
        rig.ack(gate, 1)
        await rig.settled()
