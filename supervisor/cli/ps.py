"""`jsbox ps`: what runs, and what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from resources.text import visible

from .client import admin_client, json_of
from .common import config_option, json_option, load_or_exit, print_json
from .hosts import ALL, ask_hosts, exit_if_silent, host_option

PATHS = ("/v1/sandboxes", "/v1/apps", "/v1/channels", "/readyz", "/v1/overview")
MORE = ("unread", "rejected", "slow", "failed")  # troubles of the overview that /readyz lacks


@click.command()
@host_option
@config_option
@json_option
def ps(host: str | None, config_file: Path, as_json: bool) -> None:
    """Show the sandbox processes, the apps that do not run well, the channels that jsbox keeps
    connected, and every other problem that /readyz and the console's overview name.

    An app is broken (it cannot be loaded), tripped (its processes kept crashing; nothing runs until
    a reload), backing off (its next process is held back for a while) or failing (too many of its
    newest runs ended badly).

    If several servers share the work, each has processes of its own: --host all shows all.
    """
    with admin_client(load_or_exit(config_file)) as client:
        found = ask_hosts(client, PATHS, host)
        hosts = json_of(client.get("/v1/hosts"))["hosts"]
    if host != ALL:
        body = _body(*found[0].bodies) | {"hosts": hosts}
        if as_json:
            print_json(body)
        else:
            _show(body)
            _show_hosts(hosts)
            _show_problems(body)
        return
    if as_json:
        rows = [one.row({} if one.error else _body(*one.bodies)) for one in found]
        print_json({"hosts": rows})
    else:
        for number, one in enumerate(found):
            if number:
                click.echo()
            one.show_name()
            if not one.error:
                body = _body(*one.bodies)
                _show(body)
                _show_problems(body)
        click.echo()
        _show_hosts(hosts)
    exit_if_silent(found)


def _body(
    sandboxes: Mapping[str, Any],
    apps: Mapping[str, Any],
    channels: Mapping[str, Any],
    ready: str,
    overview: Mapping[str, Any],
) -> dict[str, Any]:
    """What is shown of one server."""
    bad = [
        {key: one[key] for key in ("name", "state", "last", "queue")}
        for one in apps["apps"]
        if one["state"] != "running"
    ]
    kept = [one for one in channels["channels"] if one["type"] != "websocket"]
    shown = [f"app {one['name']}: state: " for one in apps["apps"]]
    shown += [f"channel {one['name']}: " for one in kept]
    problems = [
        line for line in ready.splitlines()[1:] if not any(one in line for one in shown)
    ]  # fmt: skip
    problems += [_line(one) for one in overview["troubles"] if one["what"] in MORE]
    return {**sandboxes, "not_running": bad, "channels": kept, "problems": problems}


def _line(trouble: Mapping[str, Any]) -> str:
    where = "channel" if trouble["channel"] else "app"
    return f"{where} {trouble[where]}: {trouble['what']}: {trouble['text']}"


def _show(body: Mapping[str, Any]) -> None:
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


def _show_hosts(hosts: Sequence[Mapping[str, Any]]) -> None:
    for one in hosts:
        this = ", this one" if one["is_this"] else ""
        click.echo(
            f"host {visible(one['name'])} {one['state']}{this}: id {one['id']}, admin"
            f" {one['admin']}, config {one['config']}, version {one['version']}"
        )


def _show_problems(body: Mapping[str, Any]) -> None:
    for line in body["problems"]:
        click.echo(visible(line))
