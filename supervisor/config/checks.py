"""Checks of a config beyond the type of each value: between values, and against this host."""

from __future__ import annotations

import os
import resource
import shutil
import ssl
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path as FilePath
from zoneinfo import ZoneInfo

from attrs import evolve

from resources.messages import ADDRESS_FIELDS
from resources.stores.allow import AllowList
from resources.text import NAME

from .channels import channel_problems, channel_warnings
from .found import Found, look, token_problems
from .locate import Path
from .model import PROCESS_USERS, App, Channel, Cluster, Config, Limits, Listen
from .node import BESIDE_HEAP, BUILTINS, LEAST_FILES, LEAST_HEAP, LEAST_STACK, MOST_STACK
from .requires import is_available
from .tls import lifetime_of, server_context
from .tokens import twice
from .units import Address, show
from .urls import REDIS_KINDS, base_problem, origin_problem, proxy_problem, redis_problem, shown_url

GLOBALS = ("Buffer",)
MOST_FILES = 1 << 20  # descriptors of a process
HEAP_MAX = 1 << 40  # bytes
LEASE = (
    1.0,
    300.0,
)  # seconds: shorter, and a busy host would lose it; longer, and nobody takes over
USERS_MAX = 1 << 31  # user ids that the kernel and every tool accept
NAME_MAX = 255  # bytes of a file's name
PROCESSES_MAX = 64  # of one server
PATH_MAX = 3800  # bytes of data_dir; Linux allows 4095 for the paths of its files
OTEL_PACKAGES = ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")
OTEL_OTHERS = ("/v1/metrics", "/v1/logs")  # paths that traces are not sent to
ALLOW_MAX = 300  # characters of an entry of http.allow
APP_MAX = 16 << 20  # bytes of an app's config values, which each process gets in one line


def check(
    config: Config, declared: Mapping[str, frozenset[str]]
) -> tuple[Config, list[tuple[Path, str]], list[str]]:
    """Check a config; return it with default endpoints filled in, the errors, and the warnings.

    Never raises an Exception. `declared` has the names of all apps and channels in the file, also
    those whose own errors kept them out of `config`.
    """
    apps = {name: _with_default_endpoint(app, config.channels) for name, app in config.apps.items()}
    config = evolve(config, apps=apps)
    problems = [*_host(config)]
    for name, app in apps.items():
        problems += [((*("apps", name), *path), text) for path, text in _app(app, declared)]
    for name, channel in config.channels.items():
        problems += [
            ((*("channels", name), *path), text)
            for path, text in channel_problems(channel, declared)
        ]
    return config, problems, [] if problems else list(_warnings(config))


def name_problem(name: str) -> str | None:
    """What is wrong with the name of an app, account or channel, if anything."""
    if NAME.fullmatch(name):
        return None
    return f"the name {show(name)} may have letters, digits, '.', '_' and '-', 100 at most"


def _with_default_endpoint(app: App, channels: Mapping[str, Channel]) -> App:
    if "default" in app.endpoints:
        return app
    own = [channel.name for channel in channels.values() if channel.app == app.name]
    return evolve(app, endpoints={**app.endpoints, "default": own[0]}) if len(own) == 1 else app


def _host(config: Config) -> Found:
    """Check the settings of the whole host."""
    listen = config.listen
    yield from look(("listen", "admin"), partial(_admin, listen))
    yield from _tls(listen)
    digests = tuple(one.sha256 for one in listen.admin_tokens)
    yield from token_problems(digests, ("listen", "admin_tokens"))
    if (name := twice(listen.admin_tokens)) is not None:
        yield ("listen", "admin_tokens"), f"two tokens are named {show(name)}"
    yield from look(("redis", "url"), partial(_redis, config.redis.url))
    yield from _cluster(config)
    yield from look(("data_dir",), partial(_data_dir, config.data_dir))
    yield from look(("node", "path"), partial(_node, config.node.path))
    yield from look(("otel", "endpoint"), partial(_otel, config.otel.endpoint))
    processes = min(config.cluster.processes, PROCESSES_MAX)  # more are an error of their own
    users = len(config.apps) + (processes - 1) * PROCESS_USERS
    if config.isolation.first_user + users > USERS_MAX:
        yield ("isolation", "first_user"), f"expected less than {USERS_MAX - users}"


def _admin(listen: Listen) -> str | None:
    if listen.gateway == listen.admin and listen.gateway.port:
        return f"{listen.admin} is the gateway's address too; each needs its own"
    given = {
        "admin_tokens": listen.admin_tokens,
        "certificate": listen.certificate,
        "key": listen.key,
    }
    missing = [f"listen.{name}" for name, value in given.items() if not value]
    if not listen.admin.is_loopback and missing:
        return f"{listen.admin} can be reached from other hosts: set {', '.join(missing)} first"
    return None


def _tls(listen: Listen) -> Found:
    certificate, key = listen.certificate, listen.key
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        given, missing = ("certificate", "key") if key is None else ("key", "certificate")
        yield ("listen", given), f"needs listen.{missing} beside it"
        return
    yield from look(("listen", "certificate"), partial(_certificate, certificate, key))


def _certificate(certificate: FilePath, key: FilePath) -> str | None:
    try:
        server_context(certificate, key)
    except ssl.SSLError as error:
        return f"{key} is not the key of {certificate}: {error.reason or error}"
    except OSError as error:
        return f"{certificate} or {key} cannot be read: {error.strerror}"
    return None


def _redis(url: str) -> str | None:
    problem = "" if url == "embedded" else redis_problem(url)
    return f"expected {REDIS_KINDS}, got {show(shown_url(url))}: {problem}" if problem else None


def _cluster(config: Config) -> Found:
    if config.redis.replicas and config.redis.url.startswith(("embedded", "redis+cluster")):
        text = "expected 0: the embedded store has no replicas, and a cluster's are not waited for"
        yield ("redis", "replicas"), text
    if config.cluster.mode != "single" and config.redis.url == "embedded":
        text = (
            f"{show(config.cluster.mode)} needs a store that all its servers can reach: set"
            " redis.url first"
        )
        yield ("cluster", "mode"), text
    if (problem := processes_problem(config.cluster, config.redis.url)) is not None:
        yield ("cluster", "processes"), problem
    least, most = LEASE
    if not least <= config.cluster.lease <= most:
        given = f"{config.cluster.lease:g}s"
        yield ("cluster", "lease"), f"expected {least:g}s to {most:g}s, got {given}"


def processes_problem(cluster: Cluster, url: str) -> str | None:
    """Why a server cannot have this number of processes on the store at `url`; None if it can."""
    count = cluster.processes
    if count > PROCESSES_MAX:
        return f"expected 1 to {PROCESSES_MAX}, got {count}"
    if count > 1 and url != "embedded" and cluster.mode != "shared":
        return (
            f"{count} processes share the store at redis.url: set cluster.mode to"
            f' "shared" (it is {show(cluster.mode)})'
        )
    return None


def _data_dir(folder: FilePath) -> str | None:
    """What is wrong with data_dir for any user. Who may write there is only a warning."""
    if len(os.fsencode(folder)) > PATH_MAX or any(
        len(os.fsencode(part)) > NAME_MAX for part in folder.parts
    ):
        return f"expected names of at most {NAME_MAX} bytes, and {PATH_MAX} in all"
    found = _nearest(folder)
    return None if found.is_dir() else f"{found} is not a folder"


def _nearest(path: FilePath) -> FilePath:
    """The path or its nearest existing parent. Raises ValueError if it cannot be a path."""
    for one in (path, *path.parents):
        try:
            one.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        return one
    return FilePath("/")


def _node(path: str) -> str | None:
    """Look for node.path as starting it would."""
    if path == "bundled" or shutil.which(path) is not None:
        return None
    return f'expected "bundled" or a program, got {show(path)}'


def _otel(endpoint: str) -> str | None:
    """What is wrong with the endpoint, or with this install: the SDK is an extra."""
    if not endpoint:
        return None
    problem = base_problem(endpoint)
    if endpoint.rstrip("/").endswith(OTEL_OTHERS):
        problem = problem or "this is not the path of traces; leave it out"
    if problem:
        shown = show(shown_url(endpoint))
        return f'expected a URL such as "http://127.0.0.1:4318", got {shown}: {problem}'
    for name in OTEL_PACKAGES:
        try:
            version(name)
        except PackageNotFoundError:
            return f"needs the package {name}: pip install 'jsbox[otel]'"
    return None


def _app(app: App, declared: Mapping[str, frozenset[str]]) -> Found:
    yield from look(("account",), partial(name_problem, app.account))
    yield from _modules(app)
    for name in app.globals:
        if name not in GLOBALS:
            yield ("globals",), f"expected {' or '.join(map(show, GLOBALS))}, got {show(name)}"
    classes = ("", *ADDRESS_FIELDS)
    if app.delivery_class not in classes:
        yield (
            ("delivery_class",),
            f"expected one of {', '.join(map(show, classes))}, got {show(app.delivery_class)}",
        )
    for endpoint, channel in app.endpoints.items():
        if channel not in declared["channels"]:
            yield ("endpoints", endpoint), f"there is no [channels.{channel}]"
    yield from look(("timezone",), partial(_timezone, app.timezone))
    yield from look(("config",), partial(_config_size, app.config))
    yield from look(("metrics", "graphite"), partial(_graphite, app.metrics.graphite))
    prefix = app.metrics.prefix
    if not prefix.isprintable() or " " in prefix:
        yield (
            ("metrics", "prefix"),
            f"expected a prefix without spaces or control characters, got {show(prefix)}",
        )
    yield from _limits(app.limits)
    yield from _http(app)


def _timezone(name: str) -> str | None:
    try:
        ZoneInfo(name)
    except Exception:  # noqa: BLE001  # of many kinds: it opens a file of that name
        return f'expected a time zone such as "Africa/Johannesburg", got {show(name)}'
    return None


def _config_size(values: Mapping[str, str]) -> str | None:
    size = sum(len(key.encode()) + len(text.encode()) for key, text in values.items())
    return (
        f"expected at most {APP_MAX} bytes in all values together, got {size}"
        if size > APP_MAX
        else None
    )


def _graphite(address: Address | None) -> str | None:
    return f"expected a port, got {address}" if address is not None and not address.port else None


def _modules(app: App) -> Found:
    wrong = list(look(("modules_dir",), partial(_modules_dir, app.modules_dir)))
    yield from wrong
    if wrong:
        return  # whether it has the modules is then unknown
    for index, name in enumerate(app.modules):
        yield from look(("modules", index), partial(_module, name, app.modules_dir))


def _modules_dir(folder: FilePath | None) -> str | None:
    return f"{folder} is not a folder" if folder is not None and not folder.is_dir() else None


def _module(name: str, modules_dir: FilePath | None) -> str | None:
    if is_available(name, modules_dir):
        return None
    given = ", ".join(BUILTINS)
    return (
        f"{show(name)} is neither in modules_dir nor bundled,"
        f" nor one of Node's that apps may have ({given})"
    )


def _limits(limits: Limits) -> Found:
    if limits.heap < LEAST_HEAP:
        yield (
            ("limits", "heap"),
            f"Node does not start with less than {LEAST_HEAP >> 20}MiB, got {limits.heap} bytes",
        )
    if limits.heap > HEAP_MAX:
        yield (
            ("limits", "heap"),
            f"expected at most {HEAP_MAX >> 30}GiB, got {limits.heap >> 30}GiB",
        )
    if limits.memory < limits.heap + BESIDE_HEAP:
        heap, memory, least = (
            size >> 20 for size in (limits.heap, limits.memory, limits.heap + BESIDE_HEAP)
        )
        yield (
            ("limits", "memory"),
            (
                f"Node needs {BESIDE_HEAP >> 20}MiB beside its heap:"
                f" expected at least {least}MiB with a heap of {heap}MiB, got {memory}MiB"
            ),
        )
    if limits.stack > MOST_STACK:
        most = MOST_STACK >> 10
        yield ("limits", "stack"), f"expected at most {most}KiB, got {limits.stack >> 10}KiB"
    if limits.stack < LEAST_STACK:
        least = LEAST_STACK >> 10
        yield (
            ("limits", "stack"),
            f"Node does not start with less than {least}KiB, got {limits.stack} bytes",
        )
    if limits.open_files < LEAST_FILES:
        yield ("limits", "open_files"), f"Node needs {LEAST_FILES} or more, got {limits.open_files}"
    # one is for Node itself
    most = min(MOST_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]) - 1
    if limits.open_files > most:
        yield (
            ("limits", "open_files"),
            f"expected at most {most}, which is what this host allows, got {limits.open_files}",
        )
    if limits.line > limits.output:
        yield (
            ("limits", "line"),
            f"a line of {limits.line} bytes can never fit limits.output of {limits.output} bytes",
        )


def _http(app: App) -> Found:
    http = app.http
    for index, entry in enumerate(http.allow):
        yield from look(("http", "allow", index), partial(_allowed, entry))
    for name, target in http.connect_to.items():
        if problem := origin_problem(target):
            shown = show(shown_url(target))
            text = f'expected a URL such as "http://127.0.0.1:9000", got {shown}: {problem}'
            yield ("http", "connect_to", name), text
    if http.proxy and (problem := proxy_problem(http.proxy)):
        shown = show(shown_url(http.proxy))
        text = f'expected a URL such as "http://proxy:3128", got {shown}: {problem}'
        yield ("http", "proxy"), text


def _allowed(entry: str) -> str | None:
    if len(entry) > ALLOW_MAX:
        return f"expected at most {ALLOW_MAX} characters, got {len(entry)}"
    try:
        AllowList.parse([entry])
    except ValueError as error:
        return str(error)
    return None


def _warnings(config: Config) -> Iterator[str]:
    for token in config.listen.admin_tokens:
        if token.is_expired():
            yield f"listen.admin_tokens: the token {show(token.name)} expired at {token.expires}"
    if problem := lifetime_of(config.listen.certificate, config.listen.key).problem():
        yield f"listen.certificate: {problem}"
    if not os.access(_nearest(config.data_dir), os.W_OK | os.X_OK):
        yield f"data_dir: this user cannot write to {config.data_dir}"
    for app in config.apps.values():
        if app.account not in config.accounts:
            yield (
                f"apps.{app.name}: account {show(app.account)} has no [accounts.{app.account}];"
                " the defaults hold for it"
            )
        try:
            app.own_config()
        except ValueError as error:
            yield f"apps.{app.name}.config.config: an app's own config should be JSON ({error})"
    if config.isolation.level == "none":
        yield (
            'isolation.level = "none": apps can read and write what this user can;'
            " only for your own code"
        )
    yield from channel_warnings(config)
