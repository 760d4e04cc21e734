"""Lines over a child's pipes: reads are bounded and counted, and one task writes at a time."""

from __future__ import annotations

import os
from contextlib import suppress

import trio
from attrs import define, field

from ..errors import SandboxGone
from .lines import LineReader
from .process import Process

READ = 64 << 10  # bytes at a time: what a pipe holds
UNSENT_MAX = 1 << 20  # bytes; beyond that, whoever sends waits: the child does not read


@define(eq=False)
class Wire:
    """Both directions. `received` counts the bytes that came since `begin_run`."""

    _process: Process
    _reader: LineReader
    _read: int = READ  # bytes at a time
    received: int = field(default=0, init=False)
    _unsent: bytearray = field(factory=bytearray, init=False)
    _writing: bool = field(default=False, init=False)
    _drained: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)

    def begin_run(self, line_max: int) -> None:
        """Count from 0 again, and allow lines of at most `line_max` bytes."""
        self.received = 0
        self._reader.line_max = line_max

    async def receive(self) -> list[bytes]:
        """Wait for the next lines, at least one.

        Raises:
            SandboxGone: There will be no more.
            ProtocolViolation: A line is too long.
        """
        stdout = self._process.stdout.fileno()
        if stdout < 0:  # Trio must not wait for such a number
            raise SandboxGone("stdout was closed")
        while True:
            try:
                # As FdStream does it, but without first trying to read when nothing is there yet.
                await trio.lowlevel.wait_readable(stdout)
                data = os.read(stdout, self._read)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError) as error:
                raise SandboxGone("stdout broke") from error
            if not data:
                raise SandboxGone("stdout was closed")
            self.received += len(data)
            if lines := self._reader.feed(data):
                return lines

    @property
    def has_rest(self) -> bool:
        """Whether an unfinished line was received."""
        return self._reader.has_rest

    def has_stray(self) -> bool:
        """Whether anything arrived between two runs, or the pipe is closed."""
        if self._reader.has_rest:
            return True
        try:
            os.read(self._process.stdout.fileno(), 4096)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    @property
    def is_full(self) -> bool:
        """Whether the child has left more than `UNSENT_MAX` bytes unread."""
        return len(self._unsent) > UNSENT_MAX

    def push(self, line: bytes) -> None:
        """Queue a line; it goes out with the next one that is sent."""
        self._unsent += line

    def send_pushed(self) -> bool:
        """Send as much of what was pushed as can be sent without waiting; return False if some is
        left that no other task is sending.
        """
        if self._unsent and not self._writing:
            with suppress(OSError):  # whoever sends the rest will get the error
                del self._unsent[: os.write(self._process.stdin.fileno(), self._unsent)]
            return not self._unsent
        return True

    async def send(self, line: bytes) -> None:
        """Send a line; lines sent at the same time go out together.

        Raises:
            SandboxGone: The child reads no more.
        """
        self._unsent += line
        while self._writing:
            if not self.is_full:
                return
            # Woken by what was written, and by a writer that was cancelled or failed: then the
            # rest is ours to write.
            await self._drained.park()
        if self._unsent:
            await self._write_all()

    async def _write_all(self) -> None:
        self._writing = True
        try:
            # Commands that went to the store together are answered in one pass of the event loop:
            # their answers are one write, and the child wakes up once.
            await trio.lowlevel.cancel_shielded_checkpoint()
            stdin = self._process.stdin.fileno()
            while self._unsent:
                try:
                    del self._unsent[: os.write(stdin, self._unsent)]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(stdin)
                self._drained.unpark_all()
        except (OSError, trio.ClosedResourceError) as error:
            raise SandboxGone("stdin was closed") from error
        finally:
            self._writing = False
            self._drained.unpark_all()
