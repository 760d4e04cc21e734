"""Converting the YAML of a vxsandbox worker to a jsbox.toml: every key is converted, dropped with a
reason, or refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml
from attrs import define, field, frozen

from ..config.model import Limits
from ..config.node import BESIDE_HEAP, LEAST_FILES, MOST_STACK

MIB = 1 << 20
OPTION = "VUMI_OPT_"  # the prefix of variables that the old container images turn into options
OLD_TIMEOUT, OLD_RECV_LIMIT = 60, 1024 * 1024  # vxsandbox's own defaults
DROPPED = {
    "worker_name": "it named a heartbeat",
    "executable": "Node.js is bundled (node.path)",
    "args": "the harness is bundled",
    "path": "the harness is bundled",
    "env": "a sandbox has no environment (timezone sets TZ)",
    "logging_resource": "logs are always there: jsbox logs",
    "amqp_prefetch_count": (
        "gateways have credit instead; an app runs pool.max_processes messages at a time,"
        " and one per user"
    ),
    "sentry_dsn": "errors are in the app's log, with their stack",
}
JAILS_OWN = frozenset(
    {"RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_RSS", "RLIMIT_NPROC", "RLIMIT_MEMLOCK"}
)
CHECK_MIDDLEWARE = {"logging_mw": "messages are not logged; jsbox trace shows each run"}


CONTEXT = re.compile(
    r"\s*\{\s*require\s*:\s*function\s*\(\w*\)\s*\{.*\}"
    r"\s*,?\s*(Buffer\s*:\s*Buffer|Buffer)?\s*,?\s*\}\s*",
    re.DOTALL,
)


class CannotMigrate(Exception):
    """The config cannot be converted; the text names every unknown key, one a line."""


@frozen
class Migrated:
    """The text of a jsbox.toml, and the decisions made, one a line."""

    text: str
    decisions: tuple[str, ...]


def read_env(text: str) -> dict[str, str]:
    """Read `NAME=value` lines, the format of docker's --env-file."""
    found = {}
    for line in text.splitlines():
        name, sign, value = line.strip().partition("=")
        if sign and not name.startswith("#"):
            found[name.removeprefix("export ").strip()] = value.strip().strip("\"'")
    return found


def migrate(text: str, name: str, environment: Mapping[str, str]) -> Migrated:
    """Convert the config of a worker.

    Args:
        text: The worker's YAML.
        name: The name for the app.
        environment: Of the worker's container, where VUMI_OPT_SOME_KEY is the option some_key.

    Raises:
        CannotMigrate: It is not YAML, or has unknown keys.
    """
    try:
        old = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CannotMigrate(f"it is not YAML: {error}") from error
    if not isinstance(old, dict):
        raise CannotMigrate("expected a YAML mapping, the config of a worker")
    old = {str(key): value for key, value in old.items()}
    old |= {
        key[len(OPTION) :].lower(): value
        for key, value in environment.items()
        if key.startswith(OPTION)
    }
    worker = _Worker(name, old)
    worker.convert()
    if worker.unknown:
        raise CannotMigrate("\n".join(worker.unknown))
    return Migrated(worker.toml(), tuple(worker.decisions))


@define
class _Worker:
    name: str
    old: dict[str, Any]
    decisions: list[str] = field(factory=list)
    unknown: list[str] = field(factory=list)
    app: dict[str, Any] = field(factory=dict)
    account: dict[str, Any] = field(factory=dict)
    channels: dict[str, dict[str, Any]] = field(factory=dict)

    def convert(self) -> None:
        old = self.old
        self.app = {
            "account": str(old.pop("sandbox_id", self.name)),
            "javascript": str(old.pop("javascript_file", "")),
        }
        self.say(
            "sandbox_id",
            f'account = "{self.app["account"]}": apps of one account share key-value store and'
            " contacts, as those of one sandbox_id did",
        )
        if not self.app["javascript"]:
            self.unknown.append("javascript_file is missing: there is no app")
        self.limits()
        self.sandbox(self.mapping("sandbox", old.pop("sandbox", None)))
        self.context(str(old.pop("app_context", "") or ""))
        self.transports()
        self.middleware(old.pop("middleware", None) or [])
        for key, value in old.items():
            if key in DROPPED:
                self.say(key, f"dropped: {DROPPED[key]}")
            else:
                self.unknown.append(f"{key}: not known ({json.dumps(value, default=str)[:80]})")

    def say(self, key: str, text: str) -> None:
        # one line, whatever the YAML has
        self.decisions.append(" ".join(f"{key}: {text}".split()))

    def number(self, key: str, value: Any, least: int = 1) -> int:
        """Check a whole number of the old config; those from the environment are texts."""
        try:
            found = int(str(value))
        except ValueError:
            found = least - 1
        if found < least:
            self.unknown.append(f"{key}: expected a whole number of {least} or more, got {value!r}")
        return max(found, least)

    def mapping(self, key: str, value: Any) -> dict[str, Any]:
        """Check a mapping of the old config; empty if it has none."""
        if value is not None and not isinstance(value, dict):
            self.unknown.append(f"{key}: expected a mapping, got {value!r:.80}")
            return {}
        return {str(name): item for name, item in (value or {}).items()}

    def limits(self) -> None:
        old, limits = self.old, self.app.setdefault("limits", {})
        recv = self.number("recv_limit", old.pop("recv_limit", OLD_RECV_LIMIT), 1024)
        limits["wall"] = f"{self.number('timeout', old.pop('timeout', OLD_TIMEOUT))}s"
        limits["output"] = f"{recv // 1024}KiB"
        self.say(
            "timeout, recv_limit",
            "limits.wall and limits.output, per message; they were per process",
        )
        if recv < 256 * 1024:
            limits["line"] = limits["output"]
        for key, value in self.mapping("rlimits", old.pop("rlimits", None)).items():
            self.rlimit(key, value[0] if isinstance(value, list) and value else value)
        self.pool()

    def pool(self) -> None:
        old, pool = self.old, self.app.setdefault("pool", {})
        for key, setting in (
            ("messages_per_process", "max_messages"),
            ("max_sandboxes", "max_processes"),
        ):
            if (value := old.pop(key, None)) is not None:
                pool[setting] = self.number(key, value)
                self.say(key, f"pool.{setting} = {pool[setting]}")
        if "max_messages" not in pool:
            self.say(
                "messages_per_process",
                "pool.max_messages stays 1000: each message has its own context;"
                " 1 gives the old behaviour, a process per message",
            )

    def rlimit(self, key: str, soft: Any) -> None:
        limits = self.app["limits"]
        if not isinstance(soft, int):
            self.unknown.append(f"rlimits.{key}: expected [soft, hard], got {soft!r}")
        elif soft < 0:
            self.say(f"rlimits.{key}", "it was switched off; the default limit holds here")
        elif key == "RLIMIT_DATA":
            memory = max(soft, Limits().heap + BESIDE_HEAP) // MIB
            limits["memory"] = f"{memory}MiB"
            self.say(
                "rlimits.RLIMIT_DATA",
                f"limits.memory = {memory}MiB, for everything;"
                f" today's Node.js needs {BESIDE_HEAP // MIB} MiB beside its heap",
            )
        elif key == "RLIMIT_CPU":
            limits["cpu"] = f"{max(soft, 1)}s"
            self.say("rlimits.RLIMIT_CPU", "limits.cpu, per message; it was per process")
        elif key == "RLIMIT_STACK":
            limits["stack"] = f"{min(soft, MOST_STACK) >> 10}KiB"
            self.say("rlimits.RLIMIT_STACK", f"limits.stack = {limits['stack']}, of V8's stack")
        elif key == "RLIMIT_NOFILE":
            limits["open_files"] = max(soft, LEAST_FILES)
            self.say(
                "rlimits.RLIMIT_NOFILE",
                f"limits.open_files = {limits['open_files']} ({LEAST_FILES} or more)",
            )
        elif key in JAILS_OWN:
            self.say(f"rlimits.{key}", "dropped: the jail sets it (limits.memory is what counts)")
        else:
            self.unknown.append(f"rlimits.{key}: not known")

    def sandbox(self, resources: Mapping[str, Any]) -> None:
        converters: dict[str, Callable[[dict[str, Any]], None]] = {
            "config": self.config,
            "kv": self.kv,
            "http": self.http,
            "outbound": self.outbound,
            "metrics": self.metrics,
        }
        for name, raw in resources.items():
            fields = self.mapping(f"sandbox.{name}", raw)
            kind = str(fields.pop("cls", ""))
            if name in converters:
                converters[name](fields)
            elif name in {"log", "contacts", "groups", "optout", "messagestore"}:
                fields.clear()
                self.say(f"sandbox.{name}", "always there")
            else:
                self.unknown.append(
                    f"sandbox.{name}: there is no such resource here (cls {kind!r})"
                )
                continue
            self.unknown += [f"sandbox.{name}.{key}: not known" for key in fields]

    def config(self, fields: dict[str, Any]) -> None:
        keys = self.mapping("sandbox.config.keys", fields.pop("keys", None))
        self.app["config"] = {str(key): {"file": str(file)} for key, file in keys.items()}
        self.say("sandbox.config", f"config, of files: {', '.join(map(str, keys)) or 'none'}")

    def kv(self, fields: dict[str, Any]) -> None:
        quota = self.account.setdefault("kv", {})
        hard = fields.pop("keys_per_user_hard", fields.pop("keys_per_user", None))
        soft = fields.pop("keys_per_user_soft", None)
        fields.pop("keys_per_user", None)
        if hard is not None:
            quota["keys_hard"] = self.number("sandbox.kv.keys_per_user", hard)
        if soft is not None:
            quota["keys_soft"] = self.number("sandbox.kv.keys_per_user_soft", soft, 0)
        redis = self.mapping("sandbox.kv.redis_manager", fields.pop("redis_manager", None))
        prefix = redis.get("key_prefix", "") or "PREFIX"
        account = self.app["account"]
        self.say(
            "sandbox.kv",
            f"accounts.{account}.kv; the data: jsbox migrate kv {account}"
            f" --redis URL --prefix {prefix} --sandbox-id {account}",
        )

    def http(self, fields: dict[str, Any]) -> None:
        made = self.app.setdefault("http", {})
        if (timeout := fields.pop("timeout", None)) is not None:
            made["timeout"] = f"{self.number('sandbox.http.timeout', timeout)}s"
        if (limit := fields.pop("data_limit", None)) is not None:
            made["response_max"] = (
                f"{self.number('sandbox.http.data_limit', limit, 1024) // 1024}KiB"
            )
        fields.pop("https", None)
        self.say(
            "sandbox.http",
            "http.allow is empty: every PUBLIC address. Private ones were open before:"
            " list those that the app needs",
        )

    def outbound(self, fields: dict[str, Any]) -> None:
        allowed = fields.pop("allowed_helper_metadata", None)
        if allowed is not None and not isinstance(allowed, list):
            self.unknown.append(
                f"sandbox.outbound.allowed_helper_metadata: expected a list, got {allowed!r}"
            )
        elif allowed:
            self.app["allowed_helper_metadata"] = [str(key) for key in allowed]
        self.say("sandbox.outbound", "allowed_helper_metadata" if allowed else "always there")

    def metrics(self, fields: dict[str, Any]) -> None:
        prefix = fields.pop("metrics_prefix", None)
        if prefix:
            self.app.setdefault("metrics", {})["prefix"] = str(prefix)
        self.say(
            "sandbox.metrics",
            'metrics.graphite is empty: set it to "host:2003". Metrics went over AMQP to an'
            " aggregator; here they go to Graphite directly",
        )

    def context(self, text: str) -> None:
        if not text:
            return
        names = re.findall(r"""["']([@\w./-]+)["']""", text)
        shape = CONTEXT.fullmatch(text)
        if shape is None or not names:
            self.unknown.append(
                "app_context: expected {require: function (m) { if (['...'].indexOf(m) >= 0) ... },"
                f" Buffer: Buffer}}, got {text[:120]!r}"
            )
            return
        self.app["modules"] = list(dict.fromkeys(names))
        self.app["globals"] = ["Buffer"] if shape[1] else []
        self.say(
            "app_context",
            "modules and globals; install the app's packages beside it and set modules_dir,"
            f" or the bundled toolkits are used: {', '.join(names)}",
        )

    def transports(self) -> None:
        old = self.old
        named = [
            old.pop(key)
            for key in ("transport_name", "receive_inbound_connector", "receive_outbound_connector")
            if key in old
        ]
        channels = list(dict.fromkeys(str(name) for name in named if name)) or [self.name]
        endpoints = {"default": channels[0]}
        for endpoint, target in self.mapping("send_to", old.pop("send_to", None)).items():
            channel = (
                str(target.get("transport_name", "") if isinstance(target, dict) else target)
                or channels[0]
            )
            endpoints[str(endpoint)] = channel
        if "static_tags" in old or "tag" in old:
            self.say("static_tags", "dropped: endpoints name channels directly")
            old.pop("static_tags", None)
            old.pop("tag", None)
        self.app["endpoints"] = endpoints
        for channel in dict.fromkeys([*channels, *endpoints.values()]):
            self.channels[channel] = {
                "type": "websocket",
                "app": self.name if channel in channels else "",
            }
        self.say(
            "transport_name",
            f"channels {', '.join(self.channels)}: over WebSocket (docs/gateway.md) instead of"
            " AMQP; set transport_type and tokens",
        )

    def middleware(self, layers: Any) -> None:
        if not isinstance(layers, list):
            self.unknown.append(f"middleware: expected a list, got {layers!r:.80}")
            return
        for layer in layers:
            for name in layer if isinstance(layer, dict) else {str(layer): None}:
                self.old.pop(name, None)
                if name in CHECK_MIDDLEWARE:
                    self.say(f"middleware.{name}", f"dropped: {CHECK_MIDDLEWARE[name]}")
                else:
                    self.unknown.append(
                        f"middleware.{name}: there is no middleware here;"
                        " what it did belongs in the gateway or the app"
                    )

    def toml(self) -> str:
        lines = ["version = 1", "", *(f"# {line}" for line in self.decisions), ""]
        lines += _table(("accounts", self.app["account"]), self.account)
        lines += _table(("apps", self.name), self.app)
        for name, channel in self.channels.items():
            lines += _table(("channels", name), channel)
        return "\n".join(lines).rstrip() + "\n"


def _table(path: tuple[str, ...], values: Mapping[str, Any]) -> list[str]:
    return [
        f"[{'.'.join(_key(part) for part in path)}]",
        *(f"{_key(key)} = {_value(value)}" for key, value in values.items() if value != {}),
        "",
    ]


def _key(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else json.dumps(text)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{ " + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + " }"
        )
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
