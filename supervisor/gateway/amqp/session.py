"""One connection of a channel to its broker: what is declared, consumed and published there."""

from __future__ import annotations

from functools import partial
from typing import Any

import trio
from attrs import define, field
from pika.channel import Channel as RawChannel
from pika.spec import Basic, BasicProperties

from ...config.model import AmqpSide, Channel
from ..intake import Intake, Services
from ..outlet import Outlet
from .inbound import Inbound, Kind
from .publisher import Publisher
from .status import Statuses
from .wire import Wire

AGAIN = (0.1, 5.0)  # seconds until what the broker did not take is published again: first, most


@define(eq=False)
class Session:
    """Made by `open_session`."""

    wire: Wire
    publisher: Publisher
    inbound: Inbound
    statuses: Statuses
    _raw: RawChannel
    _outlet: Outlet
    _side: AmqpSide
    _trouble: str = field(default="", init=False)

    @property
    def problem(self) -> str:
        """What is wrong although there is a connection; empty if nothing."""
        trouble = "" if self.publisher.is_confirmed else self._trouble
        silence = self.publisher.silence
        problems = (trouble, silence, self.inbound.problem, self.statuses.problem)
        return "; ".join(filter(None, problems))

    async def publish(self) -> None:
        """Take what goes out. What the broker does not take is published again after a pause, in
        order, when its queue has been declared once more.
        """
        pause = AGAIN[0]
        self._outlet.attach(self.publisher)
        try:
            while True:
                await self.publisher.troubled.wait()
                self.publisher.troubled = trio.Event()
                self._trouble = self.publisher.trouble
                pause = AGAIN[0] if self.publisher.is_confirmed else min(pause * 2, AGAIN[1])
                self.publisher.is_confirmed = False
                self._outlet.detach(self.publisher)
                try:
                    await trio.sleep(pause)
                    await declare(self.wire, self._raw, self._side.exchange, self._name("outbound"))
                    self.publisher.trouble = ""
                finally:
                    self._outlet.attach(self.publisher)
        finally:
            self._outlet.detach(self.publisher)

    async def consume(self, *, messages: bool) -> None:
        """Begin to take what comes in: messages only if somebody is there for them."""
        kinds: list[tuple[Kind, str]] = [("event", "event")]
        if messages:
            kinds.append(("message", "inbound"))
        for kind, suffix in kinds:
            await self._consume(self._name(suffix), partial(self.inbound.arrived, kind))
        if self._side.status:
            queue = self._name("status.status")
            await declare(self.wire, self._raw, self._side.exchange, queue)
            await self._consume(queue, self._status)

    async def _consume(self, queue: str, arrived: Any) -> None:
        await self.wire.ask(
            f"to consume {queue}",
            lambda done: self._raw.basic_consume(queue, arrived, callback=done),
        )

    def _status(
        self, raw: RawChannel, method: Basic.Deliver, _: BasicProperties, body: bytes
    ) -> None:
        self.wire.completed += 1
        self.statuses.note(body)
        raw.basic_ack(method.delivery_tag)

    def _name(self, suffix: str) -> str:
        return f"{self._side.name}.{suffix}"


async def open_session(
    wire: Wire, services: Services, channel: Channel, side: AmqpSide, intake: Intake
) -> Session:
    """Declare everything, so that nothing is lost that is sent before the transport's first start.
    If the broker refuses, the connection counts as lost.
    """
    raw = await wire.channel()
    for suffix in ("inbound", "event", "outbound"):
        await declare(wire, raw, side.exchange, f"{side.name}.{suffix}")
    outlet = services.outlet(channel.name)
    publisher = Publisher(wire, raw, outlet, channel, side)
    inbound = Inbound(channel.name, side.prefetch, services, intake, wire, raw)
    session = Session(wire, publisher, inbound, Statuses(), raw, outlet, side)
    wire.on_change = outlet.wake
    raw.add_on_return_callback(publisher.came_back)
    await wire.ask(
        "confirmations", lambda done: raw.confirm_delivery(publisher.confirmed, callback=done)
    )
    raw.add_on_cancel_callback(lambda _: wire.fail("the broker ended a consumer: is a queue gone?"))
    await wire.ask(
        "a prefetch", lambda done: raw.basic_qos(prefetch_count=side.prefetch, callback=done)
    )
    return session


async def declare(wire: Wire, raw: RawChannel, exchange: str, queue: str) -> None:
    """Declare the exchange and a queue as Vumi's workers do, without arguments: with any, the next
    client's declaration would fail. Properties are set by the broker's policies.
    """
    await wire.ask(
        f"exchange {exchange}",
        lambda done: raw.exchange_declare(exchange, "direct", durable=True, callback=done),
    )
    await wire.ask(
        f"queue {queue}", lambda done: raw.queue_declare(queue, durable=True, callback=done)
    )
    await wire.ask(
        f"a binding of {queue}", lambda done: raw.queue_bind(queue, exchange, queue, callback=done)
    )
