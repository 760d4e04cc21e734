"""Runs commands of operators against a service in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio
from attrs import frozen
from click.testing import CliRunner, Result

from supervisor.cli import jsbox
from supervisor.service import Service

from ...programs import free_ports
from ...service import ECHO, Folder, running


def invoke(*arguments: str, env: dict[str, str] | None = None) -> Result:
    """Run a command in this thread."""
    return CliRunner().invoke(jsbox, list(map(str, arguments)), env=env)


@frozen
class Operator:
    """Someone with a terminal, and the service."""

    service: Service
    config: Path

    async def __call__(self, *arguments: str, env: dict[str, str] | None = None) -> Result:
        """Run a command in a thread, while the service answers."""
        command = partial(invoke, *arguments, "-c", str(self.config), env=env)
        return await trio.to_thread.run_sync(command)


@asynccontextmanager
async def operating(tmp_path: Path, text: str = "", app: str = ECHO) -> AsyncIterator[Operator]:
    """A service with one app, `phone`, of the account acct; `text` is put before its tables."""
    folder = Folder(tmp_path)
    port = free_ports(1)[0]
    folder.text = folder.text.replace('admin = "127.0.0.1:0"', f'admin = "127.0.0.1:{port}"')
    folder.text += text
    folder.app("phone", app)
    async with running(folder) as service:
        yield Operator(service, folder.config)
