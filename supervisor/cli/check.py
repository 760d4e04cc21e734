"""`jsbox check`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import trio

from ..config import Config, InvalidConfig, load
from ..config.model import App, Breakage
from ..config.requires import BUNDLED, unmet
from ..errors import CannotStart
from .codes import EXIT_CONFIG
from .common import config_option, fail, json_option, load_or_exit, print_json


@click.command()
@config_option
@json_option
def check(config_file: Path, as_json: bool) -> None:
    """Check a config file and its apps: report every error at once, as FILE:LINE: what is wrong.

    The code of each app is compiled, loaded once in a sandbox as `serve` would start it, and what
    it requires is compared with its modules.
    """
    if as_json:
        _check_json(config_file)
        return
    config = load_or_exit(config_file)
    breakages, warnings = look_at_apps(config)
    for warning in warnings:
        click.echo(f"jsbox: warning: {warning}", err=True)
    for one in breakages:
        click.echo(str(one), err=True)
    if breakages:
        count = len(breakages)
        fail(f"{count} error{'s' if count > 1 else ''} in the apps of {config_file}", EXIT_CONFIG)
    click.echo(f"{config_file}: ok, {len(config.apps)} apps, {len(config.channels)} channels")


def look_at_apps(config: Config) -> tuple[list[Breakage], list[str]]:
    """Look at the files of the apps; return what is broken, and the warnings."""
    from ..host.version import node_path
    from ..sandboxes.code_check import CodeCheck, package_warnings, unjailed

    ask = unjailed(node_path(config), BUNDLED.parent)
    apps = config.apps.values()

    async def look() -> tuple[list[Breakage], list[str]]:
        broken, warnings = await CodeCheck(ask).breakages(apps), await package_warnings(ask, apps)
        names = {one.app for one in broken}
        more, notes = await _load(config, [app for app in apps if app.name not in names])
        return [*broken, *more], [*warnings, *notes]

    found, packages = trio.run(look)
    calls = [f"apps.{app.name}.javascript: {text}" for app in apps for text in unmet(app)]
    return [*config.breakages, *found], [*calls, *packages]


async def _load(config: Config, apps: Sequence[App]) -> tuple[list[Breakage], Sequence[str]]:
    """Load each app in a sandbox; return what is broken, and what could not be found out."""
    from ..host.version import node_path
    from ..jail.walls import open_isolation
    from ..sandboxes.load_check import LoadCheck

    try:
        with open_isolation(
            config.isolation, node_path(config), BUNDLED.parent / "harness.js"
        ) as walls:
            await trio.to_thread.run_sync(walls.prepare, apps)
            check = LoadCheck(walls)
            return await check.breakages(apps), check.notes
    except CannotStart as error:
        return [], [f"the apps were compiled, but not loaded: {error}"]


def _check_json(file: Path) -> None:
    try:
        config = load(file)
    except InvalidConfig as error:
        errors = [{"file": str(file), "line": p.line, "text": p.text} for p in error.problems]
        print_json({"ok": False, "errors": errors})
        sys.exit(EXIT_CONFIG)
    breakages, warnings = look_at_apps(config)
    warnings = [*config.warnings, *warnings]
    if breakages:
        errors = [_row(one) for one in breakages]
        print_json({"ok": False, "errors": errors, "warnings": warnings})
        sys.exit(EXIT_CONFIG)
    print_json(
        {
            "ok": True,
            "warnings": warnings,
            "apps": list(config.apps),
            "channels": list(config.channels),
        }
    )


def _row(one: Breakage) -> dict[str, Any]:
    return {
        "file": str(one.file),
        "line": one.line,
        "column": one.column or None,
        "app": one.app,
        "text": one.text,
    }
