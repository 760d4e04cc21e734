"""`jsbox doctor`."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import trio
from attrs import asdict

from ..config import Config
from .codes import EXIT_FAILED
from .common import config_option, json_option, load_or_exit, print_json

MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "failed": ("FAILED", "red")}


@click.command()
@config_option
@json_option
def doctor(config_file: Path, as_json: bool) -> None:
    """Check this host: Node.js, every guarantee of the jail, ports, Redis, disk and clock.
    Channels and OpenTelemetry's collector are asked, if there are any.

    Each failure comes with a remedy, and the exit code is then 1. Without a config file, the
    defaults are checked.
    """
    config = (
        load_or_exit(config_file)
        if config_file.exists() or config_file != Path("jsbox.toml")
        else Config()
    )
    failed = trio.run(_examine, config, as_json)
    sys.exit(EXIT_FAILED if failed else 0)


async def _examine(config: Config, as_json: bool) -> bool:
    from ..host.version import node_path
    from ..service import HARNESS
    from ..tools.doctor import examine

    checks = []
    async for check in examine(config, node_path(config), HARNESS):
        checks.append(check)
        if not as_json:
            mark, colour = MARKS[check.status]
            click.echo(f"{click.style(f'{mark:6}', fg=colour)}  {check.name:24} {check.text}")
            if check.remedy:
                click.echo(f"{'':8}{'':24} remedy: {check.remedy}")
    failed = any(check.status == "failed" for check in checks)
    if as_json:
        print_json({"ok": not failed, "checks": [asdict(check) for check in checks]})
    return failed
