"""A channel over AMQP on a store, with an app that answers at once; and the same in a service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import define, field

from resources.forever import keep_running
from resources.messages import reply, send
from resources.stores.identity import MessageIds, Sender
from resources.stores.journal import Entry, Journal
from resources.stores.outbox import Outbox
from resources.stores.redis import Redis
from resources.stores.statistics import Statistics
from supervisor.channel_state import ChannelState
from supervisor.config.model import AmqpSide, App, Channel, Gateway
from supervisor.config.units import Count, Size, Urls
from supervisor.gateway.amqp import AmqpLink
from supervisor.gateway.delivery import Deliveries, open_deliveries
from supervisor.gateway.intake import Services
from supervisor.observe import ignore
from supervisor.runs.jobs import Program
from supervisor.service import Service

from ....service import ECHO, Folder, eventually, running

APP = App("phone", "acct", Path("phone.js"))
SENDER = Sender("acct", "phone")


@define(eq=False)
class Echo:
    """The dispatcher, and an app that answers each message. `entries`: all that it was given."""

    nursery: trio.Nursery
    rig: Rig
    room: int = 1000
    entries: list[Entry] = field(factory=list)
    programs: dict[str, Program] = field(factory=lambda: {"phone": Program(APP, {})})
    waiting: int = 0
    tripped: bool = False
    go_on: trio.Event = field(factory=trio.Event)
    """Replaced by a test that wants runs to wait."""

    def that_send_over(self, _: str) -> list[Program]:
        return []

    def is_tripped(self, _: str) -> bool:
        return self.tripped

    def has_room(self, _: str, more: int = 1) -> bool:
        return self.waiting + more <= self.room

    def settle_soon(self) -> None:
        pass

    def submit(self, entry: Entry, _: str, ended: Callable[[], None]) -> None:
        self.entries.append(entry)
        self.waiting += 1
        self.nursery.start_soon(self._run, entry, ended)

    def __attrs_post_init__(self) -> None:
        self.go_on.set()

    async def _run(self, entry: Entry, ended: Callable[[], None]) -> None:
        await self.go_on.wait()
        if entry.kind == "message":
            text = f"you said {entry.payload['content']}"
            answer = reply(entry.payload, text, close=False, to_group=False, helper_metadata={})
            await self.rig.outbox.post("bulk", SENDER, answer)
        self.waiting -= 1
        self.rig.deliveries.outlet("bulk").ended(entry.id, None, ended)


@define(eq=False)
class Rig:
    link: AmqpLink
    outbox: Outbox
    deliveries: Deliveries
    services: Services
    echo: Echo = field(init=False)

    @property
    def state(self) -> ChannelState:
        return self.link.state

    async def up(self) -> None:
        await eventually(lambda: self.state.state == "up")

    async def post(self, *texts: str) -> None:
        """Sends of an app, in reply to nothing."""
        for text in texts:
            message = send("+27", text, endpoint="default", helper_metadata={})
            await self.outbox.post("bulk", SENDER, message)

    async def settled(self) -> None:
        """Wait until nothing is on its way out."""
        with trio.fail_after(60):
            while await self.outbox.waiting("bulk"):
                await trio.sleep(0.01)


@asynccontextmanager
async def rigged(
    redis: Redis, *urls: str, journal: Any = None, credit: int = 256, **side: Any
) -> AsyncIterator[Rig]:
    """The channel, connected."""
    amqp = AmqpSide("bulk", url=Urls(urls), from_addr="*120*1#", **side)
    channel = Channel("bulk", type="amqp", app="phone", transport_type="ussd", amqp=amqp)
    rigs: list[Rig] = []
    async with open_deliveries(ignore, 10.0) as deliveries, trio.open_nursery() as nursery:
        ids = MessageIds(b"s")
        outbox = Outbox(
            redis, ids, Statistics(redis), deliveries.announce, is_awaited=deliveries.is_awaited
        )
        deliveries.outbox = outbox
        echo: Any = Echo(nursery, None)  # type: ignore[arg-type]
        unused: Any = None  # of other types
        services = Services(
            settings=Gateway(credit=Count(credit), max_frame=Size(8 << 10)),
            channels=lambda: {"bulk": channel},
            outlet=deliveries.outlet,
            journal=journal or Journal(redis),
            ids=ids,
            dispatcher=echo,
            observe=ignore,
            is_draining=lambda: False,
            base_url=lambda: "http://127.0.0.1",
            foreign_ids=unused,
            egress=unused,
        )
        rigs.append(Rig(AmqpLink(services, channel, amqp), outbox, deliveries, services))
        rigs[0].echo, echo.rig = echo, rigs[0]
        nursery.start_soon(keep_running, "gateway.amqp", rigs[0].link.run)
        yield rigs[0]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving(folder: Folder, url: str) -> AsyncIterator[Service]:
    """A service with channel `bulk`, connected."""
    folder.app("phone", ECHO, 'endpoints = { default = "bulk" }', channel="other")
    folder.text += (
        '[channels.bulk]\ntype = "amqp"\napp = "phone"\ntransport_type = "ussd"\nname = "bulk"\n'
        f'url = "{url}"\n'
    )
    async with running(folder) as service:
        await eventually(lambda: service.channels.state("bulk").state == "up")
        yield service
