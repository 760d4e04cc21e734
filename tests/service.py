"""A whole service inside the test's own Trio, for tests that look at it from within."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import trio
from attrs import define
from attrs import field as attribute

from supervisor import opening
from supervisor.config import load
from supervisor.config.model import Isolation
from supervisor.jail.probe import Probing, open_probing
from supervisor.jail.walls import Walls, open_isolation
from supervisor.log_output import LogWriter
from supervisor.service import HARNESS, Service, open_service

from .apps import NICE, NODE, walls
from .gateway_client import PATIENCE

_PROBED: dict[Walls, Probing] = {}
HEAD = 'version = 1\n[listen]\ngateway = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\n'


def app_lines(name: str, more: str = "", account: str = "acct", channel: str | None = None) -> str:
    """Lines of a config: an app, whose file has its name, and its channel; see `Folder.app`."""
    return (
        f'[apps.{name}]\naccount = "{account}"\njavascript = "{name}.js"\n{more}\n'
        f'[channels.{channel or name}]\napp = "{name}"\ntransport_type = "ussd"\n'
    )


@define
class Folder:
    """Where a test's config and apps are."""

    path: Path
    text: str = HEAD
    apps: dict[str, str] = attribute(factory=dict)

    def app(
        self,
        name: str,
        javascript: str,
        more: str = "",
        account: str = "acct",
        channel: str | None = None,
    ) -> None:
        """Add an app with a channel of the same name (or the one given); `more` are further lines
        of its table.
        """
        source = (
            javascript
            if "api.on_" in javascript
            else f"api.on_inbound_message = function (command) {{ {javascript} }};"
        )
        (self.path / f"{name}.js").write_text(source)
        self.text += app_lines(name, more, account, channel)

    @property
    def config(self) -> Path:
        """The config file, written."""
        file = self.path / "jsbox.toml"
        file.write_text(self.text)
        return file


@asynccontextmanager
async def running(folder: Folder, log_writer: LogWriter | None = None) -> AsyncIterator[Service]:
    """The service for a folder's config."""
    file = folder.config
    failure: Exception | None = None
    shared = patch.multiple(opening, open_isolation=_shared_walls, open_probing=_probe_once)
    with shared:
        read = partial(load, file)
        async with open_service(read(), read, log_writer=log_writer) as service:
            try:
                yield service
            except (
                Exception
            ) as error:  # raised again outside of a dozen nurseries, where it can be read
                failure = error
    if failure is not None:
        raise failure


@contextmanager
def _shared_walls(settings: Isolation, node: Path, harness: Path, nice: int) -> Iterator[Walls]:
    """The walls of the default settings are the same for all tests of a worker; others are made as
    the product makes them.
    """
    if (settings, node, harness, nice) == (Isolation(settings.level), NODE, HARNESS, NICE):
        yield walls(settings.level)
    else:
        with open_isolation(settings, node, harness, nice) as made:
            yield made


@asynccontextmanager
async def _probe_once(made: Walls) -> AsyncIterator[Probing]:
    """Walls that are shared are probed by the first service that has them, which waits for the end
    as in the product.
    """
    if made in _PROBED:
        yield _PROBED[made]
        return
    async with open_probing(made) as probing:
        yield probing
    if made is walls(made.place.level):
        _PROBED[made] = probing


async def eventually(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Wait until a condition holds."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.01)


REPLY = (
    "api.request('outbound.reply_to', {content: %s, in_reply_to: command.msg.message_id},"
    " function () { api.done(); });"
)
ECHO = REPLY % "'you said ' + command.msg.content"
