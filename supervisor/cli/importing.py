"""What `jsbox contacts`, `groups` and `optouts` share: pages of a list, and the import of a file
into an account of a running server.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import click
import httpx2
from attrs import frozen

from resources.text import visible

from .client import admin_client, error_of, json_of, path_of
from .common import config_option, fail, json_option, load_or_exit, print_json
from .imports import Import, ImportChanged
from .rows import Columns, Unreadable

PAGE = 500  # rows asked for at once
SECONDS = 60.0  # for one answer
REFUSED = frozenset({400, 413, 500})  # status codes that a single row may have caused
ERRORS_SHOWN = 10  # of an import
DRY_ERRORS_SHOWN = 100  # of one that writes no file with them

Rows = Sequence[tuple[int, Any]]
"""Rows, each with the number of its line."""


@frozen
class Kind:
    """What is imported.

    Attributes:
        name: As in the path of the admin port.
        columns: What a CSV file of it may have.
        is_keyed: A row without a key gets one.
    """

    name: str
    columns: Columns
    is_keyed: bool = False


def options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what every import takes."""
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    decorators = (
        click.argument("account"),
        click.argument("file", type=file),
        click.option(
            "--format",
            "form",
            type=click.Choice(["csv", "jsonl"]),
            help="Of the file; by default CSV if its name ends with .csv, else JSON Lines.",
        ),
        click.option(
            "--dry-run", is_flag=True, help="Check every row, and write nothing anywhere."
        ),
        click.option(
            "--restart", is_flag=True, help="Start over, even if an earlier import was interrupted."
        ),
        config_option,
        json_option,
    )
    for add in reversed(decorators):
        command = add(command)
    return command


@frozen(kw_only=True)
class Asked:
    """What the command line asks for."""

    account: str
    file: Path
    form: str | None
    dry_run: bool
    restart: bool
    config_file: Path
    as_json: bool

    @property
    def is_csv(self) -> bool:
        """Whether the file is CSV."""
        return self.form == "csv" or (self.form is None and self.file.suffix.lower() == ".csv")


Prepare = Callable[[httpx2.Client, Rows], Mapping[int, str]]
"""Changes rows before they are sent; gives what is wrong with some, by line."""


def nothing(_client: httpx2.Client, _rows: Rows) -> Mapping[int, str]:
    """Change no row."""
    return {}


def run_import(kind: Kind, asked: Asked, prepare: Prepare = nothing) -> None:
    """Import a file, and exit: with 1 if some rows are wrong."""
    is_contacts = kind.name == "contacts"
    into = asked.account if is_contacts else f"{asked.account}/{kind.name}"
    try:
        with (
            admin_client(load_or_exit(asked.config_file)) as client,
            Import.open(
                asked.file,
                into,
                restart=asked.restart,
                is_dry=asked.dry_run,
                columns=kind.columns if asked.is_csv else None,
                is_keyed=kind.is_keyed,
            ) as work,
        ):
            if work.done and not asked.as_json:
                click.echo(f"{asked.file}: resuming after line {work.lines}", err=True)
            errors = _run(client, work, kind, asked, prepare)
    except (ImportChanged, Unreadable) as error:
        fail(f"{asked.file}: {error}" if isinstance(error, Unreadable) else str(error))
    except OSError as error:
        fail(f"{error.filename or asked.file}: {error.strerror or error}")
    _report(asked, work, errors)
    sys.exit(1 if work.summary.failed else 0)


def _report(asked: Asked, work: Import, errors: Sequence[tuple[int, str]]) -> None:
    written, failed = work.summary.written, work.summary.failed
    if asked.as_json:
        rows = [{"line": line, "error": reason} for line, reason in errors]
        found = {"written": written, "failed": failed}
        print_json(found | ({"dry_run": True, "errors": rows} if asked.dry_run else {}))
        return
    for line, reason in errors:
        click.echo(f"line {line}: {visible(reason)}", err=True)
    if failed > len(errors):
        click.echo(f"and {failed - len(errors)} more", err=True)
    if asked.dry_run:
        click.echo(f"dry run: {written} would be written, {failed} wrong")
    else:
        more = f", see {asked.file}.errors" if failed else ""
        click.echo(f"{written} written, {failed} wrong{more}")


def _run(
    client: httpx2.Client, work: Import, kind: Kind, asked: Asked, prepare: Prepare
) -> list[tuple[int, str]]:
    """Import the rest of the file; return the first errors with their lines."""
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
    errors, most = list[tuple[int, str]](), DRY_ERRORS_SHOWN if asked.dry_run else ERRORS_SHOWN
    url = list_path(asked.account, kind.name) + ("?dry_run=1" if asked.dry_run else "")
    with Progress(*columns, console=Console(stderr=True), disable=asked.as_json) as progress:
        bar = progress.add_task(kind.name, total=work.size, completed=work.done)
        for batch in work.batches():
            batch.errors |= prepare(client, batch.rows)
            right = [(line, row) for line, row in batch.rows if line not in batch.errors]
            if right:
                batch.errors |= _write(client, url, kind.name, right)
            work.finish(batch)
            errors += sorted(batch.errors.items())[: most - len(errors)]
            progress.update(
                bar, completed=work.done, description=f"{work.summary.written} {kind.name}"
            )
    work.end()
    return errors


def _write(client: httpx2.Client, url: str, name: str, rows: Rows) -> dict[int, str]:
    """Write rows; return what is wrong with those that were not, by their line numbers.

    A batch that the server refuses is sent again in halves, until the line at fault is found.
    """
    body = json.dumps({name: [row for _, row in rows]}, ensure_ascii=False, separators=(",", ":"))
    answer = client.post(url, content=body.encode(), timeout=SECONDS)
    if answer.status_code not in REFUSED:
        found = json_of(answer)
        return {rows[int(index)][0]: str(reason) for index, reason in found["errors"].items()}
    if len(rows) == 1:
        return {rows[0][0]: error_of(answer)}
    half = len(rows) // 2
    return _write(client, url, name, rows[:half]) | _write(client, url, name, rows[half:])


def list_path(account: str, name: str) -> str:
    """The path of a list of an account."""
    return path_of("v1", "accounts", account, name)


def pages(
    client: httpx2.Client,
    account: str,
    name: str,
    params: Mapping[str, str] | None = None,
    unreadable: list[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Every row of a list that comes in pages. The keys of those that the server cannot read are
    added to `unreadable`, with a warning.
    """
    unreadable = [] if unreadable is None else unreadable
    cursor: str | None = "0"
    while cursor is not None:
        asked = {"limit": str(PAGE), "cursor": cursor, **(params or {})}
        page = json_of(client.get(list_path(account, name), params=asked, timeout=SECONDS))
        warn_unreadable(page, unreadable)
        yield from page[name]
        cursor = page["cursor"]


def warn_unreadable(page: Mapping[str, Any], unreadable: list[str]) -> None:
    """Warn of rows that the server cannot read, and left out; add their keys to a list."""
    for key, why in page.get("unreadable", {}).items():
        click.echo(f"jsbox: warning: {visible(why)}; it is left out", err=True)
        unreadable.append(key)


def exit_if_incomplete(unreadable: Sequence[str]) -> None:
    """Exit with code 1 if an export lacks something."""
    if unreadable:
        fail(f"the export is not complete: {len(unreadable)} cannot be read")


def is_csv(output: BinaryIO) -> bool:
    """Whether a file that is written is to be CSV: its name ends with .csv."""
    return str(getattr(output, "name", "")).lower().endswith(".csv")


def write_rows(
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[str],
    output: BinaryIO,
    *,
    as_csv: bool = False,
) -> None:
    """Write rows as the import takes them: CSV with these columns with `as_csv`, or if the file's
    name ends with .csv; else JSON Lines with these fields.
    """
    if not as_csv and not is_csv(output):
        for row in rows:
            kept = {name: row[name] for name in columns}
            output.write(json.dumps(kept, ensure_ascii=False).encode() + b"\n")
        return
    text = io.TextIOWrapper(output, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        writer.writerow(["" if row[name] is None else row[name] for name in columns])
    with suppress(ValueError):
        text.detach()
