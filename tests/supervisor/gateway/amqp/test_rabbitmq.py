"""A real RabbitMQ that is short of memory, loses queues, has full ones, or others than ours."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pika
import pytest
import trio

from resources.stores.redis import Redis

from ....programs import Broker, rabbitmq
from ....service import eventually
from .rig import rigged
from .transport import open_transport, user_message

pytestmark = pytest.mark.slow


def contents(broker: Broker, queue: str) -> list[str]:
    """Take everything from a queue."""
    found: list[str] = []
    with pika.BlockingConnection(pika.URLParameters(broker.url)) as connection:
        channel = connection.channel()
        while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
            found.append(json.loads(got[2])["content"])
    return found


def declare_otherwise(broker: Broker, queue: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(broker.url)) as connection:
        connection.channel().queue_declare(queue, durable=True, arguments={"x-max-length": 5})


async def in_thread(step: Any, *args: Any) -> Any:
    return await trio.to_thread.run_sync(partial(step, *args))


async def test_what_a_real_broker_does(redis: Redis, tmp_path: Path) -> None:
    """One after the other, over one channel."""
    with rabbitmq(tmp_path) as broker:
        ctl = partial(in_thread, broker.ctl)
        async with rigged(redis, broker.url) as rig:
            await rig.up()

            # short of memory: it blocks us when we publish
            await ctl("set_vm_memory_high_watermark", "0.0000001")
            await rig.post("a", "b")
            await eventually(lambda: rig.state.state == "blocked")
            assert "memory" in rig.state.problem
            await ctl("set_vm_memory_high_watermark", "0.8")
            await rig.settled()
            assert rig.state.state == "up"
            assert await in_thread(contents, broker, "bulk.outbound") == ["a", "b"]

            # the queue out is gone: returned, declared again, published again
            await ctl("delete_queue", "bulk.outbound")
            await rig.post("c", "d")
            await rig.settled()
            assert rig.state.returned >= 1
            assert await in_thread(contents, broker, "bulk.outbound") == ["c", "d"]

            # the queue out is full and refuses
            policy = '{"max-length": 1, "overflow": "reject-publish"}'
            await ctl("set_policy", "full", r"bulk\.outbound", policy)
            await rig.post("e", "f", "g")
            await eventually(lambda: "basic.nack" in rig.state.problem)
            await ctl("clear_policy", "full")
            await rig.settled()
            assert await in_thread(contents, broker, "bulk.outbound") == ["e", "f", "g"]
            assert rig.state.made == 1

            # the queue in is gone: our consumer is cancelled
            await ctl("delete_queue", "bulk.inbound")
            await eventually(lambda: rig.state.made == 2 and rig.state.state == "up")
            async with open_transport(broker.url) as transport:
                transport.send(user_message("+27", "h"))
                (reply,) = await transport.has(1)
                assert reply["content"] == "you said h"

            # a queue with arguments: 406, said as it is
            await ctl("delete_queue", "bulk.event")
            await in_thread(declare_otherwise, broker, "bulk.event")
            await ctl("close_all_connections", "a test")
            await eventually(lambda: "406" in rig.state.problem)
            assert "x-max-length" in rig.state.problem
            await ctl("delete_queue", "bulk.event")
            await rig.up()

            # a user without rights, then with another password
            await ctl("clear_permissions", "guest")
            await ctl("close_all_connections", "a test")
            await eventually(lambda: "may not use the vhost (" in rig.state.problem)
            assert "NOT_ALLOWED" in rig.state.problem
            await ctl("set_permissions", "guest", ".*", ".*", ".*")
            await rig.up()
            await ctl("change_password", "guest", "another")
            await ctl("close_all_connections", "a test")
            await eventually(lambda: "not this password (" in rig.state.problem)
            assert "ACCESS_REFUSED" in rig.state.problem
