"""Programs that need a terminal: what they write is read, and keys are typed."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import define

from .programs import COMMAND_SECONDS


@define(eq=False)
class Terminal:
    """A program in a terminal of its own. Made by `terminal`.

    Attributes:
        inside: The program's end; `modes`: its modes before the program began.
        text: What the program wrote, as far as it was not looked for yet.
    """

    process: subprocess.Popen[bytes]
    descriptor: int
    inside: int
    modes: list[Any]
    text: str = ""

    def types(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def until(self, part: str) -> None:
        """Read until a text has come, and forget everything up to it."""
        deadline = time.monotonic() + COMMAND_SECONDS
        while part not in self.text:
            assert time.monotonic() < deadline, f"{part!r} is not in {self.text!r}"
            assert self.process.poll() is None, self.text
            self._read(1.0)
        self.text = self.text.partition(part)[2]

    def rest(self) -> str:
        while self._read(0.0):
            pass
        return self.text

    def _read(self, seconds: float) -> bool:
        is_there = bool(select.select([self.descriptor], [], [], seconds)[0])
        if is_there:
            data = os.read(self.descriptor, 1 << 16).decode("utf-8", "replace")
            self.text += data.replace("\r\n", "\n")
        return is_there


@contextmanager
def terminal(argv: list[str]) -> Iterator[Terminal]:
    """Run a program in a terminal of its own."""
    descriptor, inside = pty.openpty()
    modes = termios.tcgetattr(inside)
    process = subprocess.Popen(
        argv,
        stdin=inside,
        stdout=inside,
        stderr=inside,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"},
        start_new_session=True,
    )
    try:
        yield Terminal(process, descriptor, inside, modes)
    finally:
        process.kill()
        process.wait()
        os.close(descriptor)
        os.close(inside)
