"""What goes out over the gateway: until it is acknowledged, within the window, to where it belongs."""

from __future__ import annotations

import trio

from resources.messages import send
from resources.stores.identity import Sender
from supervisor.service import Service

from ..gateway_client import Client, connect
from ..service import ECHO, Folder, running
from .test_gateway import inbound


async def test_what_is_not_acknowledged_comes_again(service: Service) -> None:
    """With attempt rising, on the same connection while it lasts, then on the next; not after the ack."""
    async with connect(service.gateway_url, acknowledge=False) as client:
        await client.send(inbound("m1"))
        first = await client.expect("outbound", attempt=1)
        again = await client.expect("outbound", attempt=2)
        assert again["msg"] == first["msg"]
        assert again["delivery"] == first["delivery"]
    async with connect(service.gateway_url, acknowledge=False) as client:
        third = await client.expect("outbound", attempt=3)
        assert third["msg"] == first["msg"]
        await client.send({"type": "ack", "delivery": third["delivery"]})
        await client.send({"type": "ack", "delivery": third["delivery"]})  # twice does no harm
        await client.send({"type": "ack", "delivery": 999})
        with trio.fail_after(20):
            while await service.stores.outbox.waiting("phone"):
                await trio.sleep(0.02)
        assert service.deliveries.unacked("phone") == 0


async def answered(client: Client) -> None:
    """Wait until the server has sent all that it had to: its answer to one more frame comes after that."""
    await client.send({"type": "event", "id": "last", "event": {}})
    await client.expect("rejected", id="last")


async def post(service: Service, count: int) -> None:
    """Messages to the channel, with their numbers as content."""
    sender = Sender("acct", "phone")
    for n in range(count):
        await service.stores.outbox.post("phone", sender, send("+27", str(n), endpoint="default", helper_metadata={}))


async def test_outbounds_wait_while_nobody_is_connected(folder: Folder) -> None:
    """More than fit in memory, and they come in order when somebody connects."""
    folder.app("phone", ECHO)
    async with running(folder) as service:
        await post(service, 1500)
        async with connect(service.gateway_url, window=50) as client:
            await client.expect("outbound", seconds=60, delivery=1500)
            got = [frame["msg"]["content"] for frame in client.frames if frame["type"] == "outbound"]
    assert got == [str(n) for n in range(1499)]


async def test_the_window_bounds_what_is_unacknowledged(service: Service) -> None:
    """A client that does not acknowledge has at most its window in hand."""
    await post(service, 10)
    async with connect(service.gateway_url, acknowledge=False, window=3) as client:
        await client.expect("outbound", delivery=3)
        await answered(client)
        assert max(f["delivery"] for f in client.frames if f["type"] == "outbound") <= 3
        await client.send({"type": "ack", "delivery": 2})
        await client.expect("outbound", delivery=4)


async def test_replies_go_back_where_the_message_came_from(service: Service) -> None:
    """With two connections of one channel each gets the replies to what it brought; outcomes go to all that asked."""
    async with (
        connect(service.gateway_url) as one,
        connect(service.gateway_url) as other,
        connect(service.gateway_url, outcomes=False) as quiet,
    ):
        for client, name in ((one, "a"), (other, "b"), (quiet, "c")):
            await client.send(inbound(name))
            await one.expect("outcome", message_id=name)
        await other.expect("outcome", message_id="c")
        assert [f["msg"]["in_reply_to"] for f in one.frames if f["type"] == "outbound"] == ["a"]
        assert [f["msg"]["in_reply_to"] for f in other.frames if f["type"] == "outbound"] == ["b"]
        assert [f["type"] for f in quiet.frames] == ["accepted", "outbound"]
