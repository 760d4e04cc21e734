"""`jsbox logs`: an app's log, from the server or from the store."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from resources.text import visible, visible_json

from .client import Unreachable, admin_client, json_of, path_of, reaching
from .codes import EXIT_UNREACHABLE
from .common import config_option, end_when_unread, fail, json_option, load_or_exit
from .stored_log import stored_log

COLOURS = {
    "ERROR": "red",
    "CRITICAL": "red",
    "WARNING": "yellow",
    "MISSED": "yellow",
    "DEBUG": "bright_black",
}


@click.command()
@click.argument("app")
@config_option
@json_option
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="How many of the newest entries to show.",
)
@click.option("-f", "--follow", is_flag=True, help="Keep showing new entries.")
@click.option(
    "--level",
    type=click.Choice(["debug", "info", "warning", "error", "critical"]),
    help="Only entries of this level or above.",
)
@click.option("--since", help="Only newer ones: 10m, or 2026-02-03T04:05Z.")
@click.option("--grep", metavar="TEXT", help="Only those with this text, in any case.")
@click.option(
    "--host",
    metavar="HOST",
    help="Only what this server wrote, if several share the work: its name or machine.",
)
def logs(
    *,
    app: str,
    config_file: Path,
    as_json: bool,
    lines: int,
    follow: bool,
    level: str | None,
    since: str | None,
    grep: str | None,
    host: str | None,
) -> None:
    """Show an app's log, oldest first; times are in UTC.

    If the server is down, the log is read from the store, where nothing is written. The log has
    what all servers wrote, if several share the work; each line then says which.
    """
    config = load_or_exit(config_file)
    path = path_of("v1", "apps", app, "logs")
    given = {"level": level, "since": since, "grep": grep, "host": host}
    sieve = {name: value for name, value in given.items() if value}
    asked = sieve | {"limit": str(lines)}
    if not follow:
        try:
            with reaching(config) as client:
                entries = json_of(client.get(path, params=asked))["entries"]
        except Unreachable as error:
            click.echo(f"jsbox: {error}; the log is read from the store", err=True)
            entries = stored_log(config, app, lines, sieve)
        for entry in reversed(entries):
            _print_entry(entry, as_json=as_json)
        return
    end_when_unread()
    with admin_client(config) as client:
        with client.stream("GET", path, params=asked | {"follow": "1"}, timeout=None) as response:
            if response.is_error:
                response.read()
                json_of(response)
            for line in _lines(response.iter_bytes()):
                _print_entry(json.loads(line), as_json=as_json)
        fail("the server ended the log", EXIT_UNREACHABLE)


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a stream. JSON has no line end in it but the last; `iter_lines` would also end
    one at characters such as U+2028.
    """
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole


def _print_entry(entry: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        click.echo(visible_json(json.dumps(entry, ensure_ascii=False)))
        return
    # Further lines are indented, so that no text can look like another entry.
    text = "\n    ".join(visible(line) for line in entry["message"].split("\n"))
    level = click.style(f"{entry['level']:8}", fg=COLOURS.get(entry["level"]))
    host = f" {visible(entry['host'])}:" if entry.get("host") else ""
    click.echo(f"{entry['time']} {level}{host} {text}")
    sys.stdout.flush()
