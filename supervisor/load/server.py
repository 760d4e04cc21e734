"""The harness's own server: the apps of a config file in a separate process, with its own ports
and data, and stubs for back ends.

A load test must do no harm: it never reaches the config's store, its gateways, its Graphite, or a
back end without a stub.

`python -m supervisor.load.server SETTINGS` serves; `open_server` starts that.
"""

from __future__ import annotations

import logging
import os
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
from ..host.process import Process, open_process

# Long enough for a machine that is four times slower; a server that fails exits at once.
START_SECONDS = 120.0
STOP_SECONDS = 80.0  # well above the default gateway.drain
NOBODY = "stubs.invalid"  # the only host allowed without a stub; no such host exists
LOG_END = 2000  # characters of its log shown if it does not start


class Settings(msgspec.Struct):
    """What differs from the config file."""

    config: str
    data_dir: str
    gateway: str = "127.0.0.1:0"
    admin: str = "127.0.0.1:0"
    connect_to: dict[str, str] = {}


class Ready(msgspec.Struct):
    """What it writes to stdout once it listens."""

    gateway: str
    admin: str


def changed(config: Config, settings: Settings) -> Config:
    """The config with these settings: no Graphite, an embedded store, stubs for back ends."""
    apps = {
        name: evolve(
            app,
            http=_with_stubs(app.http, settings.connect_to),
            metrics=evolve(app.metrics, graphite=None),
        )
        for name, app in config.apps.items()
    }
    return evolve(
        config.with_local_channels(),
        data_dir=Path(settings.data_dir),
        listen=Listen(_address(settings.gateway), _address(settings.admin)),
        redis=RedisServer(),
        apps=apps,
    )


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
    _nursery: trio.Nursery
    ready: Ready = field(init=False)
    _process: Process = field(init=False)
    _ended: trio.Event = field(init=False)

    async def start(self) -> None:
        """Start it and wait until it listens. Raises CannotStart with the end of its log."""
        self._ended = trio.Event()
        line = b""
        with trio.move_on_after(START_SECONDS):
            line = await self._nursery.start(self._hold)
        if not line:
            raise CannotStart(
                f"the server did not start; it logged:\n{self.log.read_text()[-LOG_END:]}"
            )
        self.ready = msgspec.json.decode(line, type=Ready)
        self.settings.gateway = self.ready.gateway.removeprefix("ws://").removesuffix("/v1")
        self.settings.admin = self.ready.admin.removeprefix("http://")

    async def _hold(self, *, task_status: trio.TaskStatus[bytes]) -> None:
        """Hold the process until it ends; give its first line, empty if it ends without one."""
        argv = [
            sys.executable,
            "-m",
            "supervisor.load.server",
            msgspec.json.encode(self.settings).decode(),
        ]
        try:
            async with (
                open_process(
                    argv, os.environ, {}, cwd=str(Path.cwd()), oom_score=None
                ) as self._process,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(self._keep_log)
                line = b""
                while not line.endswith(b"\n") and (
                    data := await self._process.stdout.receive_some()
                ):
                    line += data
                if line:
                    task_status.started(line)
                    await self._process.wait()
                    nursery.cancel_scope.cancel()
            if not line:
                task_status.started(b"")
        finally:
            self._ended.set()

    async def _keep_log(self) -> None:
        with self.log.open("ab", buffering=0) as log:
            while data := await self._process.stderr.receive_some():
                log.write(data)

    async def stop(self) -> None:
        """Terminate it and wait until it has drained; kill it after STOP_SECONDS."""
        self._process.terminate()
        with trio.move_on_after(STOP_SECONDS):
            await self._ended.wait()
        self._process.kill()
        await self._ended.wait()

    async def restart(self) -> None:
        """Drain it and start it again with the same ports and data."""
        await self.stop()
        await self.start()


@asynccontextmanager
async def open_server(settings: Settings, log: Path) -> AsyncIterator[Server]:
    """Start a server; it listens when the block begins, and is drained at its end.

    Raises:
        CannotStart: It did not start; the text has the end of its log.
    """
    async with trio.open_nursery() as nursery:
        server = Server(settings, log, nursery)
        await server.start()
        try:
            yield server
        finally:
            with trio.CancelScope(shield=True):
                await server.stop()


def main(text: str) -> None:
    """Serve until SIGTERM."""
    from ..service import Service
    from ..serving import run

    settings = msgspec.json.decode(text, type=Settings)
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    def read() -> Config:
        return changed(load(Path(settings.config)), settings)

    def ready(service: Service) -> None:
        sys.stdout.write(
            msgspec.json.encode(Ready(service.gateway_url, service.admin_url)).decode() + "\n"
        )
        sys.stdout.flush()

    trio.run(partial(run, read(), read, ready))


if __name__ == "__main__":
    main(sys.argv[1])
