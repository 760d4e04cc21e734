"""The apps' logs on the service's standard output, for journald or whoever ships logs.

Whoever reads there may be slow, or gone: a thread of its own writes, the service never waits for
it. What it cannot write is dropped and counted, and a line in its place says how much.

A line is one entry, or begins with four spaces and belongs to the entry above: no text of an app
can look like another entry. Lines are shorter than those that journald and Docker cut in two.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from errno import EBADF, EIO, EPIPE
from threading import Condition, Thread
from typing import Literal

import msgspec
import trio
from attrs import define, field

from resources.stores.logbook import Logbook, LogEntry
from resources.text import visible, visible_json

WAITING_MAX = 4 << 20  # characters of messages that wait to be written; more is dropped
BATCH = 64 << 10  # characters of messages that are written in one go
LINE_MAX = 15_000  # bytes of a line; Docker cuts at 16 KiB, journald at 48 KiB
PIECE = 3_500  # characters of a line of text, of 4 bytes at most
OVERHEAD = 200  # counted for an entry, besides its message
INDENT = "    "
FLUSH_SECONDS = 1.0  # at the end, for what still waits
RETRY_SECONDS = 1.0  # after an error that may pass, such as a full disk
CLOSED = (EPIPE, EBADF, EIO)  # nobody reads any more

Form = Literal["text", "json"]

log = logging.getLogger(__name__)


@define
class _Line:
    """An entry to be written; with `dropped`, it stands for that many that were not taken."""

    form: Form
    account: str
    app: str
    entry: LogEntry
    dropped: int = 0

    @property
    def size(self) -> int:
        return len(self.entry.message) + OVERHEAD


@define(eq=False)
class LogWriter:
    """Writes entries to a file descriptor. Made by `open_log_writer`.

    Attributes:
        form: How they are written from now on; the config's log.stdout.
        dropped: Entries that were not written, since the start.
        problem: Why the newest were not written; empty if they were.
    """

    _descriptor: int | None
    form: Literal["off", "text", "json"] = field(default="off", init=False)
    dropped: int = field(default=0, init=False)
    problem: str = field(default="", init=False)
    _waiting: deque[_Line] = field(factory=deque, init=False)
    _size: int = field(default=0, init=False)
    _is_writing: bool = field(default=False, init=False)
    _is_closed: bool = field(default=False, init=False)
    _is_torn: bool = field(default=False, init=False)  # the last line written is not whole
    _change: Condition = field(factory=Condition, init=False)
    _thread: Thread | None = field(default=None, init=False)

    def follow(self, logbook: Logbook, form: Literal["off", "text", "json"]) -> None:
        """Write what is logged from now on."""
        self.form = form
        logbook.listeners.append(self.put)

    def put(self, account: str, app: str, entry: LogEntry) -> None:
        """Have an entry written soon, or drop it; never waits."""
        if self.form == "off":
            return
        line = _Line(self.form, account, app, entry)
        with self._change:
            if self._thread is None:
                self._start()
            if self._is_closed:
                self.dropped += 1
            elif self._size + line.size > WAITING_MAX:
                self._drop(line)
            else:
                self._waiting.append(line)
                self._size += line.size
            self._change.notify_all()

    def _start(self) -> None:
        self._thread = Thread(target=self._run, name="app logs", daemon=True)
        why = "standard output is closed"
        if self._descriptor is not None:
            try:
                self._thread.start()
            except RuntimeError as error:  # the host gives us no more threads
                why = str(error)
            else:
                return
        self._is_closed = True
        self.problem = f"the apps' logs cannot be printed: {why}"
        log.warning(self.problem)

    def _drop(self, line: _Line) -> None:
        self.dropped += 1
        last = self._waiting[-1] if self._waiting else None
        if last is None or not last.dropped:
            entry = LogEntry(line.entry.time, "WARNING", "")
            last = _Line(line.form, "", "", entry)
            self._waiting.append(last)
            self._size += last.size
        last.dropped += 1

    async def flush(self, seconds: float) -> None:
        """Wait until all is written, but not for longer. Cannot be cancelled."""

        def wait() -> None:
            with self._change:
                self._change.wait_for(lambda: not self._waiting and not self._is_writing, seconds)

        if self._thread is not None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(wait)

    def _run(self) -> None:
        while True:
            with self._change:
                self._is_writing = False
                self._change.notify_all()
                self._change.wait_for(lambda: self._waiting)
                lines = self._take()
                self._is_writing = True
            try:
                self._write(b"".join(map(_bytes, lines)))
                self.problem = ""
            except OSError as error:
                self._failed(error, lines)

    def _take(self) -> list[_Line]:
        lines, size = list[_Line](), 0
        while self._waiting and size < BATCH:
            lines.append(self._waiting.popleft())
            size += lines[-1].size
        self._size -= size
        return lines

    def _write(self, data: bytes) -> None:
        assert self._descriptor is not None
        left = memoryview(b"\n" + data if self._is_torn else data)
        while left:
            try:
                written = os.write(self._descriptor, left)
            except BlockingIOError:  # whoever gave it to us made it so
                ready = select.poll()
                ready.register(self._descriptor, select.POLLOUT)
                ready.poll()
                continue
            self._is_torn = written < len(left)
            left = left[written:]

    def _failed(self, error: OSError, lines: list[_Line]) -> None:
        """Count what may not have been written; give up if nobody reads any more."""
        with self._change:
            if error.errno in CLOSED:
                self._is_closed = True
                lines = [*lines, *self._waiting]
                self._waiting.clear()
                self._size = 0
            # an entry that stands for dropped ones: they are counted already
            self.dropped += sum(not line.dropped for line in lines)
        self.problem = f"lines of the apps' logs were not printed: standard output: {error}"
        log.warning(self.problem)
        if error.errno not in CLOSED:
            time.sleep(RETRY_SECONDS)


def _bytes(line: _Line) -> bytes:
    entry = line.entry
    if line.dropped:
        what = f"{line.dropped} entries of the apps' logs were dropped here: they came faster than"
        entry = LogEntry(entry.time, entry.level, f"{what} standard output was read")
    text = _json(line, entry) if line.form == "json" else _text(line, entry)
    return text.encode() + b"\n"


def _text(line: _Line, entry: LogEntry) -> str:
    pieces = list[str]()
    for one in entry.message.split("\n"):
        shown = visible(one, keep="\t")
        pieces += [shown[start : start + PIECE] for start in range(0, len(shown) or 1, PIECE)]
    head = f"{entry.time} {line.app or '-'} {entry.level} "
    return head + f"\n{INDENT}".join(pieces)


def _json(line: _Line, entry: LogEntry) -> str:
    message, left_out = entry.message, 0
    while True:
        found: dict[str, str | int] = {
            "time": entry.time,
            "app": line.app,
            "account": line.account,
            "level": entry.level,
            "message": message,
        }
        found |= {"left_out": left_out} if left_out else {}
        found |= {"dropped": line.dropped} if line.dropped else {}
        text = visible_json(msgspec.json.encode(found).decode())
        if len(text.encode()) <= LINE_MAX:
            return text
        message = message[: len(message) * 3 // 4]
        left_out = len(entry.message) - len(message)


@asynccontextmanager
async def open_log_writer() -> AsyncIterator[LogWriter]:
    """A writer to standard output. At the end it gets a moment to write what waits."""
    # Without standard output, descriptor 1 is some other file of ours.
    writer = LogWriter(None if sys.__stdout__ is None else sys.__stdout__.fileno())
    try:
        yield writer
    finally:
        await writer.flush(FLUSH_SECONDS)
