"""`jsbox deadletters`: messages set aside because the server died of them, or cannot read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import httpx2

from resources.text import visible

from .client import admin_client, json_of, path_of
from .common import config_option, fail, json_option, load_or_exit, print_json

PAGE = 1000  # letters asked for at a time
PATH = "/v1/deadletters"

app_option = click.option("--app", help="Only those of this app; it need not be in the config.")
lines_option = click.option(
    "-n",
    "--lines",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="How many of the newest to list.",
)


@click.group(invoke_without_command=True)
@app_option
@lines_option
@config_option
@json_option
@click.pass_context
def deadletters(
    context: click.Context, app: str | None, lines: int, config_file: Path, as_json: bool
) -> None:
    """List the messages that were set aside; show, retry or drop them.

    A message is set aside if the server died while it was in progress, [journal] attempts times, or
    if its journal entry cannot be read.
    """
    if context.invoked_subcommand is None:
        _list(app, lines, config_file, as_json=as_json)


@deadletters.command(name="list")
@app_option
@lines_option
@config_option
@json_option
def list_letters(app: str | None, lines: int, config_file: Path, as_json: bool) -> None:
    """List them, newest first."""
    _list(app, lines, config_file, as_json=as_json)


@deadletters.command()
@click.argument("letter", metavar="ID")
@config_option
@json_option
def show(letter: str, config_file: Path, as_json: bool) -> None:
    """Show one in full."""
    with admin_client(load_or_exit(config_file)) as client:
        body = json_of(client.get(_path(letter)))
    if as_json:
        print_json(body)
        return
    for name, value in body.items():
        if name == "entry":
            for key, inner in value.items():
                click.echo(f"  {visible(key)}: {visible(str(inner))}")
        else:
            click.echo(f"{name}: {visible(str(value))}")


@deadletters.command()
@click.argument("letters", metavar="ID...", nargs=-1)
@click.option("--app", help="All those of this app.")
@config_option
@json_option
def retry(letters: tuple[str, ...], app: str | None, config_file: Path, as_json: bool) -> None:
    """Run some again, after everything that waits."""
    _each(
        letters,
        app,
        config_file,
        "retried",
        lambda client, one: client.post(f"{_path(one)}/retry"),
        as_json=as_json,
    )


@deadletters.command()
@click.argument("letters", metavar="ID...", nargs=-1)
@click.option("--app", help="All those of this app.")
@config_option
@json_option
def drop(letters: tuple[str, ...], app: str | None, config_file: Path, as_json: bool) -> None:
    """Delete some."""
    _each(
        letters,
        app,
        config_file,
        "dropped",
        lambda client, one: client.delete(_path(one)),
        as_json=as_json,
    )


def _path(letter: str) -> str:
    return PATH + path_of(letter)


def _list(app: str | None, lines: int, config_file: Path, *, as_json: bool) -> None:
    with admin_client(load_or_exit(config_file)) as client:
        found = _newest(client, app, lines)
    if as_json:
        print_json({"deadletters": found})
        return
    if not found:
        click.echo("there are no dead letters")
        return
    click.echo(
        f"{'TIME':27} {'APP':16} {'KIND':8} {'ATTEMPTS':>8} {'BYTES':>8}  {'ID':30}"
        "  MESSAGE  REASON"
    )
    for one in found:
        click.echo(
            f"{one['time']:27} {one['app']:16} {one['kind'] or '-':8} {one['attempts']:>8}"
            f" {one['size']:>8}  {one['id']:30}  {visible(one['message_id']) or '-'}"
            f"  {visible(one['reason'])}"
        )


def _newest(client: httpx2.Client, app: str | None, most: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while len(found) < most:
        asked = {"limit": str(min(most - len(found), PAGE))}
        asked |= ({"app": app} if app else {}) | ({"cursor": cursor} if cursor else {})
        body = json_of(client.get(PATH, params=asked))
        found += body["deadletters"]
        cursor = body["cursor"]
        if cursor is None:
            break
    return found


def _each(
    letters: tuple[str, ...],
    app: str | None,
    config_file: Path,
    done: str,
    act: Callable[[httpx2.Client, str], httpx2.Response],
    *,
    as_json: bool,
) -> None:
    if bool(letters) is bool(app):
        raise click.UsageError("expected IDs, or --app NAME")
    errors: dict[str, str] = {}
    with admin_client(load_or_exit(config_file)) as client:
        # oldest first
        names = letters or tuple(one["id"] for one in reversed(_newest(client, app, 1 << 31)))
        for one in names:
            answer = act(client, one)
            if answer.is_error:
                errors[one] = _reason(answer)
    if as_json:
        print_json({done: [one for one in names if one not in errors], "errors": errors})
    else:
        click.echo(f"{len(names) - len(errors)} {done}")
        for one, reason in errors.items():
            click.echo(f"{one}: {visible(reason)}", err=True)
    if errors:
        fail(f"{len(errors)} were not {done}")


def _reason(answer: httpx2.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {answer.status_code}"
