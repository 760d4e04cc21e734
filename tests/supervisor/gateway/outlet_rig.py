"""An outlet on a store, with connections that keep what they get."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from attrs import define, field

from resources.forever import keep_running
from resources.messages import send
from resources.stores.identity import MessageIds, Sender
from resources.stores.outbox import Outbox
from resources.stores.redis import Redis
from resources.stores.statistics import Statistics
from supervisor.gateway import frames
from supervisor.gateway.outlet import Outlet
from supervisor.observe import ignore

from ...service import eventually

SENDER = Sender("acct", "app")


@define(eq=False)
class Gate:
    """A connection that keeps what it gets."""

    window: int = 1000
    outcomes: bool = True
    only_own: bool = False
    is_free: bool = True
    repeats: bool = True
    frames: list[Any] = field(factory=list)

    def deliver(self, delivery: int, attempt: int, message: bytes) -> None:
        self.push(frames.outbound(delivery, attempt, message))

    def push(self, frame: bytes) -> None:
        self.frames.append(json.loads(frame))

    @property
    def parcels(self) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] == "outbound"]

    @property
    def numbers(self) -> list[int]:
        return [frame["delivery"] for frame in self.parcels]

    @property
    def texts(self) -> list[str]:
        return [frame["msg"]["content"] for frame in self.parcels]

    async def has(self, count: int) -> None:
        """Wait until it has got `count` parcels."""
        await eventually(lambda: len(self.parcels) >= count, 20)
        assert len(self.parcels) == count


@define(eq=False)
class Rig:
    """An outlet of channel `phone`, on a store."""

    redis: Redis
    outlet: Outlet
    outbox: Outbox

    async def post(self, *texts: str, in_reply_to: str | None = None) -> None:
        for text in texts:
            message = send("+27", text, endpoint="default", helper_metadata={}) | {
                "in_reply_to": in_reply_to
            }
            await self.outbox.post("phone", SENDER, message)

    def ack(self, gate: Gate, *numbers: int) -> None:
        for number in numbers:
            self.outlet.acknowledge(number, gate)

    async def settled(self) -> None:
        """Wait until everything is acknowledged and struck."""
        with trio.fail_after(60):
            while not self.outlet.is_settled:
                await self.outlet.settled.park()
        assert await self.outbox.waiting("phone") == 0

    def gate(self, **fields: Any) -> Gate:
        gate = Gate(**fields)
        self.outlet.attach(gate)
        return gate


@asynccontextmanager
async def rigged(redis: Redis, ack_timeout: float = 1000.0) -> AsyncIterator[Rig]:
    """As a server has it from its start to its end."""
    outlets: list[Outlet] = []
    outbox = Outbox(
        redis, MessageIds(b"s"), Statistics(redis), lambda _, parcel: outlets[0].announce(parcel),
        is_awaited=lambda _: outlets[0].is_awaited,
    )  # fmt: skip
    outlets.append(Outlet("phone", outbox, ignore, ack_timeout))
    reconnected = outlets[0].doubt
    redis.on_reconnect.append(reconnected)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_running, "outlet", outlets[0].run)
        yield Rig(redis, outlets[0], outbox)
        nursery.cancel_scope.cancel()
    redis.on_reconnect.remove(reconnected)
