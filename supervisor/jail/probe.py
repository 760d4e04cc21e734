"""The proof that the jail holds: a program that tries what must be impossible, run through exactly
the launcher of a level.

As a control, the same program also runs at level `none`. What fails even there proves nothing, so
the probe reports that it is blind to it.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import trio
from attrs import define, evolve, field, frozen

from resources.fence import cause_of, fence

from ..config.model import App, Level, Limits
from ..errors import CannotStart
from ..host.process import SpawnFailed, open_process
from ..host.scratch import scratch_folder
from .argv import Jail
from .walls import Walls

SECONDS = 15.0
TRIES = 3  # of a probe that ends without a word
READ = 64 << 10  # bytes read at a time
ALLOWED = "ALLOWED"
ENVIRONMENT = {"OPENSSL_CONF", "TZ", "UV_THREADPOOL_SIZE", "PWD"}  # the last is bubblewrap's
NO_WRITING, WRITING = (f"{int(resource.RLIMIT_FSIZE)}:{size}:{size}" for size in (0, 1 << 20))
NODES_OWN = ("--permission", "--allow-fs-read", "--no-experimental-sqlite")

ETC = ("/etc/passwd", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/etc/os-release")
GUARANTEES = {
    "read_file": "no file of the host's can be read",
    "read_etc": "nothing below /etc can be read",
    "list_folder": "no folder of the host's can be listed",
    "write_file": "no file can be written",
    "write_tmp": "nothing can be written to /tmp",
    "parent_environment": "the supervisor's environment cannot be read",
    "parent_memory": "the supervisor's memory cannot be opened",
    "spawn": "no program can be started",
    "signal_parent": "the supervisor cannot be signalled",
    "signal_all": "no other process can be signalled",
    "become_root": "it cannot switch to another user",
    "native_writer": "no library of Node's writes files",
    "tcp": "no TCP connection can be made",
    "udp": "no UDP packet can be sent",
    "abstract_socket": "no abstract unix socket can be reached",
    "path_socket": "no unix socket in the file system can be reached",
    "memory": "memory outside of V8's heap is limited",
}
"""What must be denied, at levels standard and strict."""
NEVER_SEEN = {
    "become_root",
    "parent_environment",
    "parent_memory",
    "signal_parent",
    "signal_all",
    "memory",
}
"""What may be denied at level none too, by the user or by the rlimits."""


@frozen
class Finding:
    """One guarantee: whether it holds, and the result of the attempt."""

    name: str
    text: str
    holds: bool
    detail: str


@frozen
class Traps:
    """Where the probe finds what it must not reach, and whether a packet arrived."""

    told: Mapping[str, Any]
    udp: socket.socket

    def packet_arrived(self) -> bool:
        """Whether a UDP packet came through."""
        try:
            return bool(self.udp.recv(16))
        except BlockingIOError:
            return False


@contextmanager
def open_traps(memory: int) -> Iterator[Traps]:
    """A file, a folder and sockets that everybody on the host can reach, except from a jail."""
    with (
        scratch_folder("probe") as folder,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as path,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        folder.chmod(0o777)  # a trap
        (folder / "file").write_text("x")
        (folder / "file").chmod(0o644)
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)  # noqa: FBT003  # the socket's own
        path.bind(str(folder / "socket"))
        (folder / "socket").chmod(0o777)
        abstract.bind(f"\0{folder.name}")
        for listener in (path, abstract):
            listener.listen(4)
        told = {
            "file": f"{folder}/file",
            "folder": str(folder),
            "etc": str(_file_of_etc() or folder / "file"),
            "parent": os.getpid(),
            "tcp": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "path": f"{folder}/socket",
            "abstract": folder.name,
            "bytes": memory * 2,
        }
        yield Traps(told, udp)


def _file_of_etc() -> Path | None:
    """A file of /etc that everybody can read; None if there is none, as in a bare container."""
    for known in ETC:
        with suppress(OSError):
            if Path(known).stat().st_mode & stat.S_IROTH:
                return Path(known)
    return None


async def probe(walls: Walls) -> list[Finding]:
    """Probe what holds at the level of these walls; the control is the last finding."""
    app = App("jsbox probe", "", Path("/probe"))
    found, control = dict[str, Any](), dict[str, Any]()
    at_none = Walls(evolve(walls.place, level="none"), walls.host, walls.stage, walls.users)

    async def run(into: dict[str, Any], some: Walls) -> None:
        jail = evolve(some, place=evolve(some.place, harness="probe.js")).jail(app)
        # Without Node's own permissions, which would refuse first.
        argv = tuple(word for word in jail.argv if not word.startswith(NODES_OWN))
        if some is at_none:  # its resource limits forbid writing too
            argv = tuple(word.replace(NO_WRITING, WRITING) for word in argv)
        into |= await _run(evolve(jail, argv=argv), app.limits)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, found, walls)
        nursery.start_soon(run, control, at_none)
    return [*_judge(found, app.limits), *_judge_control(control)]


async def _run(jail: Jail, limits: Limits) -> dict[str, Any]:
    """Run the probe and return its report; only `failed`, with the reason, if there is none.

    One that ends without a word was killed, or had no time: that proves nothing, so it runs again.
    """
    for _ in range(TRIES):
        report = await _try(jail, limits)
        if report is not None:
            return report
    return {"failed": "the probe said nothing: nothing on stderr either"}


async def _try(jail: Jail, limits: Limits) -> dict[str, Any] | None:
    """Run the probe once; None if it said nothing at all."""
    with open_traps(limits.memory) as traps:
        said = dict[str, bytes]()
        try:
            with trio.move_on_after(SECONDS):
                async with (
                    open_process(
                        jail.argv, jail.env, {}, user=jail.user, is_wrapped=jail.is_wrapped
                    ) as process,
                    trio.open_nursery() as nursery,
                ):
                    nursery.start_soon(_collect, process.stderr, said, "stderr")
                    with suppress(trio.BrokenResourceError):  # it has ended; stderr has the reason
                        await process.stdin.send_all(json.dumps(traps.told).encode())
                    await process.stdin.aclose()
                    await _collect(process.stdout, said, "stdout")
        except SpawnFailed as error:
            return {"failed": str(error)}
        try:
            report: dict[str, Any] = json.loads(said.get("stdout", b""))
        except ValueError:
            text = said.get("stderr", b"").decode(errors="replace").strip()
            return {"failed": f"the probe said nothing: {text[-500:]}"} if text else None
        report["udp"] = (
            ALLOWED if traps.packet_arrived() else f"{report.get('udp')}, and nothing arrived"
        )
        return report


async def _collect(stream: trio.lowlevel.FdStream, into: dict[str, bytes], name: str) -> None:
    into[name] = b""
    while data := await stream.receive_some(READ):
        into[name] += bytes(data)


def _judge(found: Mapping[str, Any], limits: Limits) -> list[Finding]:
    if "failed" in found:
        return [Finding("probe", "the probe runs in the jail", holds=False, detail=found["failed"])]
    findings = [
        Finding(
            name, text, holds=name in found and found[name] != ALLOWED, detail=str(found.get(name))
        )
        for name, text in GUARANTEES.items()
    ]
    is_recursive_error = found.get("recursion") == "RangeError"
    has_only_ours = set(str(found.get("environment")).split()) <= ENVIRONMENT
    is_user = found.get("user") not in (0, None)
    has_limit = 0 < int(found.get("open_files") or 0) < limits.open_files
    more = (
        ("recursion", "deep recursion is an error of the app", is_recursive_error),
        ("environment", "the environment has nothing but our variables", has_only_ours),
        ("user", "it does not run as root", is_user),
        ("open_files", "descriptors are limited", has_limit),
    )
    return findings + [
        Finding(name, text, holds, str(found.get(name))) for name, text, holds in more
    ]


def _judge_control(control: Mapping[str, Any]) -> list[Finding]:
    """What the probe must be able to do if nothing holds it."""
    if "failed" in control:
        text = "the probe runs at level none"
        return [Finding("control", text, holds=False, detail=control["failed"])]
    blind = [name for name in GUARANTEES if name not in NEVER_SEEN and control.get(name) != ALLOWED]
    text = "the probe can do at level none what the jail denies"
    detail = f"not: {', '.join(blind)}" if blind else "all of it"
    return [Finding("control", text, not blind, detail)]


@define(eq=False)
class Probing:
    """A probe in progress. Made by `open_probing`."""

    _level: Level
    _findings: list[Finding] = field(factory=list, init=False)
    _done: trio.Event = field(factory=trio.Event, init=False)

    async def must_hold(self) -> None:
        """Wait for the end of the probe.

        Raises:
            CannotStart: The jail does not hold all that it should.
        """
        await self._done.wait()
        missed = [f"{one.text}: {one.detail}" for one in self._findings if not one.holds]
        if missed:
            raise CannotStart(
                f"isolation.level = {self._level!r} does not hold on this host:"
                f" {'; '.join(missed)}. `jsbox doctor` says more"
            )

    async def run(self, walls: Walls) -> None:
        """Probe, except at level none, where there is nothing to prove."""
        with fence("probe") as caught:
            if self._level != "none":
                self._findings = await probe(walls)
        if caught.error is not None:  # then nothing is proved
            text = "the probe can be carried out"
            self._findings = [Finding("probe", text, holds=False, detail=cause_of(caught.error))]
        self._done.set()


@asynccontextmanager
async def open_probing(walls: Walls) -> AsyncIterator[Probing]:
    """A probe that runs while the block does other things."""
    async with trio.open_nursery() as nursery:
        probing = Probing(walls.place.level)
        nursery.start_soon(probing.run, walls)
        yield probing
