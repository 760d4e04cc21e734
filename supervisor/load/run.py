"""One run, from the first connection to the last reply. Each session begins when it is due,
whatever became of earlier ones.
"""

from __future__ import annotations

import logging
import platform
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import trio
from attrs import define, evolve, field, frozen

from .. import __version__
from ..config.model import AmqpSide
from ..errors import CannotStart
from .campaign import Campaign, Fault, Run
from .client import Speaker, open_clients
from .feeding import filled
from .measures import Measures
from .schedule import Arrival, UserPool, schedule
from .server import Server, Settings, open_server
from .session import Talk
from .stub import Stubs, open_stubs
from .watch import Watch, open_watch

LEAD = 0.5  # seconds between the connection and the first session

log = logging.getLogger(__name__)


@frozen
class Target:
    """What is loaded: a running gateway (and its admin port, if known), or a config to serve.

    Attributes:
        amqp: `gateway` is a broker's URL; the connector and the transport_type of the channel.
        context: Which certificates of the two ports are trusted; None: those of this host's
            authorities.
    """

    gateway: str = ""
    admin: str | None = None
    app: str | None = None
    serve: Path | None = None
    amqp: tuple[AmqpSide, str] | None = None
    context: ssl.SSLContext | None = None


@define(eq=False)
class Running:
    """A run in progress: what the screen shows and the report is made of."""

    campaign: Campaign
    seed: int
    arrivals: Sequence[Arrival]
    measures: Measures
    server: Server | None = None
    stubs: Stubs | None = None
    watch: Watch | None = None
    clients: Sequence[Speaker] = ()
    began_at: str = field(factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    zero: float = 0.0  # on Trio's clock
    ended: float = 0.0  # seconds after zero
    cpu: float = 0.0  # of this process, during the run
    is_stopped: bool = False  # by the user, before its end
    host: dict[str, str] = field(
        factory=lambda: {"machine": platform.machine(), "python": platform.python_version()}
    )

    @property
    def now(self) -> float:
        """Seconds since the start; negative before it."""
        return trio.current_time() - self.zero

    async def go(self, stop: trio.Event) -> None:
        """Run the whole schedule, or until `stop` is set."""
        cpu = time.process_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_when, stop, nursery.cancel_scope)
            nursery.start_soon(self._mark_measured)
            async with trio.open_nursery() as faults:  # each that is due is carried out
                for fault in self.campaign.faults:
                    faults.start_soon(self._do, fault)
                try:
                    await self._sessions()
                finally:
                    self.ended = self.now
            nursery.cancel_scope.cancel()
        self.cpu = time.process_time() - cpu
        if self.watch is not None:
            with trio.CancelScope(shield=True):
                await self.watch.end()

    async def _sessions(self) -> None:
        given = self.campaign.run.users
        users = UserPool(given.from_, given.pool, self.campaign.rows)
        talk = Talk(self.campaign.run, self.measures, self.zero)
        with trio.CancelScope() as finish:
            async with trio.open_nursery() as conversations:
                for number, arrival in enumerate(self.arrivals):
                    await trio.sleep_until(self.zero + arrival.due)
                    self._begin(
                        conversations,
                        talk,
                        users,
                        arrival,
                        self.clients[number % len(self.clients)],
                    )
                finish.deadline = self.zero + self.campaign.seconds + self.campaign.run.finish

    def _begin(
        self, nursery: trio.Nursery, talk: Talk, users: UserPool, arrival: Arrival, client: Speaker
    ) -> None:
        measures = self.measures
        measures.second(arrival.due).offered += 1
        measures.offered += 1
        user = users.take(arrival)
        if user is None:
            measures.skipped += 1
            measures.error(arrival.due, arrival.due, "no_free_user")
            return

        row = users.row_of(user)
        own = arrival if row is None else evolve(arrival, dialogue=filled(arrival.dialogue, row))

        async def converse() -> None:
            measures.open += 1
            try:
                await talk.hold(client, own, user)
            finally:
                measures.open -= 1
                users.give_back(user)

        nursery.start_soon(converse)

    async def _mark_measured(self) -> None:
        await trio.sleep_until(self.zero + self.measures.since)
        if self.watch is not None:
            await self.watch.begin()

    async def _stop_when(self, stop: trio.Event, scope: trio.CancelScope) -> None:
        await stop.wait()
        self.is_stopped = True
        scope.cancel()

    async def _do(self, fault: Fault) -> None:
        await trio.sleep_until(self.zero + fault.at)
        try:
            text = await self._fault(fault)
        except (httpx2.HTTPError, OSError, ValueError, KeyError, CannotStart) as error:
            text = f"failed: {error}"
        self.measures.notes.append((fault.at, f"{fault.kind}: {text}"))

    async def _fault(self, fault: Fault) -> str:
        match fault.kind:
            case "gateway-disconnect":
                for client in self.clients:
                    await client.drop()
                return f"{len(self.clients)} connection(s) dropped"
            case "drain":
                if self.server is None:
                    return "not done: only a server started with --serve can be restarted"
                began = trio.current_time()
                await self.server.restart()
                return f"drained and started again in {trio.current_time() - began:.1f} s"
        if self.watch is None:
            return "not done: no admin port is known"
        return await (
            self.watch.kill_one() if fault.kind == "kill-sandbox" else self.watch.reload()
        )


@asynccontextmanager
async def open_run(
    campaign: Campaign, target: Target, seed: int, folder: Path
) -> AsyncIterator[Running]:
    """Open everything a run needs. `folder` is for the data and log of a server that is started.

    Raises:
        CannotStart: The server does not start or cannot be reached, or refuses the channel.
    """
    running = Running(campaign, seed, schedule(campaign, seed), Measures(campaign.warmup))
    async with AsyncExitStack() as stack:
        running.stubs = await stack.enter_async_context(
            open_stubs(campaign.stubs, campaign.run.stubs, seed)
        )
        gateway, admin = target.gateway, target.admin
        if target.serve is not None:
            stub = f"http://{campaign.run.stubs.host}:{running.stubs.port}"
            settings = Settings(
                str(target.serve),
                str(folder / "data"),
                connect_to=dict.fromkeys(running.stubs.hosts, stub),
            )
            running.server = await stack.enter_async_context(
                open_server(settings, folder / "server.log")
            )
            gateway, admin = running.server.ready.gateway, running.server.ready.admin
        if admin is not None and target.app is not None:
            running.watch = await stack.enter_async_context(
                open_watch(admin, target.app, target.context)
            )
        run = campaign.run
        running.clients = await stack.enter_async_context(_speakers(gateway, target, run))
        running.host["jsbox"] = __version__
        running.zero = trio.current_time() + LEAD
        yield running


def _speakers(
    gateway: str, target: Target, run: Run
) -> AbstractAsyncContextManager[Sequence[Speaker]]:
    if target.amqp is None:
        return open_clients(
            gateway, run.channel, run.token, run.window, run.connections, target.context
        )
    from .amqp import open_amqp_clients  # it imports pika

    return open_amqp_clients(gateway, *target.amqp, run.connections)
