"""`jsbox check`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..config import InvalidConfig, load
from .common import (
    EXIT_CONFIG,
    config_option,
    json_option,
    load_or_exit,
    print_json,
)


@click.command()
@config_option
@json_option
def check(config_file: Path, as_json: bool) -> None:
    """Check a config file: report every error at once, as FILE:LINE: what is wrong and expected."""
    if as_json:
        _check_json(config_file)
        return
    config = load_or_exit(config_file)
    click.echo(f"{config_file}: ok, {len(config.apps)} apps, {len(config.channels)} channels")


def _check_json(file: Path) -> None:
    try:
        config = load(file)
    except InvalidConfig as error:
        print_json(
            {
                "ok": False,
                "errors": [{"line": one.line, "text": one.text} for one in error.problems],
            }
        )
        sys.exit(EXIT_CONFIG)
    print_json(
        {
            "ok": True,
            "warnings": list(config.warnings),
            "apps": list(config.apps),
            "channels": list(config.channels),
        }
    )
