"""From an app's tables in the config to what runs: with what each resource may know of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resources.config import ConfigSettings
from resources.contacts import ContactsSettings
from resources.groups import GroupsSettings
from resources.http import HttpSettings
from resources.kv import KvSettings
from resources.messagestore import MessagestoreSettings
from resources.metrics import MetricsSettings
from resources.optout import OptoutSettings
from resources.outbound import OutboundSettings
from resources.stores.allow import AllowList
from resources.stores.egress import Policy
from resources.stores.graphite import Target

from ..config import Config
from ..config.model import App
from .jobs import Program


def program_of(config: Config, app: App) -> Program:
    """An app with what each resource may know of it."""
    account = config.account(app.account)
    quota = account.kv
    graphite = app.metrics.graphite
    http = app.http
    settings: Mapping[type, Any] = {
        KvSettings: KvSettings(quota.keys_hard, quota.soft, quota.value_max, quota.most_bytes),
        ConfigSettings: ConfigSettings(app.config),
        ContactsSettings: ContactsSettings(address_class(app), account.contacts_max),
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
    return Program(app, settings)


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
