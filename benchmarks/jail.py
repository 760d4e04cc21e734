"""The cost of the jail: `python -m benchmarks.jail`.

Time to the first byte for plain Node.js and each level, interleaved in one run; the memory of warm
idle sandboxes; and the smallest limits at which real apps still work.
"""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import trio
from attrs import evolve

from supervisor.config.model import App, Isolation
from supervisor.config.node import TOOLKITS
from supervisor.config.units import show_size
from supervisor.errors import SandboxFault
from supervisor.jail.argv import Jail
from supervisor.jail.walls import Walls, open_isolation
from supervisor.sandboxes.lifecycle import hold_sandbox
from supervisor.sandboxes.sandbox import Sandbox
from supervisor.service import HARNESS
from tests.apps import NODE, make_app
from tests.integration.test_apps import APPS

STARTS = 40
HELLO = "process.stdout.write('x'); setTimeout(() => {}, 60000);"


def first_byte(argv: tuple[str, ...], jail: Jail) -> float:
    """Milliseconds from the start to the first byte."""
    who = {} if jail.user is None else {"user": jail.user, "group": jail.user, "extra_groups": []}
    began = time.perf_counter()
    with subprocess.Popen(
        argv,
        env=dict(jail.env),
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        **who,
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        taken = (time.perf_counter() - began) * 1000
        process.kill()
    return taken


def starts(walls: dict[str, Walls], hello: Path) -> None:
    """Print the table of starts."""
    ways: dict[str, tuple[tuple[str, ...], Jail]] = {}
    app = make_app("")
    for level, some in walls.items():
        jail = evolve(some, place=evolve(some.place, code=hello.parent, harness=hello.name)).jail(
            app
        )
        ways[level] = jail.argv, jail
    ways["plain node"] = (str(NODE), str(hello)), ways["none"][1]
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(STARTS):
        for name in random.sample(list(ways), len(ways)):
            times[name].append(first_byte(*ways[name]))
    plain = median(times["plain node"])
    print(f"\nstart to first byte, ms, of {STARTS}; ratio to plain node")
    for name in ("plain node", "none", "standard", "strict"):
        found = times[name]
        print(
            f"  {name:12} p50 {median(found):6.1f}  min {min(found):6.1f}  max"
            f" {max(found):6.1f}  x{median(found) / plain:.2f}"
        )


def private(pid: int) -> float:
    """Private megabytes that no file backs: the cost of one more process."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {row.split(":")[0]: int(row.split()[1]) for row in rows}
    return kilobytes["Private_Dirty"] / 1000


async def converse(walls: Walls, app: App, messages: int) -> tuple[float, float]:
    """Private memory of a sandbox after its first message and after `messages`."""

    async def answer(_: object) -> dict[str, object]:
        return {"success": True, "value": None}

    async with trio.open_nursery() as nursery:
        sandbox: Sandbox = await nursery.start(hold_sandbox, app, walls.jail(app))
        try:
            with trio.fail_after(60):
                for n in range(messages):
                    payload: dict[str, object] = {
                        "message_id": f"m{n}",
                        "content": None,
                        "from_addr": "+27",
                        "session_event": "new",
                    }
                    await sandbox.deliver(f"r{n}", "message", payload, app.limits, answer)
                    if not n:
                        first = private(sandbox.process.inner)
            return first, private(sandbox.process.inner)
        finally:
            sandbox.end()


async def memory(walls: dict[str, Walls]) -> None:
    print("\nprivate memory of a warm idle sandbox, MB: after the first message, after 10,000")
    survey = (APPS / "survey_v02.js").read_text()
    for label, source in (
        ("no toolkit", "api.on_inbound_message = function () { api.done(); };"),
        ("vumigo_v02 app", survey),
    ):
        app = evolve(make_app(source + "// api.on_"), modules=("vumigo_v01", *TOOLKITS))
        for level in ("none", "standard", "strict"):
            first, last = await converse(walls[level], app, 10_000 if level == "standard" else 10)
            print(
                f"  {label:16} {level:10} {first:5.1f} {last:5.1f}"
                + ("" if level == "standard" else "  (after 10)")
            )


LIMITS = {
    "heap": (1 << 20, 64),
    "memory": (4 << 20, 64),
    "stack": (16 << 10, 54),
    "open_files": (1, 64),
}
"""By limit, the step in which it is tried and the largest number of steps."""


async def smallest(walls: Walls) -> None:
    print(
        "\nthe smallest limit at which each app still answers 20 messages (level standard, all"
        " others at their defaults)"
    )
    for file in sorted(APPS.glob("*.js")):
        app = evolve(make_app(file.read_text() + "// api.on_"), modules=("vumigo_v01", *TOOLKITS))
        found = [f"{name} {await _least(walls, app, name)}" for name in LIMITS]
        print(f"  {file.stem:20}", ", ".join(found), flush=True)


async def _least(walls: Walls, app: App, name: str) -> str:
    step, high = LIMITS[name]
    low = 1
    while low < high:
        middle = (low + high) // 2
        answers = await _answers(
            walls, evolve(app, limits=evolve(app.limits, **{name: middle * step}))
        )
        low, high = (low, middle) if answers else (middle + 1, high)
    return show_size(high * step) if step > 1 else str(high)


async def _answers(walls: Walls, app: App) -> bool:
    try:
        await converse(walls, app, 20)
    except (SandboxFault, trio.TooSlowError):
        return False
    except BaseExceptionGroup as group:
        if group.split((SandboxFault, trio.TooSlowError))[1] is not None:
            raise
        return False
    return True


def make_hello(folder: Path) -> Path:
    folder.chmod(0o755)
    hello = folder / "hello.js"
    hello.write_text(HELLO)
    hello.chmod(0o644)
    return hello


async def main() -> None:
    with ExitStack() as stack, tempfile.TemporaryDirectory() as name:
        hello = make_hello(Path(name))
        walls = {
            level: stack.enter_context(open_isolation(Isolation(level), NODE, HARNESS))
            for level in ("none", "standard", "strict")
        }
        starts(walls, hello)
        await memory(walls)
        await smallest(walls["standard"])


if __name__ == "__main__":
    trio.run(main)
