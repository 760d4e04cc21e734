"""`jsbox contacts import | export | get | search`, through a running server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import click
import httpx2

from resources.text import visible

from .client import admin_client, error_of, json_of
from .common import config_option, fail, json_option, load_or_exit, print_json
from .imports import Import, ImportChanged, Summary

PAGE = 500  # contacts asked for at once
SECONDS = 60.0  # for one answer
REFUSED = frozenset({400, 413, 500})  # status codes that a single line may have caused


@click.group()
def contacts() -> None:
    """Import, export and look up an account's contacts. The server must be running."""


@contacts.command("import")
@click.argument("account")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--restart", is_flag=True, help="Start over, even if an earlier import was interrupted."
)
@config_option
@json_option
def import_(account: str, file: Path, restart: bool, config_file: Path, as_json: bool) -> None:
    """Import contacts from a JSON Lines file, each line wholly or not at all.

    A line has the fields of a contact, with `extra` and `subscription` as objects or as
    `extras-NAME` and `subscription-NAME`. `key`, `created_at` and `groups` are kept; a contact
    whose key exists already is replaced. Invalid lines are listed in FILE.errors with the reason.
    Call it again to resume an interrupted import.
    """
    try:
        with (
            admin_client(load_or_exit(config_file)) as client,
            Import.open(file, account, restart=restart) as work,
        ):
            if work.done and not as_json:
                click.echo(f"{file}: resuming after line {work.lines}", err=True)
            summary = _run(client, work, quiet=as_json)
    except ImportChanged as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or file}: {error.strerror or error}")
    if as_json:
        print_json({"written": summary.written, "failed": summary.failed})
    else:
        click.echo(
            f"{summary.written} written, {summary.failed} wrong"
            + (f", see {file}.errors" if summary.failed else "")
        )
    sys.exit(1 if summary.failed else 0)


def _run(client: httpx2.Client, work: Import, *, quiet: bool) -> Summary:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        bar = progress.add_task("contacts", total=work.size, completed=work.done)
        for batch in work.batches():
            if batch.rows:
                batch.errors |= _write(client, _path(work.account), batch.rows)
            work.finish(batch)
            progress.update(
                bar, completed=work.done, description=f"{work.summary.written} contacts"
            )
    work.end()
    return work.summary


def _write(client: httpx2.Client, url: str, rows: list[tuple[int, Any]]) -> dict[int, str]:
    """Write contacts; return what is wrong with those that were not, by their line numbers.

    A batch that the server refuses is sent again in halves, until the line at fault is found.
    """
    body = json.dumps(
        {"contacts": [row for _, row in rows]}, ensure_ascii=False, separators=(",", ":")
    )
    answer = client.post(url, content=body.encode(), timeout=SECONDS)
    if answer.status_code not in REFUSED:
        found = json_of(answer)
        return {rows[int(index)][0]: str(reason) for index, reason in found["errors"].items()}
    if len(rows) == 1:
        return {rows[0][0]: error_of(answer)}
    half = len(rows) // 2
    return _write(client, url, rows[:half]) | _write(client, url, rows[half:])


@contacts.command()
@click.argument("account")
@click.option(
    "-o",
    "--output",
    type=click.File("wb"),
    default="-",
    help="A file instead of standard output.",
)
@config_option
def export(account: str, output: BinaryIO, config_file: Path) -> None:
    """Write every contact as a JSON Lines file that `import` takes."""
    with admin_client(load_or_exit(config_file)) as client:
        output.writelines(
            json.dumps(contact, ensure_ascii=False).encode() + b"\n"
            for contact in _pages(client, account, {})
        )


@contacts.command()
@click.argument("account")
@click.argument("key")
@config_option
def get(account: str, key: str, config_file: Path) -> None:
    """Print the contact with a key."""
    with admin_client(load_or_exit(config_file)) as client:
        answer = client.get(f"{_path(account)}/{quote(key, safe='')}")
        print_json(json_of(answer)["contact"])


@contacts.command()
@click.argument("account")
@click.argument("query")
@config_option
@json_option
def search(account: str, query: str, config_file: Path, as_json: bool) -> None:
    """Print the contacts that match a Lucene query."""
    with admin_client(load_or_exit(config_file)) as client:
        found = _pages(client, account, {"query": query})
        if as_json:
            print_json(list(found))
            return
        for contact in found:
            names = " ".join(contact[name] for name in ("name", "surname") if contact[name])
            msisdn = visible(contact["msisdn"] or "-", keep="")
            click.echo(f"{visible(contact['key'])}  {msisdn:16} {visible(names, keep='')}")


def _path(account: str) -> str:
    return f"/v1/accounts/{quote(account, safe='')}/contacts"


def _pages(client: httpx2.Client, account: str, params: dict[str, str]) -> Iterator[dict[str, Any]]:
    cursor: str | None = "0"
    while cursor is not None:
        asked = {"limit": str(PAGE), "cursor": cursor, **params}
        page = json_of(client.get(_path(account), params=asked, timeout=SECONDS))
        yield from page["contacts"]
        cursor = page["cursor"]
