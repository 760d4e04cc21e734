"""`jsbox optouts list | export | import`, through a running server."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import click
import httpx2

from resources.text import visible

from .client import admin_client
from .common import config_option, json_option, load_or_exit, print_json
from .importing import Asked, Kind, Rows, options, pages, run_import, write_rows
from .rows import Columns

FIELDS = ("address_type", "address_value", "message_id", "created_at")
OPTOUTS = Kind("optouts", Columns(FIELDS, needed=("address_value",)))
DEFAULT_TYPE = "msisdn"


@click.group()
def optouts() -> None:
    """List, export and import addresses that have opted out. The server must be running."""


@optouts.command(name="list")
@click.argument("account")
@click.option(
    "-n", "--lines", type=click.IntRange(1), default=100, show_default=True, help="How many."
)
@config_option
@json_option
def list_optouts(account: str, lines: int, config_file: Path, as_json: bool) -> None:
    """List opt-outs, in no order."""
    with admin_client(load_or_exit(config_file)) as client:
        found = list(islice(pages(client, account, "optouts"), lines))
    if as_json:
        print_json({"optouts": found})
        return
    if not found:
        click.echo(f"nobody has opted out in account {account}")
        return
    click.echo(f"{'SINCE (UTC)':27} {'TYPE':12} {'ADDRESS':20}  MESSAGE")
    for one in found:
        since, kind, value, message = (
            visible(one[name], keep="")
            for name in ("created_at", "address_type", "address_value", "message_id")
        )
        click.echo(f"{since:27} {kind:12} {value:20}  {message or '-'}")


@optouts.command()
@click.argument("account")
@click.option("-o", "--output", type=click.File("wb"), default="-", help="A file; .csv makes CSV.")
@config_option
def export(account: str, output: BinaryIO, config_file: Path) -> None:
    """Write every opt-out as a file that `import` takes. While apps write others, one may come
    twice.
    """
    with admin_client(load_or_exit(config_file)) as client:
        write_rows(pages(client, account, "optouts"), FIELDS, output)


@optouts.command("import")
@options
def import_(**given: Any) -> None:
    """Opt out the addresses of a CSV or JSON Lines file with `address_value`, and perhaps
    `address_type` (default msisdn), `message_id` and `created_at`.

    Pushes skip them from then on. Invalid rows are listed in FILE.errors.
    """
    run_import(OPTOUTS, Asked(**given), _with_types)


def _with_types(_client: httpx2.Client, rows: Rows) -> dict[int, str]:
    for _, row in rows:
        if isinstance(row, dict):
            row.setdefault("address_type", DEFAULT_TYPE)
    return {}
