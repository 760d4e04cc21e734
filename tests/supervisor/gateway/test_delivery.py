"""What goes out over the gateway: until acknowledged, within the window, to the right client."""

from __future__ import annotations

from contextlib import suppress

import trio

from resources.messages import send
from resources.stores.identity import Sender
from resources.stores.outbox import Outbox
from resources.stores.redis import StoreError, open_redis
from resources.stores.statistics import Statistics
from supervisor.client.phone import open_phone
from supervisor.service import Service

from ...gateway_client import Client, connect
from ...service import ECHO, Folder, running
from .test_server import inbound


async def test_what_is_not_acknowledged_comes_again(service: Service) -> None:
    """`attempt` rises, first on the same connection, then on the next; not after the ack."""
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
        with trio.fail_after(60):
            while await service.stores.outbox.waiting("phone"):
                await trio.sleep(0.02)
        assert service.deliveries.unacked("phone") == 0


async def answered(client: Client) -> None:
    """Wait until the server has sent all that it had to: its answer to one more frame comes after
    that.
    """
    await client.send({"type": "event", "id": "last", "event": {}})
    await client.expect("rejected", id="last")


async def post(service: Service, count: int) -> None:
    """Messages to the channel, with their numbers as content."""
    sender = Sender("acct", "phone")
    for n in range(count):
        await service.stores.outbox.post(
            "phone", sender, send("+27", str(n), endpoint="default", helper_metadata={})
        )


async def test_outbounds_wait_while_nobody_is_connected(folder: Folder) -> None:
    """More than fit in memory, and they come in order when somebody connects."""
    folder.app("phone", ECHO)
    async with running(folder) as service:
        await post(service, 1500)
        async with connect(service.gateway_url, window=50) as client:
            got = [(await client.expect("outbound"))["msg"]["content"] for _ in range(1500)]
    assert got == [str(n) for n in range(1500)]


async def test_the_window_bounds_what_is_unacknowledged(service: Service) -> None:
    """A client that does not acknowledge holds at most its window."""
    await post(service, 10)
    async with connect(service.gateway_url, acknowledge=False, window=3) as client:
        await client.expect("outbound", delivery=3)
        await answered(client)
        assert max(f["delivery"] for f in client.frames if f["type"] == "outbound") <= 3
        await client.send({"type": "ack", "delivery": 2})
        await client.expect("outbound", delivery=4)


async def test_replies_go_back_where_the_message_came_from(service: Service) -> None:
    """With two connections of one channel each gets the replies to what it brought; outcomes go to
    all that asked.
    """
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
        await quiet.expect("outbound")
        assert [f["type"] for f in quiet.frames] == ["accepted"]


async def test_what_nobody_announced_goes_out_when_the_store_is_back(service: Service) -> None:
    """A message that was posted, as far as the store knows, while the connection to it was lost."""
    async with (
        connect(service.gateway_url) as client,
        open_redis(service.stores.redis._connection._link.url) as other,
    ):
        await client.say("a")
        await client.expect("outbound", delivery=1)
        theirs = Outbox(other, service.stores.outbox.ids, Statistics(other))
        await theirs.post(
            "phone",
            Sender("acct", "phone"),
            send("+27", "b", endpoint="default", helper_metadata={}),
        )
        killed = await other.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert killed >= 1
        with suppress(StoreError):
            await service.stores.redis.execute("PING")
        with suppress(StoreError):
            await service.stores.redis.execute("PING")
        assert (await client.expect("outbound", delivery=2))["msg"]["content"] == "b"


async def test_a_store_that_comes_back_empty_loses_no_reply(service: Service) -> None:
    """Every run after it is answered, without a restart."""
    async with connect(service.gateway_url) as client:
        for n in range(4):
            assert len((await client.say(str(n), "new"))[1]) == 1
        for _ in range(2):
            await service.stores.redis.execute("FLUSHALL")
            for n in range(6):
                _, replies = await client.say(str(n), "new")
                assert [reply["content"] for reply in replies] == [f"you said {n}"]


async def test_only_who_was_handed_a_delivery_may_acknowledge_it(folder: Folder) -> None:
    """Another client of the channel that guesses the numbers strikes nothing."""
    folder.app("phone", ECHO)
    async with running(folder) as service, connect(service.gateway_url, acknowledge=False) as first:
        await first.send(inbound("m1", session_event="new"))
        await first.expect("outbound", delivery=1)
        async with connect(service.gateway_url, acknowledge=False) as second:
            for number in range(20):
                await second.send({"type": "ack", "delivery": number})
            await answered(second)
        assert service.deliveries.unacked("phone") == 1
        assert await service.stores.outbox.waiting("phone") == 1


async def test_attempts_go_on_when_the_server_starts_again(folder: Folder) -> None:
    """A reply that was handed out says so."""
    folder.app("phone", ECHO)
    for attempt in (1, 2, 3):
        async with (
            running(folder) as service,
            connect(service.gateway_url, acknowledge=False) as client,
        ):
            if attempt == 1:
                await client.send(inbound("m1", session_event="new"))
            assert (await client.expect("outbound"))["attempt"] == attempt
            await service.stores.redis.flush()


async def test_a_phone_beside_a_gateway_takes_nothing_from_it(folder: Folder) -> None:
    """`jsbox chat` on a live channel: 60 messages to users are with the gateway at once, and the
    phone has its own replies.
    """
    folder.app("phone", ECHO)
    async with (
        running(folder) as service,
        connect(service.gateway_url, window=100) as gate,
        open_phone(service.gateway_url, "phone", "+27111", "*1#", only_own=True) as phone,
    ):
        for n in range(60):
            message = send(f"+27{n}", str(n), endpoint="default", helper_metadata={})
            await service.stores.outbox.post("phone", Sender("acct", "phone"), message)
            if n % 20 == 0:
                turn = await phone.dial()
                assert ([reply["to_addr"] for reply in turn.replies], turn.others) == (
                    ["+27111"],
                    (),
                )
        for n in range(60):
            frame = await gate.expect_that(
                lambda f, n=n: f["type"] == "outbound" and f["msg"]["to_addr"] == f"+27{n}"
            )
            assert frame["attempt"] == 1
        assert not [f for f in gate.frames if f["type"] == "outbound"]
