"""Prints the tables; see the package."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import httpx2
import trio

from tests.gateway_client import connect
from tests.programs import Server, serve
from tests.service import Folder

from .measure import (
    CORES,
    add_survey,
    cpu_of,
    drive,
    plain,
    private_dirty,
    spawned,
    survey,
)

SECONDS = 4.0
USERS = 16


def middle(values: Sequence[float], shape: str = ".3g") -> str:
    """The median, with the minimum and maximum."""
    return f"{median(values):{shape}} ({min(values):{shape}} to {max(values):{shape}})"


def throughput(rounds: int) -> None:
    """Throughput against plain Node on the same cores and a process per message; the use of CPU
    time; latency at half load.
    """
    rows: dict[str, list[float]] = {}

    def note(**values: float) -> None:
        for name, value in values.items():
            rows.setdefault(name, []).append(value)

    with survey() as server:
        drive(server, USERS, 3)
        for _ in range(rounds):
            bare = plain(CORES, SECONDS)
            before = cpu_of(server)
            found = drive(server, USERS, SECONDS)
            after = cpu_of(server)
            rate, messages = found["messages"] / found["seconds"], found["messages"]
            cpu = {name: (after[name] - before[name]) / messages for name in after}
            one = plain(1, SECONDS / 2)
            light = drive(server, 1, SECONDS / 2)
            half = drive(server, 50, SECONDS, rate / 2)
            each = spawned(SECONDS / 2)
            note(
                plain=bare.rate,
                jsbox=rate,
                of_plain=rate / bare.rate,
                of_spawned=rate / each,
                commands=bare.commands,
                node_cpu=cpu["node"] / bare.cpu,
                supervisor_cpu=cpu["supervisor"] / bare.cpu,
                valkey_cpu=cpu["valkey"] / bare.cpu,
                generator_cpu=found["cpu"] / messages / bare.cpu,
                supervisor_us_a_command=cpu["supervisor"] / bare.commands * 1e6,
                plain_ms=1000 / one.rate,
                one_user_p50_ms=light["p50"] * 1000,
                p50_of_plain=light["p50"] * one.rate,
                half_load_p50_ms=half["p50"] * 1000,
                half_load_p99_ms=half["p99"] * 1000,
            )
    for name, values in rows.items():
        print(f"{name:26} {middle(values)}", flush=True)


LAG_SECONDS = 60.0  # at each load: 240 looks of the supervisor at its own timer
LOADS = (0.5, 0.8, 0.95)  # of the rate that it can do


def lag(rounds: int) -> None:
    """How late the supervisor's event loop is, at parts of the rate that it can do.

    It is asked at the beginning and at the end only: a page of metrics is 8 ms of its CPU time.
    """
    with survey() as server:
        drive(server, USERS, 3)
        for _ in range(rounds):
            most = drive(server, USERS, SECONDS)
            rate = most["messages"] / most["seconds"]
            for load in LOADS:
                before = _lateness_of(server)
                found = drive(server, 50, LAG_SECONDS, rate * load)
                seen = _lateness_of(server) - before
                shares = ", ".join(
                    f"{_share_within(bound, seen):.2%} within {bound * 1000:g} ms"
                    for bound in (0.001, 0.0025, 0.005, 0.01, 0.025)
                )
                print(
                    (
                        f"at {load:.0%} of {rate:.0f} messages/s: the loop's timer {shares}, of"
                        f" {seen[ALL]}; replies p50 {found['p50'] * 1000:.1f} ms, p99"
                        f" {found['p99'] * 1000:.1f}"
                    ),
                    flush=True,
                )


ALL = float("inf")


def _lateness_of(server: Server) -> Counter[float]:
    """How often the supervisor's timer was at most that late, by the seconds of each bucket."""
    text = httpx2.get(f"{server.admin}/metrics", trust_env=False).text
    buckets = re.findall(
        r'^jsbox_loop_lateness_seconds_bucket{le="(\S+)"} (\S+)', text, re.MULTILINE
    )
    assert buckets, "no jsbox_loop_lateness_seconds in /metrics"
    return Counter({float(bound): int(float(count)) for bound, count in buckets})


def _share_within(bound: float, seen: Counter[float]) -> float:
    return seen[bound] / seen[ALL]


def first(rounds: int) -> None:
    """The first reply of an app without a process, with and without a spare process."""
    for label, spare in (("a spare ready", 1), ("no spare", 0)):
        took = []
        with survey("min_idle = 0", top=f"[node]\nspare = {spare}\n") as server:
            for _ in range(rounds * 3):
                time.sleep(1.2)
                took.append(trio.run(_first_reply, server) * 1000)
        print(f"first reply, {label:16} {middle(took)} ms", flush=True)


async def _first_reply(server: Server) -> float:
    async with httpx2.AsyncClient(base_url=server.admin, trust_env=False) as admin:
        for one in (await admin.get("/v1/sandboxes")).json()["sandboxes"]:
            if one["app"]:
                await admin.post(f"/v1/sandboxes/{one['pid']}/kill")
    await trio.sleep(0.5)
    async with connect(server.gateway, "survey") as client:
        began = trio.current_time()
        await client.send(
            {
                "type": "inbound",
                "id": "x",
                "msg": {
                    "message_id": f"first-{began}",
                    "from_addr": f"+27{began}",
                    "to_addr": "8181",
                    "content": None,
                    "session_event": "new",
                },
            }
        )
        await client.expect("outbound")
        took = trio.current_time() - began
        await client.expect("outcome")
        return took


def memory(_: int) -> None:
    """Private memory of one sandbox over 10,000 messages, and at rest."""
    with survey("min_idle = 1, max_processes = 1, max_messages = 1000000") as server:
        time.sleep(1)
        (pid,) = (one["pid"] for one in _sandboxes(server) if one["app"])
        print(f"messages {0:>6}: {private_dirty(pid):.1f} MiB", flush=True)
        done = 0
        while done < 10_000:
            done += drive(server, 8, 12)["messages"]
            busy = private_dirty(pid)
            time.sleep(6.5)
            print(
                f"messages {done:>6}: {busy:.1f} MiB, at rest {private_dirty(pid):.1f} MiB",
                flush=True,
            )
        assert [one["pid"] for one in _sandboxes(server) if one["app"]] == [pid]


def _sandboxes(server: Server) -> list[dict[str, int]]:
    found: list[dict[str, int]] = httpx2.get(
        f"{server.admin}/v1/sandboxes", trust_env=False
    ).json()["sandboxes"]
    return found


def curves(rounds: int) -> None:
    """The cost of a message as the number of apps, users, log lines and contacts grows."""
    import tempfile

    print("CPU a message of supervisor and Valkey, of plain Node's a message, and p50 of one user")
    for apps in (1, 10, 100, 1000):
        with tempfile.TemporaryDirectory() as name:
            folder = Folder(Path(name))
            for n in range(apps):
                add_survey(folder, f"survey{n or ''}", "min_idle = 2" if n == 0 else "min_idle = 0")
            with serve(folder.config) as server:
                time.sleep(1.5)
                _row(f"{apps} apps", server, rounds)
                assert len([one for one in _sandboxes(server) if one["app"]]) <= 4
    with survey("min_idle = 2", "log = { kept = 100000 }\n") as server:
        time.sleep(1)
        for users in (100, 10_000, 100_000):
            _fill(server, users)
            _row(f"{users} users, log lines, contacts", server, rounds)


PREFIX = "jsbox:{acct}:"


def _fill(server: Server, count: int) -> None:
    """Store `count` users, log lines and contacts for the app's account."""
    import redis

    (socket,) = server.log.parent.rglob("valkey.sock")
    with redis.Redis(unix_socket_path=str(socket)) as store:
        pipe = store.pipeline(transaction=False)
        for n in range(count):
            pipe.set(f"{PREFIX}kv:users.survey.+99{n}", '{"addr": "x"}')
            pipe.lpush(
                f"{PREFIX}log:survey", '{"time":"2026-01-01T00:00:00","level":"INFO","message":"x"}'
            )
            pipe.hset(
                f"{PREFIX}contact:{n:032x}",
                mapping={"created_at": "2026-01-01 00:00:00.000000", "msisdn": f"+27{n}"},
            )
            pipe.zadd(f"{PREFIX}contacts", {f"{n:032x}": n})
            pipe.pfadd(f"{PREFIX}uniques:in:survey", f"+99{n}")
            if n % 1000 == 999:
                pipe.execute()
        pipe.execute()


def _row(label: str, server: Server, rounds: int) -> None:
    drive(server, 4, 2)
    costs, latencies, rates = [], [], []
    for _ in range(rounds):
        bare = plain(CORES, 1.5)
        before = cpu_of(server)
        found = drive(server, 8, SECONDS / 2)
        after = cpu_of(server)
        own = (
            after["supervisor"] + after["valkey"] - before["supervisor"] - before["valkey"]
        ) / found["messages"]
        costs.append(own / bare.cpu)
        rates.append(found["messages"] / found["seconds"] / bare.rate)
        latencies.append(drive(server, 1, SECONDS / 4)["p50"] * 1000)
    print(
        (
            f"{label:34} {middle(costs)}   p50 {middle(latencies)} ms   throughput of plain"
            f" {middle(rates)}"
        ),
        flush=True,
    )


PARTS: dict[str, Callable[[int], None]] = {
    "throughput": throughput,
    "lag": lag,
    "first": first,
    "memory": memory,
    "curves": curves,
}

if __name__ == "__main__":
    arguments = sys.argv[1:]
    rounds = 5
    if arguments[:1] == ["rounds"]:
        rounds, arguments = int(arguments[1]), arguments[2:]
    print(f"{CORES} cores, {rounds} rounds, {time.ctime()}")
    for part in arguments or PARTS:
        PARTS[part](rounds)
