"""The harness's end of a broker: it plays the transport of a channel of type amqp.

AMQP tells nobody how a run ended: without a reply, a user waits until `give_up`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from typing import Any
from uuid import uuid4

import msgspec
import trio
from attrs import define, field
from pika.channel import Channel as RawChannel
from pika.spec import Basic, BasicProperties

from resources.messages import complete_message

from ..config.model import AmqpSide
from ..errors import CannotStart
from ..gateway.amqp.session import declare
from ..gateway.amqp.wire import Lost, Wire, open_wire
from .client import RECONNECT_SECONDS, Exchange, Outbound, Replies

PERSISTENT = 2

_decode = msgspec.json.Decoder(Outbound).decode
_encode = msgspec.json.Encoder().encode


@define(eq=False)
class AmqpClient:
    """A connection to a broker, made again whenever it is lost. Made by `open_amqp_clients`."""

    url: str
    _side: AmqpSide
    _transport_type: str
    _replies: Replies
    reconnects: int = field(default=0, init=False)
    redelivered: int = field(default=0, init=False)
    _ids: Any = field(factory=count, init=False)
    _prefix: str = field(factory=lambda: f"load-{uuid4().hex[:12]}", init=False)
    _waiting: deque[Exchange] = field(factory=deque, init=False)  # to be published
    # By the broker's number: published and not confirmed.
    _unconfirmed: dict[int, Exchange] = field(factory=dict, init=False)
    _bell: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _wire: Wire | None = field(default=None, init=False)
    _stands: trio.Event = field(factory=trio.Event, init=False)

    def send(self, **message: Any) -> Exchange:
        """Send a user's message; never waits."""
        payload = complete_message(
            {"message_id": f"{self._prefix}-{next(self._ids)}", **message},
            transport_name=self._side.name,
            transport_type=self._transport_type,
            endpoint="default",
        )
        exchange = Exchange(payload["message_id"], _encode(payload))
        self._replies.open[exchange.message_id] = exchange
        self._waiting.append(exchange)
        self._bell.unpark_all()
        return exchange

    def forget(self, exchange: Exchange) -> None:
        """Stop waiting for its reply."""
        self._replies.open.pop(exchange.message_id, None)

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands."""
        return self._wire is not None

    async def connected(self) -> None:
        """Wait until the connection stands."""
        await self._stands.wait()

    async def drop(self) -> None:
        """Lose the connection, as a network does."""
        if self._wire is not None:
            self._wire.fail("dropped")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a connection; never returns. Raises CannotStart if the first attempt fails."""
        is_first = True
        while True:
            try:
                async with open_wire(self.url, "jsbox load") as wire:
                    raw = await self._prepare(wire)
                    if is_first:
                        is_first = False
                        task_status.started()
                    await self._publish(raw)
            except Lost as lost:
                if is_first:
                    raise CannotStart(f"no broker for {self._side.name}: {lost}") from None
            finally:
                self._wire = None
                self._stands = trio.Event()
            self.reconnects += 1
            await trio.sleep(RECONNECT_SECONDS)

    async def _prepare(self, wire: Wire) -> RawChannel:
        raw, name = await wire.channel(), self._side.name
        for suffix in ("inbound", "event", "outbound"):
            await declare(wire, raw, self._side.exchange, f"{name}.{suffix}")
        await wire.ask(
            "confirmations", lambda done: raw.confirm_delivery(self._confirmed, callback=done)
        )
        # Published and not confirmed: publish it again. The server knows a message it has.
        self._waiting.extendleft(reversed(self._unconfirmed.values()))
        self._unconfirmed.clear()
        take = partial(self._outbound, wire)
        await wire.ask(
            f"to consume {name}.outbound",
            lambda done: raw.basic_consume(f"{name}.outbound", take, callback=done),
        )
        self._wire = wire
        self._stands.set()
        return raw

    async def _publish(self, raw: RawChannel) -> None:
        properties = BasicProperties(content_type="application/json", delivery_mode=PERSISTENT)
        key, number = f"{self._side.name}.inbound", count(1)
        while True:
            while not self._waiting:
                await self._bell.park()
            await trio.lowlevel.checkpoint()
            exchange = self._waiting.popleft()
            self._unconfirmed[next(number)] = exchange
            exchange.sent = exchange.sent or trio.current_time()
            raw.basic_publish(self._side.exchange, key, exchange.frame, properties)

    def _confirmed(self, frame: Any) -> None:
        method = frame.method
        numbers = [method.delivery_tag]
        if method.multiple:
            numbers = [number for number in self._unconfirmed if number <= method.delivery_tag]
        for number in numbers:
            exchange = self._unconfirmed.pop(number, None)
            if exchange is not None and isinstance(method, Basic.Nack):
                exchange.rejected = "refused"
                exchange.tell()

    def _outbound(
        self, wire: Wire, raw: RawChannel, method: Basic.Deliver, _: BasicProperties, body: bytes
    ) -> None:
        wire.completed += 1
        with suppress(msgspec.MsgspecError):  # somebody else's
            self.redelivered += self._replies.note(_decode(body))
        raw.basic_ack(method.delivery_tag)


@asynccontextmanager
async def open_amqp_clients(
    url: str, side: AmqpSide, transport_type: str, connections: int
) -> AsyncIterator[Sequence[AmqpClient]]:
    """Open `connections` connections; all of them stand when the block begins.

    Raises:
        CannotStart: The broker cannot be reached, or does not let us in.
    """
    async with trio.open_nursery() as nursery:
        replies = Replies()
        clients = [AmqpClient(url, side, transport_type, replies) for _ in range(connections)]
        for client in clients:
            await nursery.start(client.run)
        yield clients
        nursery.cancel_scope.cancel()
