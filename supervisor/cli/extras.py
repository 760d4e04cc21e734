"""`jsbox extras`: the files that go with a service."""

from __future__ import annotations

from pathlib import Path

import click

from .common import fail

FOLDER = Path(__file__).parents[1] / "extras"
FILES = {
    "jsbox.service": "the systemd unit",
    "alerts.yml": "alert rules for Prometheus",
    "dashboard.json": "a dashboard for Grafana",
}


@click.command()
@click.argument("name", required=False)
def extras(name: str | None) -> None:
    """List the files that go with a service, or print one."""
    if name is None:
        for file, what in FILES.items():
            click.echo(f"{file:16} {what}")
    elif name in FILES:
        click.echo((FOLDER / name).read_text(), nl=False)
    else:
        fail(f"there is no file {name!r}; there are {', '.join(FILES)}", 2)
