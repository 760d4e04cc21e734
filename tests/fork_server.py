"""`jsbox` commands in processes of their own, without the second that Python takes to import it
all: a process that has imported everything forks for each. Run as `python -m tests.fork_server
SOCKET`; `Forked` is the other side.

What runs in the fork is the command from `main` on, with its own standard streams, environment and
signals, as Python's own start would leave them. Tests of how the command itself starts
(tests/packaging, the demo, the terminal) do not come here.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from attrs import define, field

MESSAGE_MAX = 1 << 20
STATUS = 4  # bytes: what waitpid says


@define(eq=False)
class Forked:
    """A process of the fork server: what tests use of `subprocess.Popen`."""

    pid: int
    returncode: int | None
    _status: socket.socket

    def poll(self) -> int | None:
        """The exit code, negative for a signal, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises TimeoutExpired."""
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                status = self._status.recv(STATUS)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0) from None
            assert status, "the fork server has ended"
            self.returncode = os.waitstatus_to_exitcode(int.from_bytes(status, "little"))
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To the process, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


@define(eq=False)
class ForkServer:
    """A running fork server; started when it is first used."""

    _process: subprocess.Popen[bytes] | None = None
    _folder: tempfile.TemporaryDirectory[str] | None = field(default=None, init=False)
    _starting: threading.Lock = field(factory=threading.Lock, init=False)

    @property
    def pid(self) -> int | None:
        """Its process."""
        return None if self._process is None else self._process.pid

    def fork(
        self,
        arguments: Sequence[str],
        streams: Sequence[int],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Forked:
        """Run `jsbox` with these arguments, on these three descriptors, in a session of its own."""
        request = {
            "arguments": list(arguments),
            "env": dict(env or os.environ),
            "cwd": str(cwd or Path.cwd()),
        }
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(self._started())
        socket.send_fds(connection, [json.dumps(request).encode()], streams)
        return Forked(int.from_bytes(connection.recv(STATUS), "little"), None, connection)

    def run(
        self,
        arguments: Sequence[str],
        input: str = "",
        timeout: float | None = None,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run `jsbox` to its end, as subprocess.run does. Kills it and raises TimeoutExpired if
        that does not come.
        """
        with (
            tempfile.TemporaryFile() as stdin,
            tempfile.TemporaryFile() as stdout,
            tempfile.TemporaryFile() as stderr,
        ):
            stdin.write(input.encode())
            stdin.seek(0)
            forked = self.fork(
                arguments, [stream.fileno() for stream in (stdin, stdout, stderr)], **options
            )
            try:
                code = forked.wait(timeout)
            except subprocess.TimeoutExpired:
                forked.kill()
                forked.wait()
                raise
            for stream in (stdout, stderr):
                stream.seek(0)
            return subprocess.CompletedProcess(
                arguments, code, stdout.read().decode(), stderr.read().decode()
            )

    def _started(self) -> str:
        """Where its socket is."""
        with self._starting:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="jsbox-fork-")
                self._start(self._folder.name)
        return f"{self._folder.name}/s"

    def _start(self, folder: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(f"{folder}/s")
            listener.listen(64)
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(listener.fileno())],
                cwd=Path(__file__).parent.parent,
                pass_fds=[listener.fileno()],
                stdin=subprocess.PIPE,  # when we end, however, it reads the end of this
                start_new_session=True,
            )

    def stop(self) -> None:
        """End it; what it has started goes on."""
        if self._process is not None and self._folder is not None:
            self._process.kill()
            self._process.communicate()
            self._folder.cleanup()


def main(descriptor: int) -> NoReturn:
    """Accept requests, fork for each, and report how each child ended."""
    import_all()
    gc.collect()
    gc.freeze()
    listener = socket.socket(fileno=descriptor)
    waiting: dict[int, socket.socket] = {}
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                sys.exit()  # whoever started us has ended
            if key.fileobj is listener:
                connection, _ = listener.accept()
                message, descriptors, _, _ = socket.recv_fds(connection, MESSAGE_MAX, 3)
                pid = os.fork()
                if pid == 0:
                    run(json.loads(message), descriptors)
                for one in descriptors:
                    os.close(one)
                pidfd = os.pidfd_open(pid)
                waiting[pidfd] = connection
                selector.register(pidfd, selectors.EVENT_READ, pid)
                connection.send(pid.to_bytes(STATUS, "little"))
            else:
                assert isinstance(key.fileobj, int)
                selector.unregister(key.fileobj)
                os.close(key.fileobj)
                _, status = os.waitpid(key.data, 0)
                with contextlib.suppress(OSError), waiting.pop(key.fileobj) as connection:
                    connection.send(status.to_bytes(STATUS, "little"))


def import_all() -> None:
    """What the commands import when they are called."""
    import importlib

    from supervisor import cli

    for module in {name for name, _ in cli.COMMANDS.values()}:
        importlib.import_module(f"supervisor.cli.{module}")
    for module in (
        "service",
        "serving",
        "load.run",
        "load.server",
        "tools.replay",
        "tools.backup",
        "tools.vxsandbox",
        "tools.doctor",
        "client.phone",
    ):
        importlib.import_module(f"supervisor.{module}")


def run(request: dict[str, Any], descriptors: Sequence[int]) -> NoReturn:
    """Be the command: as after Python's own start, with its own streams."""
    for number, one in enumerate(descriptors):
        os.dup2(one, number)
    os.closerange(3, 1 << 16)
    os.setsid()
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    os.chdir(request["cwd"])
    sys.argv = ["jsbox", *request["arguments"]]
    code = 1
    try:
        from supervisor.cli import main as jsbox

        jsbox()
    except SystemExit as error:
        code = _exit_code(error.code)
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _exit_code(code: Any) -> int:
    if code is None or isinstance(code, int):
        return code or 0
    sys.stderr.write(f"{code}\n")
    return 1


if __name__ == "__main__":
    main(int(sys.argv[1]))
