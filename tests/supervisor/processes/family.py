"""A parent with children that follow a script: real processes, forked from the test's own, that do
nothing but speak on the line.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from attrs import define

from supervisor.host.systemd import Systemd
from supervisor.processes import line
from supervisor.processes.children import Child
from supervisor.processes.parent import Parent

SECONDS = 60
Script = Callable[[str, socket.socket], int]


@define(eq=False)
class Family:
    """A running parent. What its children note is in `notes`, a line each."""

    pid: int
    port: int
    notes: Path
    log: Path
    _status: int | None = None

    def noted(self, text: str, times: int = 1) -> list[str]:
        """Wait until the children have noted such lines so often; returns them."""
        return self.lines(self.notes, text, times)

    def logged(self, text: str, times: int = 1) -> list[str]:
        """Likewise, the parent's own log."""
        return self.lines(self.log, text, times)

    def lines(self, file: Path, text: str, times: int = 1) -> list[str]:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            found = [one for one in file.read_text().splitlines() if text in one]
            if len(found) >= times:
                return found
            time.sleep(0.005)
        raise AssertionError(f"{text!r} is not there {times} times:\n{file.read_text()}")

    def pid_of(self, name: str, nth: int = 1) -> int:
        """The process id of a child, of its n-th process."""
        return int(self.noted(f"{name} starts as ", nth)[nth - 1].rsplit(" ", 1)[1])

    def connect(self) -> tuple[socket.socket, str]:
        """A connection, and the name of the process that has it."""
        client = socket.create_connection(("127.0.0.1", self.port))
        client.settimeout(SECONDS)
        return client, client.recv(100).decode()

    def ended(self) -> int:
        """Wait until the parent has ended; its exit code."""
        deadline = time.monotonic() + SECONDS
        while self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.005)
        return os.waitstatus_to_exitcode(self._status)

    def kill(self) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.ended()


@contextmanager
def family(
    folder: Path,
    count: int = 2,
    script: Script | None = None,
    *,
    has_store: bool = False,
    notify: str = "",
    change: Callable[[Any], None] = lambda _: None,
) -> Iterator[Family]:
    """A parent of `count` processes. `change` is called with the parent's module, in the parent."""
    notes, log = folder / "notes", folder / "log"
    notes.touch()
    log.touch()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        pid = os.fork()
        if not pid:
            _run(listener, count, script or serving, notes, log, notify, change, has_store)
    one = Family(pid, port, notes, log)
    try:
        yield one
    finally:
        one.kill()


def _run(
    listener: socket.socket,
    count: int,
    script: Script,
    notes: Path,
    log: Path,
    notify: str,
    change: Callable[[Any], None],
    has_store: bool,
) -> NoReturn:
    code = 1
    try:
        gc.disable()  # what the test's process has must not be finalised here
        root = logging.getLogger()
        root.handlers[:] = [logging.FileHandler(log)]
        root.setLevel(logging.INFO)
        from supervisor.processes import parent as module

        change(module)

        def child(name: str) -> Child:
            def run(theirs: socket.socket) -> int:
                note(notes, f"{name} starts as {os.getpid()}")
                code = script(name, theirs)
                note(notes, f"{name} ends")
                return code

            return Child(name, run)

        parent = Parent(
            store=child("the store") if has_store else None,
            servers=[child(f"process {place + 1}") for place in range(count)],
            listeners=[listener],
            systemd=Systemd(notify, 5.0 if notify else 0.0),
            drain=1.0,
            per_address=100,
            ready=lambda: note(notes, "all are ready"),
            in_child=lambda _: None,
        )
        code = parent.run()
    except BaseException:
        logging.getLogger(__name__).exception("the parent failed")
        raise
    finally:
        os._exit(code)


def note(file: Path, text: str) -> None:
    with file.open("a") as notes:
        notes.write(f"{text}\n")


def say(theirs: socket.socket, **words: str) -> None:
    theirs.send("".join(f"{name}={value}\n" for name, value in words.items()).encode())


def serving(name: str, theirs: socket.socket) -> int:
    """Is ready at once; tells each client its name; ends with SIGTERM, or when the parent does."""
    return serve(name, theirs, f"{name} is well")


def serve(
    name: str,
    theirs: socket.socket,
    status: str,
    heard: Callable[[bytes, list[int]], object] | None = None,
    left: Callable[[], object] = lambda: None,
) -> int:
    """Say that it is ready, with this status, and serve clients; `heard` gets what else the parent
    says. `left` is called when the parent was told that a client has left.
    """
    is_over: list[int] = []
    wake, woken = socket.socketpair()
    wake.settimeout(0)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGTERM, lambda *_: is_over.append(1))
    signal.signal(signal.SIGHUP, lambda *_: heard(b"HUP", []) if heard else None)
    say(theirs, READY="1", STATUS=status)  # not before it can take signals
    clients = dict[int, socket.socket]()
    while not is_over:
        readable, _, _ = select.select([theirs, woken, *clients], [], [], 0.2)
        for each in readable:
            if each is woken:
                woken.recv(100)
            elif each is theirs:
                found = line.receive(theirs)
                if found is None:
                    continue
                packet, fds = found
                if not packet:
                    return 7
                if packet[:1] == line.CLIENT:
                    client = socket.socket(fileno=fds[0])
                    clients[client.fileno()] = client
                    client.send(name.encode())
                elif heard is not None:
                    heard(packet, fds)
            elif isinstance(each, int) and not clients[each].recv(100):
                clients.pop(each).close()
                say(theirs, **{line.LEFT: ""})
                left()
        say(theirs, WATCHDOG="1")
    return 0
