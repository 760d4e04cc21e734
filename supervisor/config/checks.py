"""What must hold between the values of a config, beyond the shape of each."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from attrs import evolve

from resources.stores.allow import AllowList

from .locate import Path
from .model import App, Channel, Config, Limits, Listen
from .tls import server_context
from .units import show

BUILTINS = frozenset(
    {"assert", "buffer", "crypto", "events", "path", "querystring", "string_decoder", "timers", "url", "util"}
)
BUNDLED = FilePath(__file__).parents[2] / "sandbox_js" / "node_modules"
GLOBALS = ("Buffer",)
DELIVERY_CLASSES = ("", "sms", "ussd", "voice", "twitter", "gtalk", "mxit", "wechat")
SHA256 = re.compile(r"[0-9a-f]{64}")
REDIS_URL = re.compile(r"(redis|rediss|redis\+cluster)://[^/\s]+(/\d*)?(\?\S*)?|unix://\S+")
LEAST_HEAP = 8 << 20  # below it Node does not start
LEAST_FILES = 22
BESIDE_HEAP = 96 << 20  # that Node needs to start
STACK_RESERVE = 128 << 10  # of the 2 MiB thread stack that V8's share must leave
THREAD_STACK = 2 << 20

Found = Iterator[tuple[Path, str]]


def check(config: Config, declared: Mapping[str, frozenset[str]]) -> tuple[Config, list[tuple[Path, str]], list[str]]:
    """The config with its default endpoints filled in, the errors found, and the warnings.

    `declared` has the names of all apps and channels in the file, also of those whose own errors kept them out of `config`.
    """
    apps = {name: _with_default_endpoint(app, config.channels) for name, app in config.apps.items()}
    config = evolve(config, apps=apps)
    problems = [*_ports(config), *_redis(config)]
    for name, app in apps.items():
        problems += [((*("apps", name), *path), text) for path, text in _app(app, declared)]
    for name, channel in config.channels.items():
        problems += [((*("channels", name), *path), text) for path, text in _channel(channel, declared)]
    return config, problems, list(_warnings(config))


def _with_default_endpoint(app: App, channels: Mapping[str, Channel]) -> App:
    if "default" in app.endpoints:
        return app
    own = [channel.name for channel in channels.values() if channel.app == app.name]
    return evolve(app, endpoints={**app.endpoints, "default": own[0]}) if len(own) == 1 else app


def _ports(config: Config) -> Found:
    listen = config.listen
    if listen.gateway == listen.admin and listen.gateway.port:
        yield ("listen", "admin"), f"{listen.admin} is the gateway's address too; each needs its own"
    given = {"admin_tokens": listen.admin_tokens, "certificate": listen.certificate, "key": listen.key}
    missing = [f"listen.{name}" for name, value in given.items() if not value]
    if not listen.admin.is_loopback and missing:
        yield ("listen", "admin"), f"{listen.admin} can be reached from other hosts: set {', '.join(missing)} first"
    yield from _tls(listen)
    yield from _tokens(listen.admin_tokens, ("listen", "admin_tokens"))


def _tls(listen: Listen) -> Found:
    certificate, key = listen.certificate, listen.key
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        given, missing = ("certificate", "key") if key is None else ("key", "certificate")
        yield ("listen", given), f"needs listen.{missing} beside it"
        return
    try:
        server_context(certificate, key)
    except ssl.SSLError as error:
        yield (
            ("listen", "certificate"),
            f"{certificate} and {key} make no certificate with its key: {error.reason or error}",
        )
    except OSError as error:
        yield ("listen", "certificate"), f"{certificate} or {key} cannot be read: {error.strerror}"


def _redis(config: Config) -> Found:
    url = config.redis.url
    if url != "embedded" and not REDIS_URL.fullmatch(url):
        kinds = "embedded, redis://, rediss://, unix:// or redis+cluster://"
        yield ("redis", "url"), f"expected {kinds}, got {show(url)}"


def _app(app: App, declared: Mapping[str, frozenset[str]]) -> Found:
    if not NAMES.fullmatch(app.account):
        yield (
            ("account",),
            f"the name {show(app.account)} may have letters, digits, '.', '_' and '-', 100 at most",
        )
    yield from _modules(app)
    for name in app.globals:
        if name not in GLOBALS:
            yield ("globals",), f"expected {' or '.join(map(show, GLOBALS))}, got {show(name)}"
    if app.delivery_class not in DELIVERY_CLASSES:
        yield (
            ("delivery_class",),
            f"expected one of {', '.join(map(show, DELIVERY_CLASSES))}, got {show(app.delivery_class)}",
        )
    for endpoint, channel in app.endpoints.items():
        if channel not in declared["channels"]:
            yield ("endpoints", endpoint), f"there is no [channels.{channel}]"
    try:
        ZoneInfo(app.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        yield ("timezone",), f'expected a time zone such as "Africa/Johannesburg", got {show(app.timezone)}'
    yield from _limits(app.limits)
    yield from _http(app)


def _modules(app: App) -> Found:
    if app.modules_dir is not None and not app.modules_dir.is_dir():
        yield ("modules_dir",), f"{app.modules_dir} is not a folder"
    for index, name in enumerate(app.modules):
        package = "/".join(name.split("/")[: 2 if name.startswith("@") else 1])
        places = [place for place in (app.modules_dir, BUNDLED) if place is not None]
        if name not in BUILTINS and not (package.strip(".") and any((place / package).exists() for place in places)):
            given = ", ".join(sorted(BUILTINS))
            yield (
                ("modules", index),
                f"{show(name)} is neither in modules_dir nor bundled, nor one of Node's that apps may have ({given})",
            )


def _limits(limits: Limits) -> Found:
    if limits.heap < LEAST_HEAP:
        yield (
            ("limits", "heap"),
            f"Node does not start with less than {LEAST_HEAP >> 20}MiB, got {limits.heap} bytes",
        )
    if limits.memory < limits.heap + BESIDE_HEAP:
        heap, memory, least = (size >> 20 for size in (limits.heap, limits.memory, limits.heap + BESIDE_HEAP))
        yield (
            ("limits", "memory"),
            f"Node needs 96MiB beside its heap: expected at least {least}MiB with a heap of {heap}MiB, got {memory}MiB",
        )
    if limits.stack > THREAD_STACK - STACK_RESERVE:
        most = (THREAD_STACK - STACK_RESERVE) >> 10
        yield ("limits", "stack"), f"expected at most {most}KiB, got {limits.stack >> 10}KiB"
    if limits.open_files < LEAST_FILES:
        yield ("limits", "open_files"), f"Node needs {LEAST_FILES} or more, got {limits.open_files}"
    if limits.line > limits.output:
        yield (
            ("limits", "line"),
            f"a line of {limits.line} bytes can never fit limits.output of {limits.output} bytes",
        )


def _http(app: App) -> Found:
    http = app.http
    for index, entry in enumerate(http.allow):
        try:
            AllowList.parse([entry])
        except ValueError as error:
            yield ("http", "allow", index), str(error)
    for name, target in http.connect_to.items():
        parts = urlsplit(target)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            yield (
                ("http", "connect_to", name),
                f'expected a URL such as "http://127.0.0.1:9000", got {show(target)}',
            )
    if http.proxy:
        parts = urlsplit(http.proxy)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            yield ("http", "proxy"), f'expected a URL such as "http://proxy:3128", got {show(http.proxy)}'


def _channel(channel: Channel, declared: Mapping[str, frozenset[str]]) -> Found:
    if channel.app and channel.app not in declared["apps"]:
        yield ("app",), f"there is no [apps.{channel.app}]"
    yield from _tokens(channel.tokens, ("tokens",))


def _tokens(tokens: tuple[str, ...], path: Path) -> Found:
    for index, token in enumerate(tokens):
        if not SHA256.fullmatch(token):
            yield (*path, index), "expected the SHA-256 of a token as 64 lower-case hex digits"


def _warnings(config: Config) -> Iterator[str]:
    for app in config.apps.values():
        if app.account not in config.accounts:
            yield f"apps.{app.name}: account {show(app.account)} has no [accounts.{app.account}]; the defaults hold for it"
    if config.isolation.level == "none":
        yield 'isolation.level = "none": apps can read and write what this user can; only for your own code'
    gateway = config.listen.gateway
    if not gateway.is_loopback and config.listen.certificate is None:
        yield f"listen.gateway = {gateway} can be reached from other hosts, and messages and tokens go there in the clear: set listen.certificate and listen.key"
    for channel in config.channels.values():
        if not gateway.is_loopback and not channel.tokens:
            yield f"channels.{channel.name} has no tokens: only clients on this host may use it"


NAMES = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
