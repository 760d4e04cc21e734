"""Apps for tests: from a piece of JavaScript to what the pool and the sandbox take."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from attrs import evolve

from supervisor.config import Limits, Pool
from supervisor.config.model import App, Config, Isolation, Level
from supervisor.host.version import node_path
from supervisor.jail.argv import Jail
from supervisor.jail.walls import Walls, open_isolation
from supervisor.service import HARNESS

NODE = node_path(Config())
NICE = Config().node.nice
_OPEN = ExitStack()  # until the tests end


def make_app(
    javascript: str, name: str = "app", limits: dict[str, Any] | None = None, **fields: Any
) -> App:
    """An app; `javascript` is the body of its message handler unless it sets up `api` itself."""
    source = (
        javascript
        if "api.on_" in javascript
        else f"api.on_inbound_message = function (command) {{ {javascript} }};"
    )
    pool = evolve(Pool(), **fields.pop("pool", {}))
    app = App(
        name,
        "acct",
        Path(f"/{name}.js"),
        source=source,
        limits=evolve(Limits(), **(limits or {})),
        pool=pool,
    )
    return evolve(app, **fields)


def jail_of(app: App) -> Jail:
    """How the product would start it."""
    return walls().jail(app)


@cache
def walls(level: Level = "standard") -> Walls:
    """Those of a level, for as long as the tests run."""
    return _OPEN.enter_context(open_isolation(Isolation(level), NODE, HARNESS, NICE))
