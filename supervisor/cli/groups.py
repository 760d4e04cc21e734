"""`jsbox groups list | export | import`, through a running server."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import click
import httpx2

from resources.text import visible

from .client import admin_client, json_of
from .common import config_option, json_option, load_or_exit, print_json
from .importing import (
    SECONDS,
    Asked,
    Kind,
    exit_if_incomplete,
    list_path,
    options,
    run_import,
    warn_unreadable,
    write_rows,
)
from .rows import Columns

FIELDS = ("key", "name", "query", "created_at")
GROUPS = Kind("groups", Columns((*FIELDS, "members"), needed=("name",)))
QUERY_SHOWN = 60  # characters


@click.group()
def groups() -> None:
    """List, export and import an account's groups of contacts. The server must be running."""


@groups.command(name="list")
@click.argument("account")
@config_option
@json_option
def list_groups(account: str, config_file: Path, as_json: bool) -> None:
    """List the groups by name: key, contacts that list the group, and the query of a smart group,
    whose contacts are not counted.
    """
    with admin_client(load_or_exit(config_file)) as client:
        found = all_groups(client, account)
    if as_json:
        print_json({"groups": found})
        return
    if not found:
        click.echo(f"account {account} has no groups")
        return
    click.echo(f"{'KEY':32} {'MEMBERS':>8}  NAME")
    for one in found:
        query = f"  [{visible(one['query'], keep='')[:QUERY_SHOWN]}]" if one["query"] else ""
        key, name = visible(one["key"], keep=""), visible(one["name"], keep="")
        click.echo(f"{key:32} {one['members']:>8}  {name}{query}")


@groups.command()
@click.argument("account")
@click.option("-o", "--output", type=click.File("wb"), default="-", help="A file; .csv makes CSV.")
@config_option
def export(account: str, output: BinaryIO, config_file: Path) -> None:
    """Write the groups, without their members, as a file that `import` takes."""
    unreadable: list[str] = []
    with admin_client(load_or_exit(config_file)) as client:
        write_rows(all_groups(client, account, unreadable), FIELDS, output)
    exit_if_incomplete(unreadable)


@groups.command("import")
@options
def import_(**given: Any) -> None:
    """Import groups from a CSV or JSON Lines file with `name`, and perhaps `key`, `query` and
    `created_at`.

    A group whose key exists gets the name and the query; else the group of the name does; else it
    is made. A query makes it a smart group. Invalid rows are listed in FILE.errors.
    """
    run_import(GROUPS, Asked(**given))


def all_groups(
    client: httpx2.Client, account: str, unreadable: list[str] | None = None
) -> list[dict[str, Any]]:
    """Every group of an account, by name; `unreadable`: as of `pages`."""
    found = json_of(client.get(list_path(account, "groups"), timeout=SECONDS))
    warn_unreadable(found, [] if unreadable is None else unreadable)
    return list(found["groups"])
