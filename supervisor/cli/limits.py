"""`jsbox limits`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import click

from ..config import Config
from ..config.locate import locate
from ..config.model import App, Limits
from ..config.units import show_duration, show_size
from ..sandboxes.limit_usage import LIMITS as MEASURED
from .client import admin_client, path_of
from .common import config_option, fail, json_option, load_or_exit, print_json
from .hosts import ALL, ask_hosts, exit_if_silent, host_option

SIZES = ("heap", "memory", "stack", "line", "output")
DURATIONS = ("wall", "cpu", "boot", "command")


@click.command()
@click.argument("app")
@click.option(
    "--explain",
    is_flag=True,
    help="Where each value comes from, and which are measured.",
)
@click.option(
    "--what-if",
    "asked",
    multiple=True,
    metavar="LIMIT=VALUE ...",
    help="How many of the newest runs other limits would have ended.",
)
@click.argument("more", nargs=-1)
@host_option
@config_option
@json_option
def limits(
    *,
    app: str,
    explain: bool,
    asked: tuple[str, ...],
    more: tuple[str, ...],
    host: str | None,
    config_file: Path,
    as_json: bool,
) -> None:
    """Show an app's limits, and how much of them its newest runs used.

    `jsbox limits APP --what-if heap=48MiB wall=5s` shows how many of those runs such limits would
    have ended.

    If several servers share the work, each has measured its own runs: --host all shows them one by
    one.
    """
    if more and not asked:
        raise click.UsageError(f"unexpected {' '.join(more)}: LIMIT=VALUE needs --what-if")
    config = load_or_exit(config_file)
    if app not in config.apps:
        fail(f"{config_file} has no app {app!r}; it has {', '.join(config.apps) or 'none'}")
    path, what_if = path_of("v1", "apps", app, "limits"), {"what_if": [*asked, *more]}
    with admin_client(config) as client:
        found = ask_hosts(client, [path], host, **what_if)
    sources = _sources(config, config.apps[app], config_file)
    bodies = [one.bodies[0] if one.bodies else {"limits": []} for one in found]
    for body in bodies:
        body["limits"] = [
            # another server may be of a version that has others
            row | {"source": sources.get(row["name"], "not known here")}
            for row in body["limits"]
        ]
    if as_json:
        rows = [one.row(body) for one, body in zip(found, bodies, strict=True)]
        print_json({"hosts": rows} if host == ALL else bodies[0])
    else:
        for one, body in zip(found, bodies, strict=True):
            if host == ALL:
                one.show_name()
            if not one.error:
                _show(body, explain=explain)
    exit_if_silent(found)


def _show(body: Mapping[str, Any], *, explain: bool) -> None:
    if "what_if" in body:
        _show_what_if(body["what_if"])
        return
    click.echo(
        f"{'LIMIT':20} {'VALUE':>9}  {'P50':>9} {'P99':>9} {'MOST':>9} {'HEADROOM':>9}"
        + ("  FROM" if explain else "")
    )
    for row in body["limits"]:
        click.echo(_line(row, explain=explain).rstrip())


def _show_what_if(found: dict[str, Any]) -> None:
    for name, one in found["limits"].items():
        what = "looks at processes" if name in {"memory", "heap", "boot"} else "newest runs"
        text = (
            f"{one['over']} of {one['of']} {what} used more"
            if one["of"]
            else "nothing was measured yet"
        )
        click.echo(f"{name} = {_shown(name, one['value'])}: {text}")
    if found["runs"]["of"]:
        share = found["runs"]["over"] / found["runs"]["of"]
        runs = f"{found['runs']['over']} of {found['runs']['of']} newest runs ({share:.1%})"
        click.echo(f"together: {runs} would have been ended")


def _line(row: dict[str, Any], *, explain: bool) -> str:
    name, seen = row["name"], row["seen"]
    cells = ["-"] * 4
    if seen is not None:
        cells = [_shown(name, seen[key]) for key in ("p50", "p99", "most")]
        cells.append(f"{row['value'] / seen['most']:.1f}x" if seen["most"] else "-")
    source = f"  {row['source']}" if explain else ""
    measured = "" if name in MEASURED or not explain else "  (not measured)"
    return (
        f"{name:20} {_shown(name, row['value']):>9}  "
        + " ".join(f"{cell:>9}" for cell in cells)
        + source
        + measured
    )


def _shown(name: str, value: Any) -> str:
    if name in SIZES:
        return show_size(value)
    if name in DURATIONS:
        return show_duration(value)
    if isinstance(value, dict):
        return (
            ", ".join(f"{key} {show_duration(seconds)}" for key, seconds in value.items()) or "none"
        )
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, int | float) else repr(value)


def _sources(config: Config, app: App, file: Path) -> dict[str, str]:
    """Where each limit's value comes from: a line of the file, or the default."""
    lines = locate((config.file or file).read_text("utf-8-sig"))
    found = {}
    for a in attrs.fields(Limits):
        places = (("apps", app.name, "limits", a.name), ("defaults", "limits", a.name))
        line = next((lines[place] for place in places if place in lines), None)
        found[a.name] = "default" if line is None else f"{file}:{line}"
    return found
