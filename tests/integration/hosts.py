"""Servers that are processes of their own, each as if on a host of its own, on one store."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
import redis
from attrs import define

from ..programs import FORKS, READY, START_SECONDS, STOP_SECONDS, Process
from ..service import ECHO, app_lines
from ..valkey_server import ValkeyServer, valkey_server

STANDING = re.compile(r"standing by: admin (\S+), the store is held by (.+)")
Make = Callable[..., "Host"]


@define(eq=False)
class Host:
    """A `jsbox serve` of its own data directory, as on a host of its own."""

    folder: Path
    env: dict[str, str]
    _process: Process | None = None

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self) -> None:
        with (self.folder / "log").open("a") as stderr, open(os.devnull) as stdin:
            streams = [stdin.fileno(), stderr.fileno(), stderr.fileno()]
            arguments = ("serve", "-c", str(self.folder / "jsbox.toml"))
            self._process = FORKS.fork(arguments, streams, env=self.env)

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """The exit code."""
        return self.process.wait(STOP_SECONDS)

    def restart(self) -> None:
        """After its end; the log begins anew."""
        (self.folder / "log").write_text("")
        self.start()

    def says(self, pattern: re.Pattern[str], times: int = 1) -> re.Match[str]:
        """Wait for the n-th such line in its log."""
        deadline, has_ended = time.monotonic() + START_SECONDS, False
        while time.monotonic() < deadline:
            found = list(pattern.finditer(self.log))
            if len(found) >= times:
                return found[times - 1]
            if has_ended:
                raise AssertionError(f"it ended without {pattern.pattern}:\n{self.log}")
            has_ended = self.process.poll() is not None  # what it said last is looked at once more
            time.sleep(0.01)
        raise AssertionError(f"it did not say {pattern.pattern}:\n{self.log}")

    def ready(self, times: int = 1) -> tuple[str, str]:
        """Wait until it serves; its gateway and its admin port."""
        found = self.says(READY, times)
        return found[1], found[2]

    def id(self) -> str:
        """Wait until it serves; what the servers that share the work call it."""
        _, admin = self.ready()
        found = httpx2.get(f"{admin}/v1/hosts", trust_env=False, timeout=30).json()["hosts"]
        return next(str(each["id"]) for each in found if each["is_this"])

    def stands_by(self, times: int = 1) -> tuple[str, str]:
        """Wait until it stands by; its admin port, and who has the store."""
        found = self.says(STANDING, times)
        return found[1], found[2]


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A store that all hosts of a test can reach."""
    folder = tmp_path / "shared"
    folder.mkdir()
    with valkey_server(folder) as server:
        yield server


@pytest.fixture
def hosts(tmp_path: Path, shared: ValkeyServer) -> Iterator[Make]:
    """Makes hosts on the store, and ends them."""
    made: list[Host] = []

    def make(
        name: str,
        mode: str = "single",
        app: str = ECHO,
        more: str = "",
        lease: str = "1s",
        gateway: str = "127.0.0.1:0",
        admin: str = "127.0.0.1:0",
        url: str = "",
        redis_more: str = "",
        channel_more: str = "",
        env: dict[str, str] | None = None,
    ) -> Host:
        folder = tmp_path / name
        folder.mkdir()
        source = app
        if "api.on_" not in app:
            source = f"api.on_inbound_message = function (command) {{ {app} }};"
        (folder / "phone.js").write_text(source)
        (folder / "jsbox.toml").write_text(
            f'version = 1\n[listen]\ngateway = "{gateway}"\nadmin = "{admin}"\n'
            f'[redis]\nurl = "{url or shared.url}"\n{redis_more}'
            f'[cluster]\nmode = "{mode}"\nlease = "{lease}"\n'
            f"[accounts.acct]\n{app_lines('phone', more)}{channel_more}"
        )
        host = Host(folder, os.environ | (env or {}))
        host.start()
        made.append(host)
        return host

    yield make
    for host in made:
        if host.process.poll() is None:
            host.send(signal.SIGCONT)
            host.send(signal.SIGKILL)
            host.ended()


def direct(shared: ValkeyServer) -> redis.Redis:
    """A client of the store itself."""
    return redis.Redis.from_url(shared.url, protocol=2)
