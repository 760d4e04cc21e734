"""The pipelining Redis client against a worker thread per command, in one run:
`python -m benchmarks.redis_client`.

Both send GETs to the same real Valkey from the same Trio program, with the same number of callers.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import redis
import trio

from resources.stores.redis import open_redis
from tests.valkey_server import valkey_server

SECONDS = 0.5
ROUNDS = 5
CALLERS = (1, 8, 32, 128)

Ask = Callable[[], Awaitable[object]]


async def _rate(ask: Ask, callers: int) -> tuple[float, float]:
    """Commands per second, and microseconds of this process's CPU time per command."""
    done = 0

    async def caller() -> None:
        nonlocal done
        while True:
            await ask()
            done += 1

    cpu, wall = time.process_time(), time.perf_counter()
    with trio.move_on_after(SECONDS):
        async with trio.open_nursery() as nursery:
            for _ in range(callers):
                nursery.start_soon(caller)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return done / wall, cpu / done * 1e6


async def compare(url: str, callers: int) -> dict[str, tuple[float, float]]:
    """The median rate and CPU time of both ways, measured alternately."""
    client = redis.Redis.from_url(url)
    limiter = trio.CapacityLimiter(40)
    samples: dict[str, list[tuple[float, float]]] = {"gathered": [], "thread per command": []}
    async with open_redis(url) as gathered:
        await gathered.execute("SET", "key", "x" * 200)
        ways: dict[str, Ask] = {
            "gathered": lambda: gathered.execute("GET", "key"),
            "thread per command": lambda: trio.to_thread.run_sync(
                client.get, "key", limiter=limiter
            ),
        }
        for _ in range(ROUNDS):
            for name, ask in ways.items():
                samples[name].append(await _rate(ask, callers))
    client.close()
    return {
        name: (median(rate for rate, _ in found), median(cpu for _, cpu in found))
        for name, found in samples.items()
    }


async def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder, valkey_server(Path(folder)) as server:
        print(f"{'callers':>8} {'gathered':>20} {'thread per command':>22} {'ratio':>7}")
        for callers in CALLERS:
            found = await compare(server.url, callers)
            (rate, cpu), (slow_rate, slow_cpu) = found["gathered"], found["thread per command"]
            print(
                f"{callers:>8} {rate:>9.0f}/s {cpu:>5.0f} us {slow_rate:>11.0f}/s"
                f" {slow_cpu:>5.0f} us {rate / slow_rate:>6.1f}x"
            )


if __name__ == "__main__":
    trio.run(main)
