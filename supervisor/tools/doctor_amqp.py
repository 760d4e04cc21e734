"""Checks of the other side of channels of type amqp: can the broker be reached, does it let us in,
are the queues as they must be, and does a transport read what apps send.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from attrs import frozen
from pika.channel import Channel as RawChannel

from ..config import Config
from ..config.model import AmqpSide, Channel
from ..gateway.amqp.link import shown
from ..gateway.amqp.session import declare
from ..gateway.amqp.wire import Lost, Wire, open_wire
from .finding import Finding

BACKLOG = 1000  # messages in a queue


@frozen
class Queue:
    """A queue as the broker knows it."""

    name: str
    messages: int
    consumers: int


async def check_amqp(config: Config) -> AsyncIterator[Finding]:
    """Ask each broker of every channel of type amqp about its queues. They are declared, as serving
    does; no message is taken or sent.
    """
    for channel in config.channels.values():
        if channel.amqp is not None:
            for url in channel.amqp.url:
                yield await _check(channel, channel.amqp, url)


async def _check(channel: Channel, side: AmqpSide, url: str) -> Finding:
    queues: list[Queue] = []
    try:
        async with open_wire(url, "jsbox doctor") as wire:
            queues += await _queues(wire, side)
    except Lost as lost:
        remedy = f"is RabbitMQ running there, with this user and vhost? channels.{channel.name}.url"
        if "406" in str(lost):
            remedy = (
                "somebody declared it with arguments, which Vumi's workers do not: delete it, and"
                " give it what it needs by a policy"
            )
        return Finding(channel.name, "failed", f"{shown(url)}: {lost}", remedy)
    return _judge(channel, url, queues)


async def _queues(wire: Wire, side: AmqpSide) -> list[Queue]:
    raw = await wire.channel()
    found = []
    for suffix in ("inbound", "event", "outbound"):
        name = f"{side.name}.{suffix}"
        await declare(wire, raw, side.exchange, name)
        found.append(await _queue(wire, raw, name))
    return found


async def _queue(wire: Wire, raw: RawChannel, name: str) -> Queue:
    answer = await wire.ask(
        f"queue {name}", lambda done: raw.queue_declare(name, passive=True, callback=done)
    )
    return Queue(name, answer.method.message_count, answer.method.consumer_count)


def _judge(channel: Channel, url: str, queues: list[Queue]) -> Finding:
    inbound, _, outbound = queues
    waiting = ", ".join(f"{one.messages} in {one.name}" for one in queues if one.messages)
    text = f"{shown(url)} lets us in" + (f"; {waiting}" if waiting else "")
    if not outbound.consumers:
        text += f"; nobody consumes {outbound.name}, so nothing that apps send arrives"
        remedy = (
            f"start the transport, and compare its transport_name (Junebug: amqp_queue, or the"
            f" channel's id) with channels.{channel.name}.name"
        )
        return Finding(channel.name, "note", text, remedy)
    if outbound.messages > BACKLOG:
        return Finding(channel.name, "note", text, "its transport does not keep up")
    if channel.app and inbound.consumers > 1:
        text += f"; {inbound.consumers} consume {inbound.name}"
        remedy = "is a Vumi application, or another jsbox, still connected? Each gets a part of it"
        return Finding(channel.name, "note", text, remedy)
    return Finding(channel.name, "ok", text)
