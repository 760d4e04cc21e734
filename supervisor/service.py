"""The composition root: opens every part in order, and closes them in reverse."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio
from attrs import define, field

from resources.fence import keep_running
from resources.stores.foreign_ids import ForeignIds
from resources.stores.lease import Lease
from resources.stores.metric_sums import MetricSums
from resources.stores.redis import StoreError
from resources.stores.search import INDEXES

from .admin.app import admin_app
from .admin.audit import AuditLog
from .admin.gauges import scrape
from .admin.outbox import OutboxAdmin
from .admin.push import Wanted
from .admin.refusals import Refusals
from .background import Compiling, LoopLag
from .cluster.sharing import Sharing, open_sharing, peers_of
from .config import Address, Config
from .config.model import App, Breakage
from .conversation_metrics import ConversationReporter
from .figures import Figures, both
from .gateway import Deliveries, Gateway, open_gateway
from .gateway.channels import Channels, open_channels
from .gateway.delivery import open_deliveries
from .gateway.intake import Services, at_once
from .host import oom
from .host.process import hide_memory
from .host.systemd import Systemd
from .host.version import node_path, node_version
from .jail.probe import open_probing
from .jail.walls import Walls, open_isolation
from .log_output import LogWriter
from .operating import admin_services, gauges_now, moment_of
from .ports.http import open_http
from .ports.listening import listen, tls_of
from .prometheus import Prometheus
from .reload import Reloads
from .runs.dispatcher import Dispatcher
from .runs.history import History
from .runs.opening import open_dispatcher
from .runs.programs import address_class, programs_of
from .runs.push import Audience, Push, Pushed, Pusher
from .runs.router import Router, build_table
from .runs.traces import Traces
from .sandboxes.code_check import CodeCheck, jailed, open_first_check
from .sandboxes.load_check import LoadCheck
from .sandboxes.pool import Pool, open_pool
from .search import Search, open_search
from .standby import Standby
from .store.disk import Disk
from .store.opening import open_store
from .store.patience import until_answered
from .stores import Stores, open_stores, resources_on

HARNESS = Path(__file__).parent.parent / "sandbox_js" / "harness.js"
ADMIN_STOP_SECONDS = 2.0
BROKEN = "%s; its messages are rejected as broken until a reload"

log = logging.getLogger(__name__)


@define(eq=False, kw_only=True)
class Service:
    """A running jsbox. Made by `open_service`; `gateway`, `channels` and `admin_port` are set
    last.
    """

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
    deliveries: Deliveries
    prometheus: Prometheus
    figures: Figures
    systemd: Systemd
    disk: Disk
    lease: Lease | None
    sharing: Sharing | None
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

    def __attrs_post_init__(self) -> None:
        self.reloads = Reloads(self, self.read_config)
        self.audit = AuditLog(self.config.data_dir)
        outbox = self.stores.outbox
        self.outboxes = OutboxAdmin(outbox, self.deliveries, lambda: self.config.channels)

    @property
    def gateway_url(self) -> str:
        """The URL that gateways connect to."""
        scheme = "ws" if self.config.listen.certificate is None else "wss"
        return f"{scheme}://{Address(self.config.listen.gateway.host, self.gateway.port)}/v1"

    @property
    def admin_url(self) -> str:
        """The URL of the admin port."""
        scheme = "http" if self.config.listen.certificate is None else "https"
        return f"{scheme}://{Address(self.config.listen.admin.host, self.admin_port)}"

    async def reload(self) -> dict[str, Any]:
        """See `Reloads.reload`."""
        return await self.reloads.reload()

    async def reload_by_signal(self) -> None:
        """Reload, and write down that a signal asked for it."""
        deed = await self.audit.begin("SIGHUP", "", "reload")
        result = await self.reload()
        text = "; ".join(result["errors"]) if not result["ok"] else "ok true"
        await self.audit.end(deed, 200 if result["ok"] else 422, text)

    async def metrics(self) -> bytes:
        """The answer of GET /metrics."""
        return await scrape(self.prometheus.registry, moment_of(self))

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
) -> AsyncIterator[Service]:
    """Open everything. Yields when what the journals hold is in line, and both ports listen. With
    `standby` it waits before, as long as another server has the store.

    Raises:
        CannotStart: The text says why.
        LeaseLost: Another server has taken the store; the block is cancelled.
    """
    oom.take_place()
    hide_memory()
    systemd = systemd or Systemd()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        node = node_path(config)
        prometheus = Prometheus(node_version(config))
        prometheus.config_time.set_to_current_time()
        figures = Figures()
        walls = stack.enter_context(open_isolation(config.isolation, node, HARNESS))
        probing = await enter(open_probing(walls))
        code_check, load_check = CodeCheck(jailed(walls)), LoadCheck(walls)
        first_check = await enter(open_first_check(code_check, config.apps.values()))
        store = await enter(open_store(config, systemd.starting))
        folder, accounts = config.data_dir / INDEXES, config.account_names
        opening = open_search(config.search, store.url, folder, accounts, prometheus, cwd=store.cwd)
        search = await enter(opening)
        search.writes.are_all = store.lease is None
        pool = await enter(
            open_pool(walls, config.node.max_processes, prometheus, config.node.spare)
        )
        breakages = await first_check()
        if standby is not None and store.lease is not None and not store.lease.was_taken:
            await probing.must_hold()
            await standby.wait_turn(store.lease)
        deliveries = await enter(open_deliveries(prometheus, config.gateway.ack_timeout))
        asking = partial(peers_of, config, store)
        peers = await until_answered("the other servers", asking, systemd.starting)
        partitions = config.cluster.partitions if peers is not None else 0
        opening_stores = open_stores(store, deliveries, search.writes, systemd.starting, partitions)
        stores = await enter(opening_stores)
        if log_writer is not None:
            log_writer.follow(stores.logbook, config.log.stdout)
        history = History(Traces(), stores.recordings)
        dispatcher = await enter(
            open_dispatcher(
                pool=pool,
                router=Router(build_table(resources_on(stores, search)), prometheus),
                journal=stores.journal,
                logbook=stores.logbook,
                outbox=stores.outbox,
                history=history,
                observe=both(prometheus, figures),
                announce=deliveries.run_ended,
                doubt=load_check.doubt,
                peers=peers,
            )
        )
        opening_sharing = open_sharing(
            config, store, stores.outbox, dispatcher, deliveries, systemd.starting
        )
        sharing = await enter(opening_sharing)
        service = Service(
            config=config,
            read_config=read_config,
            stores=stores,
            search=search,
            walls=walls,
            code_check=code_check,
            load_check=load_check,
            pool=pool,
            dispatcher=dispatcher,
            pusher=Pusher(
                contacts=stores.contacts,
                groups=stores.groups,
                optouts=stores.optouts,
                search=search,
                journal=stores.journal,
                dispatcher=dispatcher,
            ),
            history=history,
            deliveries=deliveries,
            prometheus=prometheus,
            figures=figures,
            systemd=systemd,
            disk=store.disk,
            lease=store.lease,
            sharing=sharing,
            loop_lag=LoopLag(prometheus.loop_lag),
            log_writer=log_writer,
        )
        if sharing is not None:
            sharing.config = lambda: service.config
        await _take_up_work(service, breakages)
        nursery = await enter(trio.open_nursery())
        service.start_upkeep(nursery)
        await probing.must_hold()
        # The ports close before anything is cancelled, so that clients are told.
        async with AsyncExitStack() as ports:
            await _open_ports(ports, service, standby)
            await service.say_ready()
            yield service
        nursery.cancel_scope.cancel()


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
    dispatcher.update(programs_of(config, breakages))
    broken = {one.app for one in breakages}
    service.load_check.trust(app for app in config.apps.values() if app.name not in broken)
    # What the store did not answer may have happened; what it had no room for is still owed.
    look_again = [dispatcher.settle_soon, service.deliveries.doubt_all]
    service.stores.redis.on_reconnect += look_again
    service.disk.room.on_again += look_again
    starting = service.systemd.starting
    if recovered := await until_answered("the journal", dispatcher.recover, starting):
        log.info("%d messages were left in the journal; they are in line again", recovered)


async def _open_ports(stack: AsyncExitStack, service: Service, standby: Standby | None) -> None:
    listen_at, systemd = service.config.listen, service.systemd
    context = tls_of(listen_at)
    listeners = await listen("listen.gateway", listen_at.gateway, systemd)
    services = service.gateway_services()
    opening = open_gateway(services, listeners, context)
    service.gateway = await stack.enter_async_context(opening)
    channels = open_channels(services, service.gateway.connections)
    service.channels = await stack.enter_async_context(channels)
    service.gateway.link = service.channels.link
    admin = admin_app(admin_services(service), lambda: service.config.listen.admin_tokens)
    if standby is None:
        listeners = await listen("listen.admin", listen_at.admin, systemd)
    else:
        listeners = standby.listeners()
        await standby.hide()
    service.admin_port = await stack.enter_async_context(
        open_http(admin, listeners, "admin", ADMIN_STOP_SECONDS, context)
    )
    systemd.close_rest()
