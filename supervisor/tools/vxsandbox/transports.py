"""From a worker's transports, and where its RabbitMQ is, to channels of type amqp."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain, count
from typing import Any
from urllib.parse import quote

from attrs import define, field

from resources.text import NAME

from .decisions import Decisions, shown

# By part of the URL: the keys of a mapping `amqp`, and the variables of the old images.
_PARTS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "host": (("hostname", "host"), ("AMQP_HOST",)),
    "port": (("port",), ("AMQP_PORT",)),
    "vhost": (("vhost",), ("AMQP_VHOST",)),
    "user": (("username", "user"), ("AMQP_USERNAME", "AMQP_USER")),
    "password": (("password",), ("AMQP_PASSWORD",)),
}
_IGNORED = ("specfile", "heartbeat")
GUEST = "guest"
CONNECTORS = ("transport_name", "receive_inbound_connector", "receive_outbound_connector")


def broker_url(
    old: dict[str, Any], environment: Mapping[str, str], decisions: Decisions
) -> str | None:
    """Take where RabbitMQ is out of the old config; None if nothing says it."""
    given = old.pop("amqp_url", None)
    fields = old.pop("amqp", None)
    if given is not None and not isinstance(given, str):
        decisions.refuse("amqp_url", f"expected a URL, got {shown(given)}")
        return None
    if fields is not None and not isinstance(fields, dict):
        decisions.refuse("amqp", f"expected a mapping, got {shown(fields)}")
        return None
    fields = {str(key): value for key, value in (fields or {}).items() if value is not None}
    parts = {}
    for part, (keys, variables) in _PARTS.items():
        values = [fields.pop(key) for key in keys if key in fields]
        values += [environment[name] for name in variables if environment.get(name)]
        if values and isinstance(values[0], str | int) and not isinstance(values[0], bool):
            parts[part] = str(values[0])
        elif values:
            decisions.refuse(f"amqp.{keys[0]}", f"expected a text, got {shown(values[0])}")
    for key in fields:
        if key not in _IGNORED:
            decisions.refuse(f"amqp.{key}", "not known")
    if given is not None:
        return given
    return _url(parts) if "host" in parts else None


def _url(parts: Mapping[str, str]) -> str:
    host = f"[{parts['host']}]" if ":" in parts["host"] else parts["host"]
    port = f":{parts['port']}" if "port" in parts else ""
    user, password = parts.get("user", GUEST), parts.get("password", GUEST)
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return f"amqp://{login}@{host}{port}/{quote(parts.get('vhost', '/'), safe='')}"


@define
class Channels:
    """The channels that are made, by name."""

    app: str
    url: str | None
    transport_type: str | None
    decisions: Decisions
    made: dict[str, dict[str, Any]] = field(factory=dict)
    _names: dict[str, str] = field(factory=dict)  # of channels, by connector

    def connector(self, name: str, **settings: Any) -> str:
        """The channel of a connector, made when first asked for; settings that are None are left
        out.
        """
        if name not in self._names:
            channel = self._names[name] = self._free_name(name)
            kind = {} if self.transport_type is None else {"transport_type": self.transport_type}
            url = {} if self.url is None else {"url": self.url}
            self.made[channel] = {"type": "amqp", "app": "", **kind, "name": name, **url}
        channel = self._names[name]
        for key, value in settings.items():
            if value is not None:
                self.made[channel][key] = value
        return channel

    def websocket(self) -> str:
        """A channel for clients of ours, where the worker names no connector."""
        kind = {} if self.transport_type is None else {"transport_type": self.transport_type}
        self.made[self.app] = {"type": "websocket", "app": self.app, **kind}
        return self.app

    def _free_name(self, connector: str) -> str:
        name = valid_name(connector)
        others = (f"{name[:90]}-{number}" for number in count(2))
        return next(one for one in chain((name,), others) if one not in self.made)


def valid_name(text: str) -> str:
    """A text as the name of an app, account or channel."""
    if NAME.fullmatch(text):
        return text
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text).lstrip("_.-")[:100] or "x"


def convert_transports(
    old: dict[str, Any], channels: Channels, decisions: Decisions
) -> dict[str, str]:
    """Take the transports out of the old config; return the app's endpoints."""
    named: list[str] = []
    for key in CONNECTORS:
        value = old.pop(key, None)
        if value is not None and not isinstance(value, str | int):
            decisions.refuse(key, f"expected a text, got {shown(value)}")
        elif value not in (None, ""):
            named.append(str(value))
    first = ""
    for name in dict.fromkeys(named):
        first = first or channels.connector(name, app=channels.app)
        channels.connector(name, app=channels.app)
    if not first:
        first = channels.websocket()
        decisions.say(
            "transport_name",
            f"missing: channel {first} is for WebSocket clients. If VUMI_OPT_TRANSPORT_NAME named"
            " it, give --env-file",
        )
    endpoints = {"default": first}
    targets = old.pop("send_to", None)
    if targets is not None and not isinstance(targets, dict):
        decisions.refuse("send_to", f"expected a mapping, got {shown(targets)}")
        targets = None
    for endpoint, target in (targets or {}).items():
        endpoints[str(endpoint)] = _target(f"send_to.{endpoint}", target, first, channels)
    for key in ("static_tags", "tag"):
        if key in old:
            decisions.say(key, "dropped: endpoints name channels directly")
            del old[key]
    _say(channels, decisions)
    return endpoints


def _target(key: str, target: Any, first: str, channels: Channels) -> str:
    """The channel of an endpoint: a connector of its own if it named a transport."""
    fields = target if isinstance(target, dict) else {"transport_name": target}
    texts = {}
    for name in ("transport_name", "transport_type", "from_addr"):
        value = fields.get(name)
        if value is not None and not isinstance(value, str | int):
            channels.decisions.refuse(f"{key}.{name}", f"expected a text, got {shown(value)}")
        elif value not in (None, ""):
            texts[name] = str(value)
    for name in fields:
        if name not in ("transport_name", "transport_type", "from_addr"):
            channels.decisions.say(f"{key}.{name}", "dropped: the channel says it")
    connector = texts.pop("transport_name", None)
    if connector is None:
        channels.made[first].update(texts)
        return first
    return channels.connector(connector, **texts)


def _say(channels: Channels, decisions: Decisions) -> None:
    queues = [str(one["name"]) for one in channels.made.values() if one["type"] == "amqp"]
    if not queues:
        return
    decisions.say(
        "transport_name",
        "as before, over RabbitMQ: "
        + ", ".join(f"{name}.inbound, {name}.event and {name}.outbound" for name in queues)
        + "; stop the old worker first, or both take from these queues",
    )
    if channels.url is None:
        decisions.say(
            "amqp",
            "nothing says where RabbitMQ is (AMQP_HOST in --env-file, --amqp): url is"
            " amqp://guest:guest@127.0.0.1/%2f",
        )
    elif f":{GUEST}@" not in channels.url:
        decisions.say("amqp", "url has the password in it; ${NAME} takes it from the environment")
    if any("transport_type" not in one for one in channels.made.values()):
        decisions.say(
            "transport_type",
            "not known: --transport-type ussd (or sms) is for messages that apps send without"
            " replying, which vumi2 refuses if they have none",
        )
