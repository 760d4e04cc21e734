"""The composition root: what a running service is, and the order in which its parts are opened, and
closed in reverse. `opening` opens those that need no service yet, `doors` the ports.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio
from attrs import define, field

from resources.forever import keep_running
from resources.kernel import hide_memory
from resources.stores.foreign_ids import ForeignIds
from resources.stores.lease import Lease
from resources.stores.metric_sums import MetricSums
from resources.stores.redis import StoreError

from .admin.audit import AuditLog
from .admin.elsewhere import reload_at
from .admin.outbox import OutboxAdmin
from .admin.push import Wanted
from .admin.refusals import Refusals
from .background import Compiling, LoopLag
from .cluster.sharing import Sharing
from .config import Address, Config
from .config.model import App, Breakage
from .conversation_metrics import ConversationReporter
from .doors import open_ports
from .figures import Figures, both
from .gateway import Deliveries, Gateway
from .gateway.channels import Channels
from .gateway.intake import Services, at_once
from .host import oom
from .host.systemd import Systemd
from .jail.walls import Walls
from .log_output import LogWriter
from .opening import Base, Core, open_base, open_core
from .operating import gauges_now, metrics_of
from .otel.exporter import Exporter
from .ports.accepting import Door
from .ports.http import door_of
from .processes.member import Member
from .prometheus import Prometheus
from .reload import Reloads
from .runs.dispatcher import Dispatcher
from .runs.history import History
from .runs.programs import address_class, programs_of
from .runs.push import Audience, Push, Pushed, Pusher
from .sandboxes.code_check import CodeCheck
from .sandboxes.load_check import LoadCheck
from .sandboxes.pool import Pool
from .search import Search
from .standby import Standby
from .store.disk import Disk
from .store.patience import until_answered
from .stores import Stores

HARNESS = Path(__file__).parent.parent / "sandbox_js" / "harness.js"
SWITCH_SECONDS = 0.001  # after which a thread that computes lets the event loop run
FINISH_SECONDS = 2.0  # after a drain, for the store to have what is to be kept
BROKEN = "%s; its messages are rejected as broken until a reload"

log = logging.getLogger(__name__)


@define(eq=False, kw_only=True)
class Service:
    """A running jsbox. Made by `open_service`; `gateway`, `channels`, `admin_port` are set last."""

    config: Config
    read_config: Callable[[], Config]
    stores: Stores
    search: Search
    walls: Walls
    code_check: CodeCheck
    load_check: LoadCheck
    pool: Pool
    dispatcher: Dispatcher
    pusher: Pusher
    history: History
    exporter: Exporter
    deliveries: Deliveries
    prometheus: Prometheus
    figures: Figures
    systemd: Systemd
    disk: Disk
    lease: Lease | None
    sharing: Sharing | None
    member: Member | None
    loop_lag: LoopLag
    log_writer: LogWriter | None
    gateway: Gateway = field(init=False)
    channels: Channels = field(init=False)
    admin_port: int = field(default=0, init=False)
    is_draining: bool = field(default=False, init=False)
    sums: MetricSums | None = field(default=None, init=False)
    reloads: Reloads = field(init=False)
    outboxes: OutboxAdmin = field(init=False)
    audit: AuditLog = field(init=False)
    refusals: Refusals = field(factory=Refusals, init=False)
    admin_door: Door = field(factory=partial(door_of, "admin"), init=False)

    def __attrs_post_init__(self) -> None:
        is_checked = self.member is not None and not self.member.is_first
        self.reloads = Reloads(self, self.read_config, is_checked)
        self.audit = AuditLog(self.config.data_dir if self.member is None else self.member.audit)
        outbox = self.stores.outbox
        self.outboxes = OutboxAdmin(outbox, self.deliveries, lambda: self.config.channels)

    @property
    def gateway_url(self) -> str:
        """The URL that gateways connect to."""
        listen_at = self.config.listen
        return listen_at.gateway_url(Address(listen_at.gateway.host, self.gateway.port))

    @property
    def admin_url(self) -> str:
        """The URL of the admin port."""
        listen_at = self.config.listen
        return listen_at.admin_url(Address(listen_at.admin.host, self.admin_port))

    async def reload(self) -> dict[str, Any]:
        """See `Reloads.reload`. Of several processes the first reloads, whichever is asked, and all
        of them have the config at the end.
        """
        member, sharing = self.member, self.sharing
        if member is None or member.is_first or sharing is None:
            return await self._reload()
        return await reload_at(sharing, member.first)

    async def _reload(self) -> dict[str, Any]:
        """Reload this process."""
        if self.member is None:
            return await self.reloads.reload()
        return await self.member.reload(self.reloads.reload)

    async def reload_by_signal(self) -> None:
        """Reload, and write down that a signal asked for it."""
        with nullcontext() if self.member is None else self.member.answering():
            deed = await self.audit.begin("SIGHUP", "", "reload")
            result = await self._reload()
        text = "; ".join(result["errors"]) if not result["ok"] else "ok true"
        await self.audit.end(deed, 200 if result["ok"] else 422, text)

    async def metrics(self) -> bytes:
        """The answer of GET /metrics."""
        return await metrics_of(self)

    def _push(self, name: str, push_id: str = "", *, is_dry: bool = False) -> Push:
        app = self.config.apps[name]
        country_code = self.config.account(app.account).country_code
        return Push(app, address_class(app) or "sms", country_code, push_id, is_dry)

    async def push(self, name: str, wanted: Wanted) -> Pushed:
        """Push to addresses, or to a group. Raises as `Pusher.push_group` does."""
        push = self._push(name, wanted.id, is_dry=wanted.is_dry)
        if wanted.group is not None:
            return await self.pusher.push_group(push, wanted.group)
        return await self.pusher.push(push, wanted.addresses or ())

    async def audience(self, name: str, group: str, cursor: int) -> Audience:
        """See `Pusher.audience`."""
        return await self.pusher.audience(self._push(name), group, cursor)

    async def drain(self) -> None:
        """Accept no more messages, let the runs in progress end, and wait until what they sent is
        acknowledged; no longer than `gateway.drain`.
        """
        self.is_draining = True
        seconds = self.config.gateway.drain
        self.systemd.stopping(f"draining, for {seconds:g} s at most")
        if self.systemd.is_there:
            # systemd holds the socket: a client that connects now waits for the next server
            self.gateway.accept_no_more()
        self.gateway.say_drain(seconds)
        if self.sharing is not None:
            await self.sharing.drain()
        with trio.move_on_after(seconds):
            await self.dispatcher.drain(seconds)
            await self.deliveries.settle(seconds)
        with trio.move_on_after(FINISH_SECONDS):
            if self.sums is not None:
                with suppress(StoreError):
                    await self.sums.finish()
            await self.stores.redis.flush()

    def status(self, reload: Mapping[str, Any] | None = None) -> str:
        """Return a line for `systemctl status`; `reload` is the answer of the last reload."""
        line = f"{len(self.config.apps)} apps; gateway {self.gateway_url}, admin {self.admin_url}"
        if reload is None or reload["ok"]:
            return line
        return f"{line}; the last reload was refused: {'; '.join(reload['errors'])}"

    def own(self, config: Config) -> Config:
        """The same config with what this process has of each app's pool."""
        return config if self.member is None else self.member.share.apps(config)

    def gateway_services(self) -> Services:
        """What the gateway works with."""
        return Services(
            settings=self.config.gateway,
            channels=lambda: self.config.channels,
            outlet=self.deliveries.outlet,
            journal=self.stores.journal,
            ids=self.stores.outbox.ids,
            dispatcher=self.dispatcher,
            observe=both(self.prometheus, self.figures),
            is_draining=lambda: self.is_draining,
            base_url=lambda: self.gateway.base_url,
            foreign_ids=ForeignIds(self.stores.redis),
            egress=self.stores.egress,
            via=self.stores.journal.me,
            turn=at_once if self.sharing is None else self.sharing.turns.turn,
        )

    def _break(self, app: App, breakage: Breakage) -> None:
        """An app cannot be loaded: run it no more, unless a reload has changed it meanwhile."""
        if self.dispatcher.set_broken(app, str(breakage)):
            log.error(BROKEN, breakage)

    async def say_ready(self) -> None:
        """Tell systemd, and the servers that share the store, that this one serves."""
        if self.sharing is not None:
            await self.sharing.change(admin=self.admin_url)
        self.systemd.ready(self.status())

    def _reported_apps(self) -> Mapping[str, App]:
        """The apps whose totals this server reports to Graphite."""
        is_ours = self.sharing is None or self.sharing.falls_to_us("conversation metrics")
        return self.config.apps if is_ours else {}

    def start_upkeep(self, nursery: trio.Nursery) -> None:
        """Start the background tasks; one that fails is started again."""
        config, stores, spares = lambda: self.config, self.stores, self.pool.spares
        compiling = Compiling(self.walls, config, spares, lambda: self.reloads.applied)
        reporter = ConversationReporter(self._reported_apps, stores.statistics, stores.graphite)
        nursery.start_soon(keep_running, "disk", self.disk.watch)
        nursery.start_soon(keep_running, "load check", partial(self.load_check.run, self._break))
        nursery.start_soon(keep_running, "lag", self.loop_lag.watch)
        nursery.start_soon(keep_running, "outboxes", self.outboxes.watch)
        sampling = partial(self.figures.watch, partial(gauges_now, self))
        nursery.start_soon(keep_running, "figures", sampling)
        nursery.start_soon(keep_running, "compile", compiling.run)
        nursery.start_soon(keep_running, "conversation metrics", reporter.run)
        counting = partial(stores.keyspace.keep_counting, lambda: self.config.account_names)
        nursery.start_soon(keep_running, "kv sizes", counting)
        if self.sharing is not None:
            falls_to_us = partial(self.sharing.falls_to_us, "metrics")
            self.sums = MetricSums(stores.redis, stores.graphite, falls_to_us)
            stores.graphite.add_up = self.sums.take
            nursery.start_soon(keep_running, "metrics", self.sums.run)
        if self.systemd.is_there:
            nursery.start_soon(keep_running, "watchdog", self.systemd.show_life)


@asynccontextmanager
async def open_service(
    config: Config,
    read_config: Callable[[], Config],
    systemd: Systemd | None = None,
    standby: Standby | None = None,
    log_writer: LogWriter | None = None,
    member: Member | None = None,
) -> AsyncIterator[Service]:
    """Open everything. Yields when what the journals hold is in line, and both ports listen. With
    `standby` it waits before, as long as another server has the store. With `member` it is one of
    several processes of a server.

    Raises:
        CannotStart: The text says why.
        LeaseLost: Another server has taken the store; the block is cancelled.
    """
    oom.take_place()
    hide_memory()
    sys.setswitchinterval(SWITCH_SECONDS)
    systemd = systemd or Systemd()
    async with AsyncExitStack() as stack:
        base = await open_base(stack, config, systemd, HARNESS)
        lease = base.store.lease
        if standby is not None and lease is not None and not lease.was_taken:
            await base.probing.must_hold()
            await standby.wait_turn(lease)
        core = await open_core(stack, config, base, systemd, log_writer)
        service = _service_of(base, core, config, read_config, systemd, log_writer, member)
        await _take_up_work(service, base.breakages)
        nursery = await stack.enter_async_context(trio.open_nursery())
        service.start_upkeep(nursery)
        await base.probing.must_hold()
        # The ports close before anything is cancelled, so that clients are told.
        async with AsyncExitStack() as ports:
            await open_ports(ports, service, standby)
            await service.say_ready()
            yield service
        nursery.cancel_scope.cancel()


def _service_of(
    base: Base,
    core: Core,
    config: Config,
    read_config: Callable[[], Config],
    systemd: Systemd,
    log_writer: LogWriter | None,
    member: Member | None,
) -> Service:
    """Put what was opened together."""
    stores, dispatcher = core.stores, core.dispatcher
    service = Service(
        config=config,
        read_config=read_config,
        stores=stores,
        search=base.search,
        walls=base.walls,
        code_check=base.code_check,
        load_check=base.load_check,
        pool=base.pool,
        dispatcher=dispatcher,
        pusher=Pusher(
            contacts=stores.contacts,
            groups=stores.groups,
            optouts=stores.optouts,
            search=base.search,
            journal=stores.journal,
            dispatcher=dispatcher,
        ),
        history=core.history,
        exporter=core.exporter,
        deliveries=core.deliveries,
        prometheus=base.prometheus,
        figures=base.figures,
        systemd=systemd,
        disk=base.store.disk,
        lease=base.store.lease,
        sharing=core.sharing,
        member=member,
        loop_lag=LoopLag(base.prometheus.loop_lag, base.prometheus.loop_lateness),
        log_writer=log_writer,
    )
    if core.sharing is not None:
        core.sharing.config = lambda: service.config
    return service


async def _take_up_work(service: Service, breakages: Iterable[Breakage]) -> None:
    """Load the apps, and put in line what the journals hold from before. An app that cannot run
    does not keep the others from it.
    """
    config, dispatcher = service.config, service.dispatcher
    await trio.to_thread.run_sync(service.walls.prepare, tuple(config.apps.values()))
    service.prometheus.expect(config.apps)
    breakages = [*config.breakages, *breakages]
    for one in breakages:
        log.error(BROKEN, one)
    dispatcher.update(programs_of(service.own(config), breakages))
    broken = {one.app for one in breakages}
    service.load_check.trust(app for app in config.apps.values() if app.name not in broken)
    # What the store did not answer may have happened; what it had no room for is still owed.
    look_again = [dispatcher.settle_soon, service.deliveries.doubt_all]
    service.stores.redis.on_reconnect += look_again
    service.disk.room.on_again += look_again
    starting = service.systemd.starting
    if recovered := await until_answered("the journal", dispatcher.recover, starting):
        log.info("%d messages were left in the journal; they are in line again", recovered)
