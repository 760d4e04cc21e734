"""The one place where everything is put together: opens every part in order, runs until told to
stop, closes in reverse.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio
from attrs import define, field, frozen

from resources.config import ConfigResource
from resources.contacts import ContactsResource
from resources.contract import Resource
from resources.fence import keep_running
from resources.groups import GroupsResource
from resources.http import Http
from resources.kv import Kv
from resources.log import LogResource
from resources.messagestore import Messagestore
from resources.metrics import Metrics
from resources.optout import OptoutResource
from resources.outbound import Outbound
from resources.stores.contacts import Contacts
from resources.stores.egress import open_egress
from resources.stores.graphite import Graphite, open_graphite
from resources.stores.groups import Groups
from resources.stores.identity import open_message_ids
from resources.stores.journal import Journal
from resources.stores.keyspace import Keyspace
from resources.stores.logbook import Logbook
from resources.stores.optouts import OptOuts
from resources.stores.outbox import Outbox
from resources.stores.recordings import Recordings
from resources.stores.redis import Redis
from resources.stores.statistics import Statistics

from .admin.app import AdminServices, HasRoutes, admin_app
from .admin.console import ConsoleAdmin
from .admin.contacts import ContactsAdmin
from .admin.dead_letters import DeadLettersAdmin
from .admin.gauges import Moment, scrape
from .admin.health import Health
from .admin.logs import LogsAdmin
from .admin.push import PushAdmin
from .admin.traces import RunsAdmin
from .config import Address, Config
from .config.tls import server_context
from .conversation_metrics import ConversationReporter
from .errors import CannotStart
from .gateway import Deliveries, Gateway, open_gateway
from .gateway.connection import Services
from .gateway.delivery import open_deliveries
from .host import oom
from .host.process import hide_memory
from .host.systemd import Systemd
from .host.version import node_path, node_version
from .jail.probe import open_probing
from .jail.walls import Walls, open_isolation
from .ports.http import open_http
from .ports.listening import listen
from .prometheus import Prometheus
from .reload import Reloads
from .runs.dispatcher import Dispatcher, open_dispatcher
from .runs.history import History
from .runs.programs import address_class, program_of
from .runs.push import Pushed, Pusher
from .runs.router import Router, build_table
from .runs.traces import Traces
from .sandboxes.codecache import compile_toolkits
from .sandboxes.pool import Pool, open_pool
from .search import Search, open_search
from .store.disk import Disk
from .store.opening import EMBEDDED, open_store
from .store.patience import until_answered

HARNESS = Path(__file__).parent.parent / "sandbox_js" / "harness.js"
ADMIN_STOP_SECONDS = 2.0
LAG_TICK = 0.25
COMPILE_AFTER = 3.0  # seconds after the start, or a reload
COMPILE_EVERY = (
    3600.0  # seconds until it is looked again whether all is there: a cleaner of /tmp may have been
)

log = logging.getLogger(__name__)


@frozen
class Stores:
    """What the resources are built on."""

    redis: Redis
    journal: Journal
    outbox: Outbox
    logbook: Logbook
    contacts: Contacts
    groups: Groups
    optouts: OptOuts
    statistics: Statistics
    graphite: Graphite


@define(eq=False)
class Service:
    """A running jsbox. Made by `open_service`."""

    config: Config
    _read_config: Callable[[], Config]
    stores: Stores
    search: Search
    walls: Walls
    pool: Pool
    dispatcher: Dispatcher
    pusher: Pusher
    history: History
    deliveries: Deliveries
    prometheus: Prometheus
    manager: Systemd
    disk: Disk
    gateway: Gateway = field(init=False)
    admin_port: int = field(default=0, init=False)
    is_draining: bool = field(default=False, init=False)
    _lag: float = field(default=0.0, init=False)
    reloads: Reloads = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.reloads = Reloads(self, self._read_config)

    @property
    def gateway_url(self) -> str:
        """Where gateways connect to."""
        scheme = "ws" if self.config.listen.certificate is None else "wss"
        return f"{scheme}://{Address(self.config.listen.gateway.host, self.gateway.port)}/v1"

    @property
    def admin_url(self) -> str:
        """Where the admin port is."""
        scheme = "http" if self.config.listen.certificate is None else "https"
        return f"{scheme}://{Address(self.config.listen.admin.host, self.admin_port)}"

    async def reload(self) -> dict[str, Any]:
        """See `Reloads.reload`."""
        return await self.reloads.reload()

    async def metrics(self) -> bytes:
        """What GET /metrics answers."""
        return await scrape(self.prometheus.registry, self._moment())

    async def push(self, name: str, addresses: Sequence[str] | None, group: str | None) -> Pushed:
        """Push to addresses, or to a group. Raises as `Pusher.push_group` does."""
        app = self.config.apps[name]
        delivery_class = address_class(app) or "sms"
        if group is not None:
            return await self.pusher.push_group(app, delivery_class, group)
        return await self.pusher.push(app, delivery_class, addresses or ())

    async def drain(self) -> None:
        """Take nothing new, let what is in hand end, and see what it sent on its way."""
        self.is_draining = True
        seconds = self.config.gateway.drain
        self.manager.stopping(f"draining, for {seconds:g} s at most")
        if self.manager.is_there:
            # its socket outlives us: who comes now is the next server's
            self.gateway.accept_no_more()
        self.gateway.say_drain(seconds)
        with trio.move_on_after(seconds):
            await self.dispatcher.drain(seconds)
            await self.deliveries.settle(seconds)
            await self.stores.redis.flush()

    def status(self, reload: Mapping[str, Any] | None = None) -> str:
        """A line for `systemctl status`."""
        line = f"{len(self.config.apps)} apps; gateway {self.gateway_url}, admin {self.admin_url}"
        if reload is None or reload["ok"]:
            return line
        return f"{line}; the last reload was refused: {'; '.join(reload['errors'])}"

    def _contacts_max(self, account: str) -> int | None:
        return (
            self.config.account(account).contacts_max
            if account in self.config.account_names
            else None
        )

    def _health(self) -> Health:
        return Health(
            apps=lambda: self.config.apps,
            redis=self.stores.redis,
            dispatcher=self.dispatcher,
            pool=self.pool,
            disk=self.disk,
            is_embedded=self.config.redis.url == EMBEDDED,
            is_draining=lambda: self.is_draining,
            search_problem=self.search.problem,
            lag=lambda: self._lag,
            dead_letters=self.dispatcher.box.counts,
        )

    def _moment(self) -> Moment:
        return Moment(
            config=lambda: self.config,
            dispatcher=self.dispatcher,
            pool=self.pool,
            redis=self.stores.redis,
            graphite=self.stores.graphite,
            logbook=self.stores.logbook,
            gateway=self.gateway,
            deliveries=self.deliveries,
            room=self.disk.room,
            dead_letters=self.dispatcher.box.counts,
        )

    def _admin_services(self) -> AdminServices:
        contacts = ContactsAdmin(self.stores.contacts, self.search, self._contacts_max)
        parts: list[HasRoutes] = [
            LogsAdmin(self.stores.logbook, lambda: self.dispatcher.programs),
            PushAdmin(lambda: self.dispatcher.programs, self.push),
            contacts,
            RunsAdmin(self.history, lambda: self.config.apps),
            DeadLettersAdmin(self.dispatcher.box, self.dispatcher),
            ConsoleAdmin(lambda: self.gateway_url),
        ]
        return AdminServices(
            programs=lambda: self.dispatcher.programs,
            dispatcher=self.dispatcher,
            pool=self.pool,
            parts=parts,
            reload=self.reload,
            metrics=self.metrics,
            health=self._health(),
            connections=self.gateway.connections,
        )

    def _gateway_services(self) -> Services:
        return Services(
            settings=self.config.gateway,
            channels=lambda: self.config.channels,
            outlet=self.deliveries.outlet,
            journal=self.stores.journal,
            ids=self.stores.outbox.ids,
            dispatcher=self.dispatcher,
            observe=self.prometheus,
            is_draining=lambda: self.is_draining,
        )

    def _start_tasks(self, nursery: trio.Nursery, keyspace: Keyspace) -> None:
        """What goes on in the background: whichever fails is started again."""
        reporter = ConversationReporter(
            lambda: self.config.apps, self.stores.statistics, self.stores.graphite
        )
        nursery.start_soon(keep_running, "disk", self.disk.watch)
        nursery.start_soon(keep_running, "lag", self._watch_lag)
        nursery.start_soon(keep_running, "compile", self._compile)
        nursery.start_soon(keep_running, "conversation metrics", reporter.run)
        counting = partial(keyspace.keep_counting, lambda: self.config.account_names)
        nursery.start_soon(keep_running, "kv sizes", counting)
        if self.manager.is_there:
            nursery.start_soon(keep_running, "watchdog", self.manager.show_life)

    async def _compile(self) -> None:
        """Have the toolkits compiled ahead, and what was copied be all there: at the start and
        after each reload, when the apps have had their first moments, and from time to time.
        """
        while True:
            applied = self.reloads.applied
            await trio.sleep(COMPILE_AFTER)
            await trio.to_thread.run_sync(partial(self.walls.stage.mend, thoroughly=True))
            if await compile_toolkits(self.walls, self.config.apps.values()):
                self.pool.spares.renew()
            with trio.move_on_after(COMPILE_EVERY):
                await applied.wait()

    async def _watch_lag(self) -> None:
        while True:
            due = trio.current_time() + LAG_TICK
            await trio.sleep_until(due)
            self._lag = trio.current_time() - due
            self.prometheus.loop_lag.set(self._lag)


@asynccontextmanager
async def open_service(
    config: Config, read_config: Callable[[], Config], manager: Systemd | None = None
) -> AsyncIterator[Service]:
    """Everything, ready: what the journals hold is in line, and both ports listen.

    Raises:
        CannotStart: The text says why.
    """
    oom.take_place()
    hide_memory()
    manager = manager or Systemd()
    async with AsyncExitStack() as stack:
        node = node_path(config)
        prometheus = Prometheus(node_version(config))
        prometheus.config_time.set_to_current_time()
        walls = stack.enter_context(open_isolation(config.isolation, node, HARNESS))
        probing = await stack.enter_async_context(open_probing(walls))
        store = await stack.enter_async_context(open_store(config, manager.starting))
        stores_redis, room = store.redis, store.disk.room
        deliveries = await stack.enter_async_context(
            open_deliveries(prometheus, config.gateway.ack_timeout)
        )
        graphite = await stack.enter_async_context(open_graphite())
        egress = await stack.enter_async_context(open_egress())
        ids = await until_answered(
            "message ids", partial(open_message_ids, stores_redis), manager.starting
        )
        statistics = Statistics(stores_redis)
        outbox = Outbox(
            stores_redis, ids, statistics, deliveries.announce, room, deliveries.is_awaited
        )
        deliveries.outbox = outbox
        contacts, groups = Contacts(stores_redis, room), Groups(stores_redis, room)
        optouts, keyspace = OptOuts(stores_redis, room), Keyspace(stores_redis, room)
        indexes = config.data_dir / "search"
        search = await stack.enter_async_context(
            open_search(
                config.search, store.url, indexes, config.account_names, prometheus, cwd=store.cwd
            )
        )
        stores = Stores(
            stores_redis,
            Journal(stores_redis, room),
            outbox,
            Logbook(stores_redis, room),
            contacts,
            groups,
            optouts,
            statistics,
            graphite,
        )
        resources: list[Resource] = [
            ConfigResource(), LogResource(), Kv(keyspace), Outbound(outbox), Http(egress), Metrics(graphite),
            ContactsResource(contacts, search), GroupsResource(groups, contacts, search), Messagestore(statistics),
            OptoutResource(optouts),
        ]  # fmt: skip
        pool = await stack.enter_async_context(
            open_pool(walls, config.node.max_processes, prometheus, config.node.spare)
        )
        router = Router(build_table(resources), prometheus)
        history = History(Traces(), Recordings(stores_redis, room))
        dispatcher = await stack.enter_async_context(
            open_dispatcher(
                pool,
                router,
                stores.journal,
                stores.logbook,
                outbox,
                history,
                prometheus,
                deliveries.run_ended,
            )
        )
        pusher = Pusher(contacts, groups, optouts, search, stores.journal, dispatcher)
        service = Service(
            config, read_config, stores, search, walls, pool, dispatcher, pusher, history, deliveries, prometheus, manager,
            store.disk,
        )  # fmt: skip
        await trio.to_thread.run_sync(walls.prepare, tuple(config.apps.values()))
        prometheus.expect(config.apps)
        dispatcher.update({name: program_of(config, app) for name, app in config.apps.items()})
        stores_redis.on_reconnect += [dispatcher.settle_soon, deliveries.doubt_all]
        room.on_again += [dispatcher.settle_soon, deliveries.doubt_all]  # what was refused is owed
        if recovered := await until_answered("the journal", dispatcher.recover, manager.starting):
            log.info("%d messages were left in the journal; they are in line again", recovered)
        nursery = await stack.enter_async_context(trio.open_nursery())
        service._start_tasks(nursery, keyspace)  # noqa: SLF001
        await probing.must_hold()
        # closed before anything is cancelled: clients are told
        async with AsyncExitStack() as ports:
            await _open_ports(ports, service)
            manager.ready(service.status())
            yield service
        nursery.cancel_scope.cancel()


async def _open_ports(stack: AsyncExitStack, service: Service) -> None:
    listen_at, manager = service.config.listen, service.manager
    tls = (
        None
        if listen_at.certificate is None or listen_at.key is None
        else (listen_at.certificate, listen_at.key)
    )
    try:
        context = None if tls is None else server_context(*tls)
    except OSError as error:
        raise CannotStart(f"listen.certificate: {error}") from error
    listeners = await listen("listen.gateway", listen_at.gateway, manager)
    services = service._gateway_services()  # noqa: SLF001
    service.gateway = await stack.enter_async_context(open_gateway(services, listeners, context))
    admin = admin_app(service._admin_services(), listen_at.admin_tokens)  # noqa: SLF001
    listeners = await listen("listen.admin", listen_at.admin, manager)
    service.admin_port = await stack.enter_async_context(
        open_http(admin, listeners, "admin", ADMIN_STOP_SECONDS, context)
    )
    manager.close_rest()
