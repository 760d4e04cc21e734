"""The survey app of the tests in Node.js, Deno and workerd, in one process or isolate, or in one
for each message, and in jsbox:
`python -m benchmarks.peers [--deno PROGRAM] [--workerd PROGRAM] [ROUNDS]`.

Without a program there are no rows for it; the npm packages `deno` and `workerd` have theirs in
them. Each round measures all in turn, and gives CPU time as a ratio to plain Node's in that round,
which other work on the machine disturbs least. Prints a table of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from attrs import frozen

from tests.programs import Server

from ..speed.measure import CONFIG, HARNESS, NODE, SURVEY, cpu_of, drive, memory_of, survey
from . import workerd

SECONDS = 3.0  # of each measurement
PLAIN = Path(__file__).parents[1] / "speed" / "plain_node.js"
WORKER = Path(__file__).parent / "worker.cjs"
APP = (str(SURVEY), str(HARNESS), CONFIG)


@frozen
class Use:
    """Messages a second, CPU seconds a message, and MiB of memory at most."""

    rate: float
    cpu: float
    memory: float


@frozen
class Peer:
    """A way to handle messages.

    Attributes:
        keeps: What one message may find of another: what is not made anew.
        measure: Have it handle messages for `SECONDS`.
    """

    name: str
    keeps: str
    measure: Callable[[], Use]


def peers(plain: str, deno: str | None) -> list[Peer]:
    """Those that are programs with the app; the first is what all are compared with. `plain`:
    plain_node.js.
    """
    node, worker = (NODE,), str(WORKER)
    kept, own = "the process, and the toolkit in it", "nothing but the process"
    found = [
        Peer("Node.js, a context a message", kept, partial(_keep, (*node, plain))),
        Peer("the same, `--jitless`", kept, partial(_keep, (*node, "--jitless", plain))),
        Peer("Node.js, a worker a message", own, partial(_keep, (*node, worker, plain))),
        Peer("Node.js, a process a message", "nothing", partial(_spawn_each, (*node, plain))),
    ]
    if deno is not None:
        run = (deno, "run", "--allow-all", "--no-config")
        found += [
            Peer("Deno, a context a message", kept, partial(_keep, (*run, plain))),
            Peer("Deno, a worker a message", own, partial(_keep, (*run, worker, plain))),
            Peer("Deno, a process a message", "nothing", partial(_spawn_each, (*run, plain))),
        ]
    return found


def _keep(argv: tuple[str, ...]) -> Use:
    """A program that goes on."""
    found, _, memory = _run((*argv, *APP, str(SECONDS)))
    messages = found["messages"]
    return Use(messages / found["seconds"], found["cpu"] / messages, memory)


def _spawn_each(argv: tuple[str, ...]) -> Use:
    """A program that is run for each message."""
    seconds, cpu, most, messages = 0.0, 0.0, 0.0, 0
    while seconds < SECONDS:
        began = os.times().elapsed
        _, used, memory = _run((*argv, *APP, "60", "once"))
        seconds += os.times().elapsed - began
        messages, cpu, most = messages + 1, cpu + used, max(most, memory)
    return Use(messages / seconds, cpu / messages, most)


def _run(argv: tuple[str, ...]) -> tuple[dict[str, float], float, float]:
    """Run a program; return what it printed, its CPU seconds and its MiB at most."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(argv, stdout=output)
        _, status, use = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{argv[0]} ended with {process.returncode}")
        output.seek(0)
        found: dict[str, float] = json.loads(
            output.read().splitlines()[-1]
        )  # after its workers' own
    return found, use.ru_utime + use.ru_stime, use.ru_maxrss / 1024


def _in_jsbox(server: Server) -> Use:
    """One user: sandboxes, supervisor and store together."""
    before = cpu_of(server)
    found = drive(server, 1, SECONDS)
    used = sum(cpu_of(server).values()) - sum(before.values())
    rate = found["messages"] / found["seconds"]
    return Use(rate, used / found["messages"], memory_of(server))


def _in_workerd(running: workerd.Workerd, *, is_fresh: bool) -> Use:
    spent = running.handle(SECONDS, is_fresh=is_fresh)
    return Use(spent.messages / spent.seconds, spent.cpu / spent.messages, spent.memory)


def main(deno: str | None, cloud: str | None, rounds: int) -> None:
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory()))
        server = closing.enter_context(survey("min_idle = 1"))
        plain = str(folder / "plain_node.cjs")  # what Deno takes for CommonJS
        shutil.copy(PLAIN, plain)
        found = peers(plain, deno)
        if cloud is not None:
            for name, keeps, is_fresh in WORKERD:
                own = folder / f"workerd{is_fresh}"
                own.mkdir()
                running = closing.enter_context(workerd.serve(cloud, own))
                running.handle_some(workerd.AT_ONCE, is_fresh=False)
                found.append(Peer(name, keeps, partial(_in_workerd, running, is_fresh=is_fresh)))
        kept = "nothing that the harness can tell"
        found.append(Peer("jsbox", kept, partial(_in_jsbox, server)))
        drive(server, 1, SECONDS)
        uses = [[peer.measure() for peer in found] for _ in range(rounds)]
    print("| | a message finds of others | CPU a message | messages/s, one at a time | memory |")
    print("|---|---|---|---|---|")
    for n, peer in enumerate(found):
        ratios = [of_round[n].cpu / of_round[0].cpu for of_round in uses]
        rates = [of_round[n].rate for of_round in uses]
        memory = max(of_round[n].memory for of_round in uses)
        spread = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        rate = f"{statistics.median(rates):.1f}"
        print(f"| {peer.name} | {peer.keeps} | {spread} | {rate} | {memory:.0f} MiB |", flush=True)


# name, what a message finds of others, and whether each has an isolate of its own
WORKERD = (
    ("workerd, the app's function called again", "the isolate: all globals, the toolkit", False),
    ("workerd, an isolate a message", "nothing but the process", True),
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    parser.add_argument("--deno", metavar="PROGRAM")
    parser.add_argument("--workerd", metavar="PROGRAM")
    parser.add_argument("rounds", type=int, nargs="?", default=5)
    options = parser.parse_args()
    main(options.deno, options.workerd, options.rounds)
