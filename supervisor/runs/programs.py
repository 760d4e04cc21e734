"""From an app's tables in the config to what runs. The only place that knows every resource: what
there is, and what each may know of an app.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from resources.config import ConfigResource, ConfigSettings
from resources.contacts import ContactsResource, ContactsSettings
from resources.contract import Resource
from resources.groups import GroupsResource, GroupsSettings
from resources.http import Http, HttpSettings
from resources.kv import Kv, KvSettings
from resources.log import LogResource
from resources.messagestore import Messagestore, MessagestoreSettings
from resources.metrics import Metrics, MetricsSettings
from resources.optout import OptoutResource, OptoutSettings
from resources.outbound import Outbound, OutboundSettings
from resources.stores.allow import AllowList
from resources.stores.app_metrics import AppMetrics
from resources.stores.contacts import Contacts
from resources.stores.egress import Egress, Policy
from resources.stores.graphite import Graphite, Target
from resources.stores.groups import Groups
from resources.stores.keyspace import Keyspace
from resources.stores.optouts import OptOuts
from resources.stores.outbox import Outbox
from resources.stores.search import ContactSearch
from resources.stores.statistics import Statistics

from ..config import Config
from ..config.model import App, Breakage
from .jobs import Program


def all_resources(
    *,
    keyspace: Keyspace,
    outbox: Outbox,
    egress: Egress,
    graphite: Graphite,
    app_metrics: AppMetrics,
    contacts: Contacts,
    groups: Groups,
    optouts: OptOuts,
    statistics: Statistics,
    search: ContactSearch,
) -> Sequence[Resource]:
    """Everything that apps can ask for."""
    return (
        ConfigResource(),
        LogResource(),
        Kv(keyspace),
        Outbound(outbox),
        Http(egress),
        Metrics(graphite, app_metrics),
        ContactsResource(contacts, search),
        GroupsResource(groups, contacts, search),
        Messagestore(statistics),
        OptoutResource(optouts),
    )


def programs_of(config: Config, breakages: Iterable[Breakage] = ()) -> dict[str, Program]:
    """Every app of a config, with what is wrong in its files."""
    broken: dict[str, list[str]] = {}
    for one in breakages:
        broken.setdefault(one.app, []).append(str(one))
    return {
        name: program_of(config, app, "; ".join(broken.get(name, ())))
        for name, app in config.apps.items()
    }


def program_of(config: Config, app: App, broken: str = "") -> Program:
    """An app with what each resource may know of it."""
    account = config.account(app.account)
    quota = account.kv
    graphite = app.metrics.graphite
    http = app.http
    settings: Mapping[type, Any] = {
        KvSettings: KvSettings(quota.keys_hard, quota.soft, quota.value_max, quota.most_bytes),
        ConfigSettings: ConfigSettings(app.config),
        ContactsSettings: ContactsSettings(
            address_class(app), account.contacts_max, account.country_code
        ),
        GroupsSettings: GroupsSettings(account.groups_max),
        MessagestoreSettings: MessagestoreSettings(
            frozenset(name for name, other in config.apps.items() if other.account == app.account)
        ),
        OptoutSettings: OptoutSettings(account.can_manage_optouts, account.optouts_max),
        OutboundSettings: OutboundSettings(app.endpoints, app.allowed_helper_metadata),
        HttpSettings: HttpSettings(
            Policy(
                AllowList.parse(http.allow),
                {name.lower(): target for name, target in http.connect_to.items()},
                http.proxy,
                http.redirects,
                http.response_max,
            ),
            http.timeout,
        ),
        MetricsSettings: MetricsSettings(
            None if graphite is None else Target(graphite.host, graphite.port, app.metrics.bucket),
            app.metrics.prefix,
        ),
    }
    return Program(app, settings, broken)


def address_class(app: App) -> str:
    """The kind of address that an app works with: of its own JSON config, else of its table; empty
    where neither says.
    """
    try:
        own = app.own_config()
    except ValueError:
        own = None  # the app's log says so when it matters
    given = own.get("delivery_class") if isinstance(own, dict) else None
    return given if isinstance(given, str) else app.delivery_class
