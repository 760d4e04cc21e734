"""An app in a debugger: `jsbox dev --inspect`."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from urllib.parse import quote

from attrs import evolve, fields, frozen

from ..config import App, Config
from ..config.model import Isolation
from ..config.units import Count, Duration, Natural, Size

HOST = "127.0.0.1"
PORT = 9229  # as Node has it: DevTools looks there
PAUSE = 24 * 3600.0  # seconds that somebody may look at a breakpoint
HEAP, MEMORY = 512 << 20, 2 << 30  # bytes: a debugger keeps much


@frozen
class DebuggedApp(App):
    """An app in whose process a debugger may attach. `port`: where."""

    port: int = PORT

    @property
    def inspect(self) -> str:
        """See `App.inspect`."""
        return f"{HOST}:{self.port}"


def debugged(config: Config, port: int) -> Config:
    """The config with its apps open to a debugger: one process each, with time to wait in, and
    nothing but resource limits around it.
    """
    apps = {name: _debugged(app, port) for name, app in config.apps.items()}
    # A spare process would have no debugger.
    node = evolve(config.node, spare=Natural(0))
    return evolve(config, apps=apps, isolation=Isolation("none"), node=node)


def _debugged(app: App, port: int) -> App:
    limits = evolve(
        app.limits,
        wall=Duration(PAUSE),
        boot=Duration(PAUSE),
        cpu=Duration(PAUSE),
        heap=Size(max(app.limits.heap, HEAP)),
        memory=Size(max(app.limits.memory, MEMORY)),
    )
    pool = evolve(
        app.pool, max_processes=Count(1), messages_in_flight=Count(1), min_idle=Natural(0),
        max_age=Duration(PAUSE), idle_stop=Duration(PAUSE),
    )  # fmt: skip
    values = {a.name: getattr(app, a.name) for a in fields(App)}
    values |= {"limits": limits, "pool": pool, "source": _with_map(app)}
    return DebuggedApp(**values, port=port)


def _with_map(app: App) -> str:
    """The text of an app with its source map in it: a debugger asks nobody else for it."""
    if not app.source_map:
        return app.source
    folder = app.javascript.parent
    made = json.loads(app.source_map)
    if "sources" in made:
        made["sources"] = [_url(folder, made.get("sourceRoot"), one) for one in made["sources"]]
        made["sourceRoot"] = ""
    data = base64.b64encode(json.dumps({"version": 3, "names": [], **made}).encode()).decode()
    return f"{app.source}\n//# sourceMappingURL=data:application/json;base64,{data}\n"


def _url(folder: Path, root: str | None, source: str | None) -> str | None:
    """A source as the URL of its file."""
    name = f"{root or ''}{source or ''}"
    if source is None or "://" in name:
        return source
    return "file://" + quote(str((folder / name).resolve()))
