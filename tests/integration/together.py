"""A `jsbox serve --processes N` that is a process of its own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import redis
from attrs import define

from ..programs import FORKS, START_SECONDS, STOP_SECONDS, Process, wait_ready
from ..service import ECHO, app_lines

HEAD = """version = 1
[listen]
gateway = "127.0.0.1:0"
admin = "127.0.0.1:0"
[gateway]
drain = "5s"
[cluster]
lease = "3s"
processes = {processes}
"""
KILLED = "{} ended (killed by SIGKILL); it starts again in"


@define(eq=False)
class Running:
    """A server of several processes."""

    folder: Path
    process: Process
    gateway: str
    admin: str

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def store(self) -> redis.Redis:
        path = self.folder / "jsbox-data" / "valkey" / "valkey.sock"
        return redis.Redis(unix_socket_path=str(path))

    @property
    def children(self) -> list[int]:
        """The processes that the parent has."""
        pid = self.process.pid
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def pid_of(self, place: int) -> int:
        """Of a process, by the lock of its folder."""
        return int((self.folder / "jsbox-data" / f"process-{place}" / "lock").read_text())

    def is_whole(self) -> bool:
        """Whether all processes serve; a busy host may have other notes."""
        found = self.ready()
        return found.status_code == 200 and "processes:" not in found.text

    def ready(self) -> httpx2.Response:
        return httpx2.get(f"{self.admin}/readyz", trust_env=False, timeout=START_SECONDS)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def write(folder: Path, processes: int = 2, app: str = ECHO, more: str = "") -> Path:
    source = f"api.on_inbound_message = function (command) {{ {app} }};"
    (folder / "phone.js").write_text(source)
    config = folder / "jsbox.toml"
    head = HEAD.format(processes=processes)
    config.write_text(f"{head}{more}[accounts.acct]\n{app_lines('phone')}")
    return config


@contextmanager
def serving(folder: Path, *arguments: str, code: int | None = 0) -> Iterator[Running]:
    """Serve what `write` wrote; at the end nothing of it is left."""
    log = folder / "log"
    with log.open("w") as stderr, open(os.devnull) as stdin:
        streams = [stdin.fileno(), stderr.fileno(), stderr.fileno()]
        process = FORKS.fork(("serve", "-c", str(folder / "jsbox.toml"), *arguments), streams)
    found: list[int] = []
    try:
        ready = wait_ready(process, log)
        running = Running(folder, process, ready.gateway, ready.admin)
        yield running
        if process.poll() is None:
            found = running.children
            process.send_signal(signal.SIGTERM)
        ended = process.wait(STOP_SECONDS)
    except BaseException:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        raise
    if code is not None:
        assert ended == code, log.read_text()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in found))
    assert not (folder / "jsbox-data" / "valkey" / "valkey.sock").exists()


def server_of(running: Running) -> int:
    """The process id of the store's server."""
    with running.store as store:
        return int(store.info("server")["process_id"])


def keeper_of(running: Running) -> int:
    """The process id of the keeper of the store: its child is the server."""
    found = Path(f"/proc/{server_of(running)}/stat").read_text()
    return int(found.rsplit(")", 1)[1].split()[1])
