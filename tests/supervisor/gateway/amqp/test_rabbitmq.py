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
from .rig import Rig, rigged
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


async def ctl(broker: Broker, *command: str) -> None:
    """Run rabbitmqctl."""
    await in_thread(broker.ctl, *command)


async def test_what_a_real_broker_does(redis: Redis, tmp_path: Path) -> None:
    """One after the other, over one channel."""
    with rabbitmq(tmp_path) as broker:
        async with rigged(redis, broker.url) as rig:
            await rig.up()
            await _is_short_of_memory(broker, rig)
            await _loses_the_queue_out(broker, rig)
            await _refuses_what_is_too_much(broker, rig)
            assert rig.state.made == 1
            await _loses_the_queue_in(broker, rig)
            await _has_another_queue(broker, rig)
            await _lets_nobody_in(broker, rig)


async def _is_short_of_memory(broker: Broker, rig: Rig) -> None:
    """It blocks us when we publish."""
    await ctl(broker, "set_vm_memory_high_watermark", "0.0000001")
    await rig.post("a", "b")
    await eventually(lambda: rig.state.state == "blocked")
    assert "memory" in rig.state.problem
    await ctl(broker, "set_vm_memory_high_watermark", "0.8")
    await rig.settled()
    assert rig.state.state == "up"
    assert await in_thread(contents, broker, "bulk.outbound") == ["a", "b"]


async def _loses_the_queue_out(broker: Broker, rig: Rig) -> None:
    """What we send is returned, the queue declared again, and all of it published again."""
    await ctl(broker, "delete_queue", "bulk.outbound")
    await rig.post("c", "d")
    await rig.settled()
    assert rig.state.returned >= 1
    assert await in_thread(contents, broker, "bulk.outbound") == ["c", "d"]


async def _refuses_what_is_too_much(broker: Broker, rig: Rig) -> None:
    """The queue out is full, and has room again."""
    policy = '{"max-length": 1, "overflow": "reject-publish"}'
    await ctl(broker, "set_policy", "full", r"bulk\.outbound", policy)
    await rig.post("e", "f", "g")
    await eventually(lambda: "basic.nack" in rig.state.problem)
    await ctl(broker, "clear_policy", "full")
    await rig.settled()
    assert await in_thread(contents, broker, "bulk.outbound") == ["e", "f", "g"]


async def _loses_the_queue_in(broker: Broker, rig: Rig) -> None:
    """Our consumer is cancelled, and we connect anew."""
    await ctl(broker, "delete_queue", "bulk.inbound")
    await eventually(lambda: rig.state.made == 2 and rig.state.state == "up")
    async with open_transport(broker.url) as transport:
        transport.send(user_message("+27", "h"))
        (reply,) = await transport.has(1)
        assert reply["content"] == "you said h"


async def _has_another_queue(broker: Broker, rig: Rig) -> None:
    """One with arguments: its 406 is shown as it is."""
    await ctl(broker, "delete_queue", "bulk.event")
    await in_thread(declare_otherwise, broker, "bulk.event")
    await ctl(broker, "close_all_connections", "a test")
    await eventually(lambda: "406" in rig.state.problem)
    assert "x-max-length" in rig.state.problem
    await ctl(broker, "delete_queue", "bulk.event")
    await rig.up()


async def _lets_nobody_in(broker: Broker, rig: Rig) -> None:
    """First the user has no rights, then another password."""
    await ctl(broker, "clear_permissions", "guest")
    await ctl(broker, "close_all_connections", "a test")
    await eventually(lambda: "may not use the vhost (" in rig.state.problem)
    assert "NOT_ALLOWED" in rig.state.problem
    await ctl(broker, "set_permissions", "guest", ".*", ".*", ".*")
    await rig.up()
    await ctl(broker, "change_password", "guest", "another")
    await ctl(broker, "close_all_connections", "a test")
    await eventually(lambda: "not this password (" in rig.state.problem)
    assert "ACCESS_REFUSED" in rig.state.problem
