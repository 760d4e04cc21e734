"""A server of the harness's own: the apps of a config file in a process beside it, with ports and data of their own, and stubs for back ends.

A load test must hurt nobody: neither the store of the config, nor its Graphite, nor a back end that no stub stands for is ever reached.

`python -m supervisor.load.server SETTINGS` serves; `open_server` starts that.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import trio
from attrs import define, evolve, field

from ..config import Config, load
from ..config.model import Http, Listen, RedisServer
from ..config.units import Address
from ..errors import CannotStart

START_SECONDS = 30.0
STOP_SECONDS = 40.0  # more than gateway.drain is by default
NOBODY = "stubs.invalid"  # the only host that may be reached without a stub: there is none of that name
LOG_END = 2000  # characters of its log that are shown when it does not start


class Settings(msgspec.Struct):
    """What is different from the config file."""

    config: str
    data_dir: str
    gateway: str = "127.0.0.1:0"
    admin: str = "127.0.0.1:0"
    connect_to: dict[str, str] = {}


class Ready(msgspec.Struct):
    """What it says on stdout when it listens."""

    gateway: str
    admin: str


def changed(config: Config, settings: Settings) -> Config:
    """The config with what is different."""
    apps = {
        name: evolve(app, http=_with_stubs(app.http, settings.connect_to), metrics=evolve(app.metrics, graphite=None))
        for name, app in config.apps.items()
    }
    listen = Listen(_address(settings.gateway), _address(settings.admin))
    return evolve(config, data_dir=Path(settings.data_dir), listen=listen, redis=RedisServer(), apps=apps)


def _with_stubs(http: Http, connect_to: Mapping[str, str]) -> Http:
    return evolve(http, connect_to={**http.connect_to, **connect_to}, allow=(NOBODY,), proxy="")


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return Address(host, int(port))


@define(eq=False)
class Server:
    """The process. Made by `open_server`."""

    settings: Settings
    log: Path
    ready: Ready = field(init=False)
    _process: subprocess.Popen[bytes] = field(init=False)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def start(self) -> None:
        """Start it and wait until it listens. Raises CannotStart with the end of its log."""
        text = msgspec.json.encode(self.settings).decode()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220
                [sys.executable, "-m", "supervisor.load.server", text],
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        line = b""
        with trio.move_on_after(START_SECONDS):
            line = await trio.to_thread.run_sync(self._process.stdout.readline, abandon_on_cancel=True)
        if not line:
            self._process.kill()
            raise CannotStart(f"the server did not start; it logged:\n{self.log.read_text()[-LOG_END:]}")
        self.ready = msgspec.json.decode(line, type=Ready)
        self.settings.gateway = self.ready.gateway.removeprefix("ws://").removesuffix("/v1")
        self.settings.admin = self.ready.admin.removeprefix("http://")

    async def stop(self) -> int:
        """SIGTERM, and wait until it has drained. Its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        with trio.move_on_after(STOP_SECONDS):
            while self._process.poll() is None:  # noqa: ASYNC110
                await trio.sleep(0.05)
        self.kill()
        return self._process.returncode

    async def restart(self) -> None:
        """Drain it and start it again: same ports, same data."""
        await self.stop()
        await self.start()

    def kill(self) -> None:
        """End it now."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@asynccontextmanager
async def open_server(settings: Settings, log: Path) -> AsyncIterator[Server]:
    """A server that listens; at the end it is drained and gone.

    Raises:
        CannotStart: It did not come up.
    """
    server = Server(settings, log)
    await server.start()
    try:
        yield server
    finally:
        with trio.CancelScope(shield=True):
            await server.stop()


def main(text: str) -> None:
    """Serve until SIGTERM."""
    from ..service import Service, run

    settings = msgspec.json.decode(text, type=Settings)
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    def read() -> Config:
        return changed(load(Path(settings.config)), settings)

    def ready(service: Service) -> None:
        sys.stdout.write(msgspec.json.encode(Ready(service.gateway_url, service.admin_url)).decode() + "\n")
        sys.stdout.flush()

    trio.run(partial(run, read(), read, ready))


if __name__ == "__main__":
    main(sys.argv[1])
