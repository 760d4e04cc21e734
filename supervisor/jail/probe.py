"""Whether the jail holds: a program that tries what must be impossible, run through exactly the
launcher of a level.

Beside it, as a control, the same program runs at level `none`: what it cannot do even there, it
could not have been seen to do, and the probe says that it is blind to it.
"""

from __future__ import annotations

import json
import os
import resource
import socket
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
READ = 64 << 10
ALLOWED = "ALLOWED"
ENVIRONMENT = {"OPENSSL_CONF", "TZ", "UV_THREADPOOL_SIZE", "PWD"}  # the last is bubblewrap's
NO_WRITING, WRITING = (f"{int(resource.RLIMIT_FSIZE)}:{size}:{size}" for size in (0, 1 << 20))
NODES_OWN = ("--permission", "--allow-fs-read", "--no-experimental-sqlite")

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
    "become_root": "no other user can be become",
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
"""What a process at level none may be denied as well, by its user or by the rlimits that hold there too."""


@frozen
class Finding:
    """One guarantee: whether it holds, and what came of the attempt."""

    name: str
    text: str
    holds: bool
    detail: str


@frozen
class Traps:
    """What the probe is told, and whether a packet arrived where none should."""

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
    """A file, a folder and sockets that anybody on the host can reach, and that nobody in a jail
    may.
    """
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
        udp.setblocking(False)  # noqa: FBT003
        path.bind(str(folder / "socket"))
        (folder / "socket").chmod(0o777)
        abstract.bind(f"\0{folder.name}")
        for listener in (path, abstract):
            listener.listen(4)
        yield Traps(
            {
                "file": f"{folder}/file", "folder": str(folder), "parent": os.getpid(), "tcp": tcp.getsockname()[1],
                "udp": udp.getsockname()[1], "path": f"{folder}/socket", "abstract": folder.name, "bytes": memory * 2,
            },
            udp,
        )  # fmt: skip


async def probe(walls: Walls) -> list[Finding]:
    """What holds at the level of these walls, and whether that could have been seen."""
    app = App("jsbox probe", "", Path("/probe"))
    found, control = dict[str, Any](), dict[str, Any]()
    at_none = Walls(evolve(walls.place, level="none"), walls.host, walls.stage, walls.users)

    async def run(into: dict[str, Any], some: Walls) -> None:
        jail = evolve(some, place=evolve(some.place, harness="probe.js")).jail(app)
        # Node's own permissions would answer first: what is asked here is what holds without them.
        argv = tuple(word for word in jail.argv if not word.startswith(NODES_OWN))
        if some is at_none:  # whose resource limits let nothing be written either
            argv = tuple(word.replace(NO_WRITING, WRITING) for word in argv)
        into |= await _run(evolve(jail, argv=argv), app.limits)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, found, walls)
        nursery.start_soon(run, control, at_none)
    return [*_judge(found, app.limits), *_judge_control(control)]


async def _run(jail: Jail, limits: Limits) -> dict[str, Any]:
    """The probe's report; `failed` where there is none."""
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
                    with suppress(trio.BrokenResourceError):  # it has ended; why, is on stderr
                        await process.stdin.send_all(json.dumps(traps.told).encode())
                    await process.stdin.aclose()
                    await _collect(process.stdout, said, "stdout")
        except SpawnFailed as error:
            return {"failed": str(error)}
        try:
            report: dict[str, Any] = json.loads(said.get("stdout", b""))
        except ValueError:
            text = said.get("stderr", b"").decode(errors="replace").strip()
            return {
                "failed": f"the probe said nothing: {text[-500:] or 'nothing on stderr either'}"
            }
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
    more = (
        (
            "recursion",
            "deep recursion is an error of the app's",
            found.get("recursion") == "RangeError",
        ),
        (
            "environment",
            "the environment is empty but for ours",
            set(str(found.get("environment")).split()) <= ENVIRONMENT,
        ),
        ("user", "it does not run as root", found.get("user") not in (0, None)),
        (
            "open_files",
            "descriptors are limited",
            0 < int(found.get("open_files") or 0) < limits.open_files,
        ),
    )
    return findings + [
        Finding(name, text, holds, str(found.get(name))) for name, text, holds in more
    ]


def _judge_control(control: Mapping[str, Any]) -> list[Finding]:
    """What the probe must be able to do where nothing holds it."""
    if "failed" in control:
        return [
            Finding(
                "control", "the probe runs at level none", holds=False, detail=control["failed"]
            )
        ]
    blind = [name for name in GUARANTEES if name not in NEVER_SEEN and control.get(name) != ALLOWED]
    text = "the probe does at level none what the jail denies it"
    return [
        Finding("control", text, not blind, f"not: {', '.join(blind)}" if blind else "all of it")
    ]


@define(eq=False)
class Probing:
    """A probe under way. Made by `open_probing`."""

    _level: Level
    _findings: list[Finding] = field(factory=list, init=False)
    _done: trio.Event = field(factory=trio.Event, init=False)

    async def must_hold(self) -> None:
        """Wait for its end.

        Raises:
            CannotStart: The jail does not hold what it is to hold.
        """
        await self._done.wait()
        missed = [f"{one.text}: {one.detail}" for one in self._findings if not one.holds]
        if missed:
            raise CannotStart(
                f"isolation.level = {self._level!r} does not hold on this host: {'; '.join(missed)}. `jsbox doctor` says more"
            )

    async def run(self, walls: Walls) -> None:
        """Probe; at level none there is nothing to hold."""
        with fence("probe") as caught:
            if self._level != "none":
                self._findings = await probe(walls)
        if caught.error is not None:  # what was not seen to hold does not
            text = "the probe can be carried out"
            self._findings = [Finding("probe", text, holds=False, detail=cause_of(caught.error))]
        self._done.set()


@asynccontextmanager
async def open_probing(walls: Walls) -> AsyncIterator[Probing]:
    """A probe that goes on beside whatever else there is to do."""
    async with trio.open_nursery() as nursery:
        probing = Probing(walls.place.level)
        nursery.start_soon(probing.run, walls)
        yield probing
