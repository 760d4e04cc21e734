"""Converting the YAML of a vxsandbox worker to a jsbox.toml: every key is converted, dropped with a
reason, or refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from resources.stores.search.quotes import advice, quoted
from supervisor.config.model import Limits
from supervisor.config.node import BESIDE_HEAP, LEAST_FILES, MOST_STACK

from .decisions import CannotMigrate, Decisions, shown
from .files import Places, keep_available, read_source
from .reading import read_yaml
from .transports import Channels, broker_url, convert_transports, valid_name
from .writing import table

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
        "prefetch stays 200: a message is acknowledged once it is in the journal; an app runs"
        " pool.max_processes messages at a time, and one per user"
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


@frozen
class Migrated:
    """The text of a jsbox.toml, and the decisions made, one a line."""

    text: str
    decisions: tuple[str, ...]


@frozen(kw_only=True)
class Options:
    """What the command line says about a worker.

    Attributes:
        name: The name for the app.
        environment: Of the worker's container, where VUMI_OPT_SOME_KEY is the option some_key.
        places: Where its files are.
        modules_dir: The app's node_modules; None: the folder of that name beside the app.
        transport_type: Of messages that its apps send.
        broker: The URL of RabbitMQ, instead of what the config or the environment says.
    """

    name: str
    environment: Mapping[str, str] = field(factory=dict)
    places: Places = field(factory=Places)
    modules_dir: Path | None = None
    transport_type: str | None = None
    broker: str | None = None


def migrate(text: str, options: Options) -> Migrated:
    """Convert the config of a worker. Takes bounded time, whatever the text is.

    Raises:
        CannotMigrate: It is not YAML, or has unknown keys.
    """
    old = read_yaml(text)
    old |= {
        key[len(OPTION) :].lower(): value
        for key, value in options.environment.items()
        if key.startswith(OPTION)
    }
    worker = _Worker(options, old)
    worker.convert()
    for phrase in dict.fromkeys(quoted(text)):
        worker.decisions.say("a contact query", advice(phrase))
    if worker.decisions.refused:
        raise CannotMigrate("\n".join(worker.decisions.refused))
    return Migrated(worker.toml(), tuple(worker.decisions.lines))


@define
class _Worker:
    options: Options
    old: dict[str, Any]
    decisions: Decisions = field(factory=Decisions)
    app: dict[str, Any] = field(factory=dict)
    account: dict[str, Any] = field(factory=dict)
    channels: dict[str, dict[str, Any]] = field(factory=dict)
    sandbox_id: str = ""
    source: str | None = None
    modules_dir: Path | None = None

    def convert(self) -> None:
        old, name = self.old, self.options.name
        self.javascript(self.text("sandbox_id", name), self.text("javascript_file"))
        self.limits()
        self.sandbox(self.mapping("sandbox", old.pop("sandbox", None)))
        self.context(self.text("app_context"))
        self.transports()
        self.middleware(old.pop("middleware", None) or [])
        for key, value in old.items():
            if key in DROPPED:
                self.say(key, f"dropped: {DROPPED[key]}")
            else:
                self.refuse(key, f"not known ({shown(value)})")

    def javascript(self, sandbox_id: str, file: str) -> None:
        account = valid_name(sandbox_id)
        self.app = {"account": account, "javascript": file}
        self.sandbox_id = sandbox_id
        self.say(
            "sandbox_id",
            f'account = "{account}": apps of one account share key-value store and'
            " contacts, as those of one sandbox_id did",
        )
        if not file:
            self.refuse("javascript_file", "missing: there is no app")
            return
        places = self.options.places
        found = places.find(file)
        self.app["javascript"] = places.locate("javascript_file", file, self.decisions)
        self.source = read_source(found)
        self.modules_dir = self.options.modules_dir
        if self.modules_dir is None and (found.parent / "node_modules").is_dir():
            self.modules_dir = found.parent / "node_modules"
        if self.modules_dir is not None:
            self.app["modules_dir"] = places.written(self.modules_dir)
            self.say("modules_dir", f"{self.app['modules_dir']}: its versions win")

    def say(self, key: str, text: str) -> None:
        self.decisions.say(key, text)

    def refuse(self, key: str, text: str) -> None:
        self.decisions.refuse(key, text)

    def text(self, key: str, default: str = "") -> str:
        """Take a text out of the old config."""
        value = self.old.pop(key, None)
        if value is None:
            return default
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return shown(value) if not isinstance(value, str) else value
        self.refuse(key, f"expected a text, got {shown(value)}")
        return default

    def number(self, key: str, value: Any, least: int = 1) -> int:
        """Check a whole number of the old config; those from the environment are texts."""
        try:
            found = int(str(value))
        except (ValueError, OverflowError):
            found = least - 1
        if isinstance(value, bool) or found < least:
            self.refuse(key, f"expected a whole number of {least} or more, got {shown(value)}")
        return max(found, least)

    def mapping(self, key: str, value: Any) -> dict[str, Any]:
        """Check a mapping of the old config; empty if it has none."""
        if value is not None and not isinstance(value, dict):
            self.refuse(key, f"expected a mapping, got {shown(value)}")
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
        if not isinstance(soft, int) or isinstance(soft, bool):
            self.refuse(f"rlimits.{key}", f"expected [soft, hard], got {shown(soft)}")
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
            self.refuse(f"rlimits.{key}", "not known")

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
            kind = fields.pop("cls", "")
            if name in converters:
                converters[name](fields)
            elif name in {"log", "contacts", "groups", "optout", "messagestore"}:
                fields.clear()
                self.say(f"sandbox.{name}", "always there")
            else:
                self.refuse(
                    f"sandbox.{name}", f"there is no such resource here (cls {shown(kind)})"
                )
                continue
            for key in fields:
                self.refuse(f"sandbox.{name}.{key}", "not known")

    def config(self, fields: dict[str, Any]) -> None:
        keys = self.mapping("sandbox.config.keys", fields.pop("keys", None))
        self.say("sandbox.config", f"config, of files: {', '.join(keys) or 'none'}")
        self.app["config"] = {}
        for key, file in keys.items():
            place = f"sandbox.config.keys.{key}"
            if not isinstance(file, str) or not file or "\0" in file:
                self.refuse(place, f"expected the path of a file, got {shown(file)}")
                continue
            path = self.options.places.locate(place, file, self.decisions)
            self.app["config"][key] = {"file": path}

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
        host = redis.get("host")
        url = f"redis://{host}:{redis.get('port', 6379)}/{redis.get('db', 0)}" if host else "URL"
        account = self.app["account"]
        self.say(
            "sandbox.kv",
            f"accounts.{account}.kv; the data: jsbox migrate kv {account}"
            f" --redis {url} --prefix {prefix} --sandbox-id {self.sandbox_id}",
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
            key = "sandbox.outbound.allowed_helper_metadata"
            self.refuse(key, f"expected a list, got {shown(allowed)}")
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
        # with single spaces the pattern takes linear time, whatever the text
        shape = CONTEXT.fullmatch(re.sub(r"\s+", " ", text))
        if shape is None or not names:
            self.refuse(
                "app_context",
                "expected {require: function (m) { if (['...'].indexOf(m) >= 0) ... },"
                f" Buffer: Buffer}}, got {shown(text)}",
            )
            return
        self.app["globals"] = ["Buffer"] if shape[1] else []
        modules_dir = self.modules_dir
        self.app["modules"] = keep_available(
            list(dict.fromkeys(names)), self.source, modules_dir, self.decisions
        )
        toolkits = "" if modules_dir is not None else "; those that are bundled are used"
        self.say("app_context", f"modules and globals: {', '.join(self.app['modules'])}{toolkits}")

    def transports(self) -> None:
        broker = broker_url(self.old, self.options.environment, self.decisions)
        channels = Channels(
            self.options.name,
            self.options.broker or broker,
            self.options.transport_type,
            self.decisions,
        )
        self.app["endpoints"] = convert_transports(self.old, channels, self.decisions)
        self.channels = channels.made

    def middleware(self, layers: Any) -> None:
        if not isinstance(layers, list):
            self.refuse("middleware", f"expected a list, got {shown(layers)}")
            return
        for layer in layers:
            for name in layer if isinstance(layer, dict) else {str(layer): None}:
                self.old.pop(name, None)
                if name in CHECK_MIDDLEWARE:
                    self.say(f"middleware.{name}", f"dropped: {CHECK_MIDDLEWARE[name]}")
                else:
                    self.refuse(
                        f"middleware.{name}",
                        "there is no middleware here; what it did belongs in the gateway or the"
                        " app",
                    )

    def toml(self) -> str:
        lines = ["version = 1", "", *(f"# {line}" for line in self.decisions.lines), ""]
        lines += table(("accounts", self.app["account"]), self.account)
        lines += table(("apps", self.options.name), self.app)
        for name, channel in self.channels.items():
            lines += table(("channels", name), channel)
        return "\n".join(lines).rstrip() + "\n"
