"""What one app's attack does to another app: `python -m benchmarks.neighbours [SECONDS]`.

A toolkit app (a v02 menu with 7 commands per message) gets messages at a steady rate; latencies
count from when each was due. It runs first alone, then beside another account's app that does one
bad thing for every message, from many users at once. The supervisor's loop lag and memory are
watched throughout.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

import httpx2
import trio
from attrs import define, field

from tests.gateway_client import Client, connect
from tests.integration.test_apps import APPS
from tests.programs import Server, serve
from tests.service import Folder

RATE = 20.0  # messages per second of the watched app
ATTACKERS = 8  # users of the attacking app; each sends again as soon as the last message is over
ATTACKS = {
    "cpu": "for (;;) {}",
    "memory": "var a = []; for (;;) a.push(new Array(1000).join(a.length));",
    "output": "for (;;) api.log_info(new Array(10000).join('x'));",
    "commands": "for (;;) api.request('kv.incr', {key: 'k'});",
    "recursion, caught": "function f() { try { f(); } catch (e) { f(); } } f();",
    "slow drip": (
        "var n = 0; function more() { n += 1; api.log_info('' + n, function () {"
        " more(); }); } more();"
    ),
    "flood": (
        "api.request('outbound.reply_to', {content: 'x', in_reply_to:"
        " command.msg.message_id}, function () { api.done(); });"
    ),
    "crash": "throw new Error('no');",
}


@define
class Sample:
    """Latencies of the watched app and lags of the loop in ms, and the supervisor's memory."""

    latencies: list[float] = field(factory=list)
    lags: list[float] = field(factory=list)
    outcomes: int = 0
    rss: int = 0

    def row(self, label: str, quiet: float) -> str:
        p99 = quantiles(self.latencies, n=100)[98]
        lag = quantiles(self.lags, n=100)[98]
        return (
            f"{label:20}{median(self.latencies):>9.1f}{p99:>9.1f}{p99 / quiet:>9.1f}x{lag:>10.1f}"
            f"{max(self.lags):>9.1f}{self.rss / (1 << 20):>9.0f}{self.outcomes:>9}"
        )


async def watch(client: Client, sample: Sample, seconds: float) -> None:
    """Send each message when it is due, whatever became of earlier ones."""
    async with trio.open_nursery() as nursery:
        begin = trio.current_time()
        for n in range(int(seconds * RATE)):
            due = begin + n / RATE
            await trio.sleep_until(due)
            nursery.start_soon(_one, client, n, due, sample)


async def _one(client: Client, n: int, due: float, sample: Sample) -> None:
    outcome, _ = await client.say(None, "new", seconds=60, from_addr=f"+27{n % 50}")
    assert outcome["outcome"] == "ok", outcome
    sample.latencies.append((trio.current_time() - due) * 1000)


async def attack(url: str, user: int, sample: Sample) -> None:
    async with connect(url, "bad") as client:
        while True:
            await client.say("x", seconds=60, from_addr=f"bad{user}")
            sample.outcomes += 1
            client.frames.clear()


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def look(server: Server, sample: Sample) -> None:
    """Sample the server's loop lag and memory."""
    async with httpx2.AsyncClient(base_url=server.admin, trust_env=False) as admin:
        while True:
            found = re.search(
                r"^jsbox_loop_lag_seconds (\S+)", (await admin.get("/metrics")).text, re.MULTILINE
            )
            assert found is not None
            sample.lags.append(float(found[1]) * 1000)
            sample.rss = resident(server.process.pid)
            await trio.sleep(0.25)


@contextmanager
def service(javascript: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as name:
        folder = Folder(Path(name))
        # the app of the conversation tests
        survey = (APPS / "survey_v02.js").read_text() + "// api.on_"
        folder.app(
            "good", survey, 'config = { config = \'{"name": "survey"}\' }\npool = { min_idle = 1 }'
        )
        folder.app("bad", javascript, 'limits = { wall = "3s", cpu = "1s" }', account="other")
        with serve(folder.config) as server:
            yield server


async def measure(javascript: str | None, seconds: float) -> Sample:
    sample = Sample()
    with service(javascript or "api.done();") as server:
        async with connect(server.gateway, "good") as client, trio.open_nursery() as nursery:
            await watch(client, Sample(), 2)
            nursery.start_soon(look, server, sample)
            if javascript is not None:
                for user in range(ATTACKERS):
                    nursery.start_soon(attack, server.gateway, user, sample)
                await trio.sleep(1)
            await watch(client, sample, seconds)
            nursery.cancel_scope.cancel()
    return sample


async def main(seconds: float) -> None:
    print(
        f"{RATE:g} messages/s for {seconds:g} s, beside {ATTACKERS} users of the attacker; ms;"
        f" {time.ctime()}"
    )
    print(
        f"{'beside':20}{'p50':>9}{'p99':>9}{'of quiet':>10}"
        f"{'lag p99':>10}{'lag max':>9}{'RSS MiB':>9}{'attacks':>9}"
    )
    alone = await measure(None, seconds)
    quiet = quantiles(alone.latencies, n=100)[98]
    print(alone.row("alone", quiet), flush=True)
    for label, javascript in ATTACKS.items():
        print((await measure(javascript, seconds)).row(label, quiet), flush=True)


if __name__ == "__main__":
    trio.run(main, float(sys.argv[1]) if len(sys.argv) > 1 else 20.0)
