"""A transport of Vumi's: the other side of a channel of type amqp."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pika
from attrs import define, field

from supervisor.gateway.amqp.session import declare
from supervisor.gateway.amqp.wire import Lost, open_wire

from ....service import eventually

EXCHANGE = "vumi"


def user_message(from_addr: str, content: str, **fields: Any) -> dict[str, Any]:
    """A message as a transport of vumi2 sends it."""
    return {
        "message_id": uuid4().hex,
        "message_version": "20110921",
        "message_type": "user_message",
        "timestamp": "2026-11-26 12:00:00.000000",
        "to_addr": "*120*1#",
        "from_addr": from_addr,
        "in_reply_to": None,
        "session_event": "new",
        "content": content,
        "transport_name": "bulk",
        "transport_type": "ussd",
        "from_addr_type": None,
        "to_addr_type": None,
        "routing_metadata": {},
        "transport_metadata": {},
        "helper_metadata": {},
        "group": None,
        "provider": None,
    } | fields


@define(eq=False)
class Transport:
    """It sends, and keeps what it is sent, in order."""

    name: str
    raw: Any
    got: list[dict[str, Any]] = field(factory=list)

    def send(self, payload: Any, queue: str = "inbound") -> None:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        properties = pika.BasicProperties(delivery_mode=2)
        self.raw.basic_publish(EXCHANGE, f"{self.name}.{queue}", body, properties)

    def take(self, raw: Any, method: Any, _: Any, body: bytes) -> None:
        self.got.append(json.loads(body))
        raw.basic_ack(method.delivery_tag)

    async def has(self, count: int) -> list[dict[str, Any]]:
        await eventually(lambda: len(self.got) >= count)
        assert len(self.got) == count
        return self.got


@asynccontextmanager
async def open_transport(
    url: str, name: str = "bulk", *, consumes: bool = True
) -> AsyncIterator[Transport]:
    try:
        async with open_wire(url, "a transport") as wire:
            raw = await wire.channel()
            for queue in ("inbound", "event", "outbound"):
                await declare(wire, raw, EXCHANGE, f"{name}.{queue}")
            transport = Transport(name, raw)
            if consumes:
                await wire.ask(
                    "to consume",
                    lambda done: raw.basic_consume(
                        f"{name}.outbound", transport.take, callback=done
                    ),
                )
            yield transport
    except Lost as lost:
        raise AssertionError(str(lost)) from lost
