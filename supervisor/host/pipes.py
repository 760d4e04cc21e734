"""Lines over the pipes of a sandbox: reading bounded and counted, writing by one writer at a time."""

from __future__ import annotations

import os
from contextlib import suppress

import trio
from attrs import define, field

from ..errors import SandboxGone
from .lines import LineReader
from .process import Process

READ = 64 << 10  # bytes at once: what a pipe holds
UNSENT_MAX = 1 << 20  # bytes; more, and whoever answers waits: the app does not read


@define(eq=False)
class Wire:
    """Both directions, reading so many bytes at once. `received` counts the bytes that came since
    the run began.
    """

    _process: Process
    _reader: LineReader
    _read: int = READ
    received: int = field(default=0, init=False)
    _unsent: bytearray = field(factory=bytearray, init=False)
    _writing: bool = field(default=False, init=False)
    _drained: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)

    def begin_run(self, line_max: int) -> None:
        """Count from 0, and let no line be longer than `line_max` bytes."""
        self.received = 0
        self._reader.line_max = line_max

    async def receive(self) -> list[bytes]:
        """The next lines, at least one.

        Raises:
            SandboxGone: There will be no more.
            ProtocolViolation: A line is too long.
        """
        stdout = self._process.stdout.fileno()
        while True:
            try:
                # What FdStream does, without the attempt to read before there is anything.
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
        """Whether a line has begun that has not ended."""
        return self._reader.has_rest

    def has_stray(self) -> bool:
        """Whether anything came that belongs to no run, or the pipe is closed."""
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
        """Whether as much waits to be read by the app as may."""
        return len(self._unsent) > UNSENT_MAX

    def push(self, line: bytes) -> None:
        """Have a line go out with the next that is sent."""
        self._unsent += line

    def send_pushed(self) -> bool:
        """Send what was pushed as far as that takes no waiting. False where something is left that
        nobody is sending.
        """
        if self._unsent and not self._writing:
            with suppress(OSError):  # whoever sends the rest finds out
                del self._unsent[: os.write(self._process.stdin.fileno(), self._unsent)]
            return not self._unsent
        return True

    async def send(self, line: bytes) -> None:
        """Send a line; lines that are sent at the same time go out together.

        Raises:
            SandboxGone: Nobody reads any more.
        """
        self._unsent += line
        if self._writing:
            if self.is_full:
                await self._drained.park()
            return
        self._writing = True
        try:
            # Commands that went to the store together are answered in one turn of the loop: their
            # lines are one write, and the app's process wakes up once.
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
