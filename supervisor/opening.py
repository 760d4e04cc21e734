"""What a service is made of: opened in order on its stack, which closes it in reverse."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from attrs import frozen

from resources.stores.search import INDEXES

from .cluster.sharing import Sharing, open_sharing, peers_of
from .config import Config
from .config.model import Breakage
from .figures import Figures, both
from .gateway import Deliveries
from .gateway.delivery import open_deliveries
from .host.systemd import Systemd
from .host.version import node_path, node_version
from .jail.probe import Probing, open_probing
from .jail.walls import Walls, open_isolation
from .log_output import LogWriter
from .otel.exporter import Exporter, open_exporter
from .prometheus import Prometheus
from .runs.dispatcher import Dispatcher
from .runs.history import History
from .runs.opening import open_dispatcher
from .runs.router import Router, build_table
from .runs.traces import Traces
from .sandboxes.code_check import CodeCheck, jailed, open_first_check
from .sandboxes.load_check import LoadCheck
from .sandboxes.pool import Pool, open_pool
from .search import Search, open_search
from .store.opening import Store, open_store
from .store.patience import until_answered
from .stores import Stores, open_stores, resources_on


@frozen(eq=False, kw_only=True)
class Base:
    """What needs no store that is ours: a server that stands by has all of it.

    Attributes:
        breakages: The apps whose code does not compile.
    """

    prometheus: Prometheus
    figures: Figures
    walls: Walls
    probing: Probing
    code_check: CodeCheck
    load_check: LoadCheck
    store: Store
    search: Search
    pool: Pool
    breakages: Collection[Breakage]


@frozen(eq=False, kw_only=True)
class Core:
    """What handles messages, once the store is ours, or shared with us."""

    deliveries: Deliveries
    stores: Stores
    exporter: Exporter
    history: History
    dispatcher: Dispatcher
    sharing: Sharing | None


async def open_base(stack: AsyncExitStack, config: Config, systemd: Systemd, harness: Path) -> Base:
    """Open what needs no store that is ours. The apps' code is compiled, and the jail tried, while
    the store and the search process start.

    Raises:
        CannotStart: The text says why.
    """
    enter = stack.enter_async_context
    node = node_path(config)
    prometheus = Prometheus(node_version(config))
    prometheus.config_time.set_to_current_time()
    figures = Figures()
    walls = stack.enter_context(open_isolation(config.isolation, node, harness, config.node.nice))
    probing = await enter(open_probing(walls))
    code_check, load_check = CodeCheck(jailed(walls)), LoadCheck(walls)
    first_check = await enter(open_first_check(code_check, config.apps.values()))
    store = await enter(open_store(config, systemd.starting))
    folder, accounts = config.data_dir / INDEXES, config.account_names
    opening = open_search(config.search, store.url, folder, accounts, prometheus, cwd=store.cwd)
    search = await enter(opening)
    search.writes.are_all = store.lease is None
    pool = await enter(open_pool(walls, config.node.max_processes, prometheus, config.node.spare))
    return Base(
        prometheus=prometheus,
        figures=figures,
        walls=walls,
        probing=probing,
        code_check=code_check,
        load_check=load_check,
        store=store,
        search=search,
        pool=pool,
        breakages=await first_check(),
    )


async def open_core(
    stack: AsyncExitStack,
    config: Config,
    base: Base,
    systemd: Systemd,
    log_writer: LogWriter | None,
) -> Core:
    """Open what works on the store. What its journals hold is not put in line yet.

    Raises:
        CannotStart: The text says why.
    """
    enter, store, prometheus = stack.enter_async_context, base.store, base.prometheus
    deliveries = await enter(open_deliveries(prometheus, config.gateway.ack_timeout))
    asking = partial(peers_of, config, store)
    peers = await until_answered("the other servers", asking, systemd.starting)
    partitions = config.cluster.partitions if peers is not None else 0
    opening_stores = open_stores(
        store, deliveries, base.search.writes, systemd.starting, partitions
    )
    stores = await enter(opening_stores)
    if log_writer is not None:
        log_writer.follow(stores.logbook, config.log.stdout)
    exporter = await enter(open_exporter(config.otel.endpoint))
    history = History(Traces(), stores.recordings, exporter)
    opening_dispatcher = open_dispatcher(
        pool=base.pool,
        router=Router(build_table(resources_on(stores, base.search)), prometheus),
        journal=stores.journal,
        logbook=stores.logbook,
        outbox=stores.outbox,
        history=history,
        observe=both(prometheus, base.figures),
        announce=deliveries.run_ended,
        doubt=base.load_check.doubt,
        peers=peers,
    )
    dispatcher = await enter(opening_dispatcher)
    opening_sharing = open_sharing(
        config, store, stores.outbox, dispatcher, deliveries, systemd.starting
    )
    return Core(
        deliveries=deliveries,
        stores=stores,
        exporter=exporter,
        history=history,
        dispatcher=dispatcher,
        sharing=await enter(opening_sharing),
    )
