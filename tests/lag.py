"""How long the event loop is held: measured from within it, in CPU time, so that other programs on
the machine do not count.
"""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.lowlevel
from attrs import define


@define
class Lag:
    """Of the time measured: the longest pass of the loop in seconds of its thread's CPU, how many
    passes there were, and the seconds of CPU that the whole process used.
    """

    longest: float = 0.0
    passes: int = 0
    cpu: float = 0.0


@asynccontextmanager
async def lag(*, clean: bool = True) -> AsyncIterator[Lag]:
    """Measure the passes of the loop while the block runs: the watching task has a turn in each of
    them, so the loop never rests. `clean`: collect garbage before, which takes a tenth of a second.
    """
    measured = Lag()

    async def watch() -> None:
        last = time.thread_time()
        while True:
            await trio.lowlevel.checkpoint()
            now = time.thread_time()
            measured.longest = max(measured.longest, now - last)
            measured.passes += 1
            last = now

    if clean:
        gc.collect()
    gc.disable()  # a collection looks at everything that the other tests have left
    began = time.process_time()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            yield measured
            nursery.cancel_scope.cancel()
    finally:
        gc.enable()
        measured.cpu = time.process_time() - began


def step_bound() -> float:
    """Seconds of CPU that a step may take: 50 ms, or more on a slow machine, by a loop that always
    is the same.
    """
    shortest = 1.0
    for _ in range(3):
        began = time.thread_time()
        for _ in range(20_000):
            pass
        shortest = min(shortest, time.thread_time() - began)
    return max(0.05, 50 * shortest)
