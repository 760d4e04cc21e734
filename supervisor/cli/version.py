"""`jsbox version`."""

from __future__ import annotations

import click

from ..host.version import describe
from .common import json_option, print_json


@click.command()
@json_option
def version(*, as_json: bool) -> None:
    """Show the version, the build, and the versions of what is bundled."""
    found = describe()
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        click.echo(f"{name:22} {value or '-'}")
