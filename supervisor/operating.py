"""What operators see of a service and do with it, put together: the admin port, its checks, and
what the metrics look up.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from resources.stores.lease import Lease

from .admin.app import AdminServices, HasRoutes
from .admin.audit import AuditAdmin, AuditLog
from .admin.channels import ChannelsAdmin
from .admin.console import ConsoleAdmin
from .admin.contacts import ContactsAdmin
from .admin.dead_letters import DeadLettersAdmin
from .admin.elsewhere import Elsewhere
from .admin.gauges import Moment, scrape
from .admin.groups import GroupsAdmin
from .admin.health import Health
from .admin.hosts import HostsAdmin
from .admin.kv import KvAdmin
from .admin.logs import LogsAdmin
from .admin.optouts import OptOutsAdmin
from .admin.outbox import OutboxAdmin
from .admin.overview import OverviewAdmin
from .admin.process_metrics import ProcessMetrics
from .admin.push import PushAdmin, Wanted
from .admin.refusals import Refusals
from .admin.traces import RunsAdmin
from .background import LoopLag
from .cluster.sharing import Sharing
from .config import Account, Config
from .config.tls import lifetime_of
from .figures import Figures
from .gateway import Deliveries, Gateway
from .gateway.channels import Channels
from .host.slices import Slices
from .log_output import LogWriter
from .otel.exporter import Exporter
from .ports.accepting import Door
from .processes.member import Member
from .prometheus import Prometheus
from .reload import Reloads
from .runs.dispatcher import Dispatcher
from .runs.history import History
from .runs.push import Audience, Pushed
from .sandboxes.pool import Pool
from .search import Search
from .store.disk import Disk
from .store.opening import EMBEDDED
from .stores import Stores


class Operated(Protocol):
    """The service, as far as operators have to do with it."""

    config: Config
    stores: Stores
    search: Search
    pool: Pool
    dispatcher: Dispatcher
    history: History
    exporter: Exporter
    deliveries: Deliveries
    disk: Disk
    lease: Lease | None
    sharing: Sharing | None
    loop_lag: LoopLag
    log_writer: LogWriter | None
    gateway: Gateway
    channels: Channels
    outboxes: OutboxAdmin
    audit: AuditLog
    refusals: Refusals
    admin_door: Door
    prometheus: Prometheus
    figures: Figures
    reloads: Reloads
    is_draining: bool
    member: Member | None

    @property
    def gateway_url(self) -> str:
        """The URL that gateways connect to."""

    async def push(self, name: str, wanted: Wanted) -> Pushed:
        """Push to addresses, or to a group."""

    async def audience(self, name: str, group: str, cursor: int) -> Audience:
        """Give a page of the addresses of a group."""

    async def reload(self) -> dict[str, Any]:
        """Read the config again and apply it."""

    async def metrics(self) -> bytes:
        """The answer of GET /metrics."""


def health_of(service: Operated) -> Health:
    """What makes the checks of /readyz."""
    listen = service.config.listen
    lifetime = lifetime_of(listen.certificate, listen.key)  # a new one is read at the next start
    return Health(
        apps=lambda: {name: one.app for name, one in service.dispatcher.programs.items()},
        redis=service.stores.redis,
        dispatcher=service.dispatcher,
        pool=service.pool,
        disk=service.disk,
        is_embedded=service.config.redis.url == EMBEDDED,
        is_draining=lambda: service.is_draining,
        search_problem=service.search.problem,
        lag=lambda: service.loop_lag.seconds,
        dead_letters=service.dispatcher.box.counts,
        channels=lambda: service.config.channels,
        channel_state=service.channels.state,
        outboxes=lambda: service.outboxes.found,
        audit_problem=lambda: service.audit.problem,
        reload_refused=lambda: service.reloads.refused,
        refusals=service.refusals,
        doors=lambda: (service.gateway.door, service.admin_door),
        kv_full=service.stores.keyspace.full,
        refused=lambda: service.gateway.services.refused,
        traces_problem=lambda: service.exporter.problem,
        logs_problem=lambda: _logs_problem(service.log_writer),
        certificate_problem=lifetime.problem,
        hosts_problem=lambda: "" if service.sharing is None else service.sharing.problem,
        processes_problem=lambda: ("", False) if service.member is None else service.member.problem,
    )


def _logs_problem(writer: LogWriter | None) -> str:
    return "" if writer is None or writer.form == "off" else writer.problem


def moment_of(service: Operated) -> Moment:
    """What the metrics look up at each scrape."""
    return Moment(
        config=lambda: service.config,
        dispatcher=service.dispatcher,
        pool=service.pool,
        redis=service.stores.redis,
        graphite=service.stores.graphite,
        app_metrics=service.stores.app_metrics,
        logbook=service.stores.logbook,
        channel_state=service.channels.state,
        deliveries=service.deliveries,
        room=service.disk.room,
        lease=service.lease,
        dead_letters=service.dispatcher.box.counts,
        log_writer=service.log_writer,
        outboxes=lambda: service.outboxes.found,
        refusals=service.refusals,
        doors=lambda: (service.gateway.door, service.admin_door),
        exporter=service.exporter,
    )


async def metrics_of(service: Operated) -> bytes:
    """The metrics, in Prometheus's exposition format; of the first of several processes, those of
    all.
    """
    own = await scrape(service.prometheus.registry, moment_of(service))
    member, sharing = service.member, service.sharing
    if member is None or sharing is None or not member.is_first:
        return own
    return await ProcessMetrics(sharing, member.hosts, lambda: member.table).merged(own)


async def gauges_now(service: Operated) -> dict[str, float]:
    """The console's gauges, of all apps together; memory in bytes."""
    slices, queue = Slices(), 0
    for name in list(service.config.apps):
        queue += service.dispatcher.waiting(name)
        await slices.rest()
    live = [*service.pool.sandboxes(), *service.pool.spare_processes()]
    return {
        "queue": queue,
        "outbox": sum(one.count for one in service.outboxes.found.values()),
        "processes": len(live),
        "memory": sum(one.rss_bytes for one in live),
    }


def admin_services(service: Operated) -> AdminServices:
    """What the admin port shows and does."""

    def account_of(name: str) -> Account | None:
        return service.config.account(name) if name in service.config.account_names else None

    elsewhere = Elsewhere(service.sharing)
    parts: list[HasRoutes] = [
        LogsAdmin(service.stores.logbook, lambda: service.dispatcher.programs, elsewhere),
        PushAdmin(lambda: service.dispatcher.programs, service.push, service.audience),
        ContactsAdmin(service.stores.contacts, service.search, account_of),
        GroupsAdmin(service.stores.groups, service.stores.contacts, account_of),
        OptOutsAdmin(service.stores.optouts, account_of),
        RunsAdmin(service.history, lambda: service.config.apps, elsewhere),
        DeadLettersAdmin(service.dispatcher.box, service.dispatcher),
        service.outboxes,
        AuditAdmin(service.audit),
        KvAdmin(service.stores.keyspace, account_of),
        ConsoleAdmin(lambda: service.gateway_url),
        HostsAdmin(lambda: [] if service.sharing is None else service.sharing.rows()),
        ChannelsAdmin(
            lambda: service.config.channels,
            service.channels.state,
            service.deliveries.unacked,
            lambda: service.gateway.services.refused,
        ),
    ]
    health = health_of(service)
    parts.append(
        OverviewAdmin(
            config=lambda: service.config,
            figures=service.figures,
            dispatcher=service.dispatcher,
            pool=service.pool,
            traces=service.history.traces,
            health=health,
            outboxes=lambda: service.outboxes.found,
            channel_state=service.channels.state,
            disk=service.disk,
            lease=service.lease,
            look=partial(gauges_now, service),
        )
    )
    return AdminServices(
        programs=lambda: service.dispatcher.programs,
        dispatcher=service.dispatcher,
        pool=service.pool,
        parts=parts,
        reload=service.reload,
        preview=service.reloads.preview,
        metrics=service.metrics,
        health=health,
        connections=service.channels.connections,
        audit=service.audit,
        refusals=service.refusals,
        elsewhere=elsewhere,
    )
