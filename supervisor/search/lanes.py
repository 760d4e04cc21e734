"""The ways to the workers of a search process: each has two pipes of its own.

So a question is written by the task that asks and read by the worker that is free, and the answer
is read by the task that waits for it. Nobody in between is woken up, here or there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack

import trio
from attrs import define, field

from ..errors import SandboxGone
from ..host.lines import LineReader
from ..host.process import SpawnFailed, open_pipe

READ = 128 << 10  # bytes at a time; for a larger buffer the allocator asks the kernel, each time
READS_MAX = 8  # without letting other tasks run


@define(eq=False)
class Lane:
    """A worker's pipes, from our side. One question at a time.

    `send` and `receive` raise SandboxGone if either side is closed, and can be called again after a
    cancellation.
    """

    _writes: trio.lowlevel.FdStream
    _reads: trio.lowlevel.FdStream
    _lines: LineReader
    _unsent: memoryview = field(default=memoryview(b""), init=False)

    async def send(self, line: bytes = b"") -> None:
        """Send a line; without one, the rest of the last."""
        self._unsent = memoryview(line) if line else self._unsent
        while self._unsent:
            try:
                try:
                    self._unsent = self._unsent[os.write(self._writes.fileno(), self._unsent) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._writes.fileno())
            except (OSError, trio.ClosedResourceError) as error:
                raise SandboxGone("its pipe was closed") from error

    async def receive(self) -> list[bytes]:
        """Wait for the next lines, at least one. Raises ProtocolViolation: one is too long."""
        while True:
            reading = self._reads.fileno()
            if reading < 0:  # Trio must not wait for such a number
                raise SandboxGone("its pipe was closed")
            try:
                await trio.lowlevel.wait_readable(reading)
                data = self._read()
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError) as error:
                raise SandboxGone("its pipe was closed") from error
            if not data:
                raise SandboxGone("its pipe was closed")
            if lines := self._lines.feed(data):
                return lines

    def _read(self) -> bytes:
        """What there is, in one piece of a bounded length; empty at the end."""
        data = os.read(self._reads.fileno(), READ)
        if len(data) < READ:
            return data
        pieces = [data]
        while len(data) == READ and len(pieces) < READS_MAX:
            try:
                data = os.read(self._reads.fileno(), READ)
            except BlockingIOError:
                break
            pieces.append(data)
        return b"".join(pieces)

    def close(self) -> None:
        """Close our side; whoever waits at it is woken up."""
        self._writes.close()
        self._reads.close()

    @property
    def has_rest(self) -> bool:
        """Whether an unfinished line was received."""
        return self._lines.has_rest


def open_lanes(
    ours: ExitStack, theirs: ExitStack, count: int, line_max: int
) -> tuple[Sequence[Lane], Sequence[tuple[int, int]]]:
    """Make lanes; return our sides, and the descriptors that each worker reads from and writes to.
    The stacks close them.

    Raises:
        SpawnFailed: There are no more descriptors.
    """
    lanes, ends = list[Lane](), list[tuple[int, int]]()
    try:
        for _ in range(count):
            reads, to_worker = open_pipe(ours, theirs, child_reads=True)
            writes, from_worker = open_pipe(ours, theirs, child_reads=False)
            lanes.append(Lane(to_worker, from_worker, LineReader(line_max)))
            ends.append((reads, writes))
    except OSError as error:
        raise SpawnFailed(f"cannot make pipes: {error.strerror}") from error
    return lanes, ends
