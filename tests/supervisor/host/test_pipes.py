"""Sending to a child that does not read."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing

from supervisor.errors import SandboxGone
from supervisor.host.lines import LineReader
from supervisor.host.pipes import UNSENT_MAX, Wire
from supervisor.host.process import open_process


async def test_a_sender_that_is_cancelled_leaves_the_rest_to_those_who_wait() -> None:
    """The child reads nothing while one sends and two wait; then the one is cancelled."""
    first, second, third = b"1" * UNSENT_MAX + b"\n", b"2" * UNSENT_MAX + b"\n", b"3\n"
    done = []
    async with open_process(["/bin/cat"], {}, {}) as process:
        wire = Wire(process, LineReader(4 * UNSENT_MAX))

        async def send(line: bytes) -> None:
            await wire.send(line)
            done.append(line[:1])

        # cat blocks as soon as its own stdout is full; from then on nobody gets on.
        async with trio.open_nursery() as nursery:
            writer = trio.CancelScope()

            async def write() -> None:
                with writer:
                    await send(first)

            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked(0.05)
            nursery.start_soon(send, second)  # begins before the third, which would find room
            await trio.testing.wait_all_tasks_blocked(0.05)
            nursery.start_soon(send, third)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert done == []
            writer.cancel()
            received = bytearray()
            while len(received) < len(first) + len(second) + len(third):
                await trio.lowlevel.wait_readable(process.stdout.fileno())
                received += os.read(process.stdout.fileno(), 1 << 16)
            assert bytes(received) == first + second + third
    assert sorted(done) == [b"2", b"3"]


async def test_who_reads_once_the_pipe_is_closed_learns_that_it_is() -> None:
    """As another run in the same process does after the one that had it ended; again and again."""
    async with open_process(["/bin/cat"], {}, {}) as process:
        wire = Wire(process, LineReader(100))
        await process.stdout.aclose()
        for _ in range(3):
            with pytest.raises(SandboxGone, match="stdout was closed"):
                await wire.receive()
