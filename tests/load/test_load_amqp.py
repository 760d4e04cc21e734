"""`jsbox load --target amqp://...`: the harness plays the transport of a channel."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import trio

from supervisor.config.model import AmqpSide
from supervisor.errors import CannotStart
from supervisor.load.amqp import open_amqp_clients

from ..programs import jsbox, serve
from ..service import ECHO, Folder, eventually
from ..supervisor.gateway.amqp.broker import Broker, open_broker

SIDE = AmqpSide("bulk")


async def answer(broker: Broker) -> None:
    """What jsbox does, over the scripted broker."""
    while True:
        await trio.sleep(0.005)
        while broker.queues.get("bulk.inbound"):
            body, _ = broker.queues["bulk.inbound"].popleft()
            message = json.loads(body)
            reply = {"message_id": f"r{message['message_id']}", "session_event": "close"}
            reply |= {"in_reply_to": message["message_id"], "content": message["content"]}
            broker.put("bulk.outbound", json.dumps(reply).encode())


async def test_users_talk_over_a_broker() -> None:
    """Replies find their conversations, over any connection, also when all were lost."""
    async with open_broker() as broker, trio.open_nursery() as nursery:
        async with open_amqp_clients(broker.url, SIDE, "sms", 2) as clients:
            nursery.start_soon(answer, broker)
            first = [client.send(from_addr="+1", to_addr="1", content="a") for client in clients]
            for exchange in first:
                await exchange.answered()
            assert {(one.content, one.is_end) for one in first} == {("a", True)}
            await clients[0].drop()
            await eventually(lambda: clients[0].reconnects == 1)
            again = clients[0].send(from_addr="+1", to_addr="1", content="b")
            await again.answered()
            assert clients[0].is_connected
            sent = json.loads(broker.published[-1][1])
            assert (sent["transport_name"], sent["transport_type"]) == ("bulk", "sms")
            nursery.cancel_scope.cancel()


async def test_a_broker_that_is_not_there_is_an_error() -> None:
    """At the start of a run."""
    closed = "amqp://guest:s3cret@127.0.0.1:1/%2f"
    with pytest.raises(BaseExceptionGroup) as caught:
        async with open_amqp_clients(closed, SIDE, "sms", 1):
            pass
    (error,) = caught.value.exceptions
    assert isinstance(error, CannotStart)
    assert "refused" in str(error)


@pytest.mark.slow
async def test_a_campaign_over_a_broker(tmp_path: Path) -> None:
    """A server, a broker and the harness: every conversation is held to its end."""
    folder = Folder(tmp_path)
    folder.app("phone", ECHO, channel="other")
    async with open_broker() as broker:
        folder.text += (
            f'[channels.bulk]\ntype = "amqp"\napp = "phone"\nname = "bulk"\nurl = "{broker.url}"\n'
        )
        campaign = tmp_path / "campaign.toml"
        campaign.write_text(
            '[run]\nchannel = "bulk"\nstages = [ { rate = "10/s", for = "2s" } ]\n'
            'finish = "60s"\ngive_up = { after = "60s" }\nusers = { pool = 50 }\n'
            '[[dialogue]]\nname = "talk"\n'
            'steps = [ { dial = "*120#" }, { send = "1", expect = "you said 1" } ]\n'
        )
        config = folder.config
        with serve(config) as server:
            done = await trio.to_thread.run_sync(
                partial(
                    jsbox, "load", str(campaign), "-c", str(config), "--target", broker.url,
                    "--admin", server.admin, "--no-tui", "--out", str(tmp_path / "out"),
                )
            )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["errors"] == {}
