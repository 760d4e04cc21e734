"""`jsbox audit`: what operators did; from the server, or from its files if it is down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from resources.text import visible

from ..admin.audit import ROWS_MAX, read, row
from ..config import Config
from .client import Unreachable, json_of, reaching
from .common import config_option, fail, json_option, load_or_exit, print_json
from .times import moment_or_exit


@click.command()
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(1, ROWS_MAX),
    default=100,
    show_default=True,
    help="How many of the newest.",
)
@click.option("--since", help="Only newer ones: 24h, or 2026-02-03T04:05Z.")
@click.option("--who", help="Only of this one: a token's name, `local`, `SIGHUP`.")
@config_option
@json_option
def audit(
    *, lines: int, since: str | None, who: str | None, config_file: Path, as_json: bool
) -> None:
    """Show what operators did through the admin port, oldest first; times are in UTC.

    Every request that is to change something is written down before it is obeyed, then what came of
    it. Without a server its files in data_dir are read.
    """
    config = load_or_exit(config_file)
    deeds = _deeds(config, lines, who or "", moment_or_exit(since))
    if as_json:
        print_json({"deeds": deeds})
        return
    for one in reversed(deeds):
        if "lost" in one:
            click.echo(f"{one['time']} {one['lost']} lines could not be written")
            continue
        who_, source, what, result = (
            visible(one[name], keep="") for name in ("who", "source", "what", "result")
        )
        status = one["status"] or "???"
        click.echo(f"{one['time']} {who_:16} {source:15} {status} {what}  {result}".rstrip())


def _deeds(config: Config, lines: int, who: str, since: str) -> list[dict[str, Any]]:
    asked = {"limit": str(lines), "who": who, "since": since}
    given = {name: value for name, value in asked.items() if value}
    try:
        with reaching(config) as client:
            return list(json_of(client.get("/v1/audit", params=given))["deeds"])
    except Unreachable as unreachable:
        click.echo(f"jsbox: {unreachable}; its files in {config.data_dir} are read", err=True)
    try:
        return [row(one) for one in read(config.data_dir, lines, who, since)]
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
