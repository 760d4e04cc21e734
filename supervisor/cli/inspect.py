"""`jsbox logs`, `ps`, `reload`: clients of the admin port."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from urllib.parse import quote

import click

from resources.text import visible, visible_json

from .client import Unreachable, admin_client, json_of, reaching
from .common import (
    EXIT_UNREACHABLE,
    config_option,
    fail,
    json_option,
    load_or_exit,
    print_json,
)
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
    "-n", "--lines", default=100, show_default=True, help="How many of the newest entries to show."
)
@click.option("-f", "--follow", is_flag=True, help="Keep showing new entries.")
@click.option(
    "--level",
    type=click.Choice(["debug", "info", "warning", "error", "critical"]),
    help="Only entries of this level or above.",
)
@click.option("--since", help="Only newer ones: 10m, or 2026-02-03T04:05Z.")
@click.option("--grep", metavar="TEXT", help="Only those with this text, in any case.")
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
) -> None:
    """Show an app's log, oldest first; times are in UTC.

    If the server is down, the log is read from the store, where nothing is written.
    """
    config = load_or_exit(config_file)
    path = f"/v1/apps/{quote(app, safe='')}/logs"
    given = {"level": level, "since": since, "grep": grep}
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
    with admin_client(config) as client:
        with client.stream("GET", path, params=asked | {"follow": "1"}, timeout=None) as response:
            if response.is_error:
                response.read()
                json_of(response)
            for line in response.iter_lines():
                _print_entry(json.loads(line), as_json=as_json)
        fail("the server ended the log", EXIT_UNREACHABLE)


def _print_entry(entry: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        click.echo(visible_json(json.dumps(entry, ensure_ascii=False)))
        return
    # Further lines are indented, so that no text can look like another entry.
    text = "\n    ".join(visible(line) for line in entry["message"].split("\n"))
    level = click.style(f"{entry['level']:8}", fg=COLOURS.get(entry["level"]))
    click.echo(f"{entry['time']} {level} {text}")
    sys.stdout.flush()


@click.command()
@config_option
@json_option
def ps(config_file: Path, as_json: bool) -> None:
    """Show the sandbox processes, the apps that do not run well, the channels that jsbox keeps
    connected, and every other problem that /readyz names.

    An app is broken (it cannot be loaded), tripped (its processes kept crashing; nothing runs until
    a reload), backing off (its next process is held back for a while) or failing (too many of its
    newest runs ended badly).
    """
    with admin_client(load_or_exit(config_file)) as client:
        body = json_of(client.get("/v1/sandboxes"))
        apps = json_of(client.get("/v1/apps"))["apps"]
        channels = json_of(client.get("/v1/channels"))["channels"]
        hosts = json_of(client.get("/v1/hosts"))["hosts"]
        problems = client.get("/readyz").text.splitlines()[1:]
    body["hosts"] = hosts
    body["not_running"] = [
        {key: one[key] for key in ("name", "state", "last", "queue")}
        for one in apps
        if one["state"] != "running"
    ]
    body["channels"] = [one for one in channels if one["type"] != "websocket"]
    shown = [f"app {one['name']}: state: " for one in apps]
    shown += [f"channel {one['name']}: " for one in body["channels"]]
    body["problems"] = [line for line in problems if not any(one in line for one in shown)]
    if as_json:
        print_json(body)
        return
    click.echo(f"{'APP':20} {'PID':>8} {'STATE':6} {'RSS':>9} {'CPU':>9} {'RUNS':>8} {'AGE':>9}")
    for one in body["sandboxes"] + body["spares"]:
        rss = f"{one['rss'] / (1 << 20):.1f}MiB"
        click.echo(
            f"{one['app'] or '-':20} {one['pid']:>8} {one['state']:6} {rss:>9}"
            f" {one['cpu']:>8.2f}s {one['runs']:>8} {one['age']:>8.0f}s"
        )
    for one in body["not_running"]:
        held = f", {one['queue']} messages wait" if one["queue"] else ""
        last = visible(one["last"].split("\n")[0])
        click.echo(f"{one['name']:20} {one['state']}{held}: {last}")
    for one in body["channels"]:
        problem = f": {visible(one['problem'])}" if one["problem"] else ""
        click.echo(f"{one['name']:20} {one['type']} {one['state']}{problem}")
    for one in body["hosts"]:
        this = ", this one" if one["is_this"] else ""
        click.echo(
            f"host {visible(one['name'])} {one['state']}{this}: admin {one['admin']},"
            f" config {one['config']}, version {one['version']}"
        )
    for line in body["problems"]:
        click.echo(visible(line))


@click.command()
@config_option
@json_option
def reload(config_file: Path, as_json: bool) -> None:
    """Make the server reload its config, wholly or not at all."""
    with admin_client(load_or_exit(config_file)) as client:
        body = json_of(client.post("/v1/reload"))
    if as_json:
        print_json(body)
    elif body["ok"]:
        for title, key in (
            ("live", "live"),
            ("next process", "next_process"),
            ("needs a restart", "restart"),
        ):
            for name in body[key]:
                click.echo(f"{title:16} {name}")
        if not any(body[key] for key in ("live", "next_process", "restart")):
            click.echo("nothing has changed")
    else:
        for error in body["errors"]:
            click.echo(visible(error), err=True)
        click.echo("jsbox: the server keeps its old config", err=True)
    sys.exit(0 if body["ok"] else 3)
