"""`jsbox trace`: where the time of a run went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from resources.text import visible

from .client import admin_client, path_of
from .common import config_option, json_option, load_or_exit, print_json
from .hosts import ALL, Found, ask_hosts, exit_if_silent, host_option

BAR = 40  # characters


@click.command()
@click.argument("message", required=False)
@click.option("--app", help="List the newest runs of this app only.")
@click.option("--notable", is_flag=True, help="List only those that failed or were slow.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="How many to list.",
)
@host_option
@config_option
@json_option
def trace(
    *,
    message: str | None,
    app: str | None,
    notable: bool,
    lines: int,
    host: str | None,
    config_file: Path,
    as_json: bool,
) -> None:
    """Show the time line of a message's (or event's) run; without MESSAGE, list the newest runs.

    If several servers share the work, the run is looked for on all of them; the list is that of
    one, or of all with --host all.
    """
    with admin_client(load_or_exit(config_file)) as client:
        if message is not None:
            path = path_of("v1", "traces", message)
            (found,) = ask_hosts(client, [path], None if host == ALL else host)
            (body,) = found.bodies
            if as_json:
                print_json(body)
            else:
                _show(body)
            return
        asked = {"limit": str(lines)}
        asked |= ({"app": app} if app else {}) | ({"notable": "1"} if notable else {})
        answers = ask_hosts(client, ["/v1/traces"], host, **asked)
    if host != ALL:
        (body,) = answers[0].bodies
        rows = body["traces"]
    else:
        rows = _together(answers)[:lines]
        silent = [one.row({}) for one in answers if one.error]
        body = {"traces": rows, "silent": silent}
    if as_json:
        print_json(body)
    else:
        click.echo(
            f"{'BEGAN':27} {'APP':16} {'OUTCOME':10} {'TOTAL':>9} {'QUEUE':>8} {'HELD':>8}"
            f" {'BOOT':>8} {'CMDS':>5}  MESSAGE{'  HOST' if host == ALL else ''}"
        )
        for row in rows:
            click.echo(_row(row))
        for one in answers:
            if one.error:
                one.show_name()
    exit_if_silent(answers)


def _together(answers: Sequence[Found]) -> list[dict[str, Any]]:
    """The runs of all servers, newest first, each with the name of its server."""
    rows = [
        row | {"host": one.name}
        for one in answers
        if not one.error
        for row in one.bodies[0]["traces"]
    ]
    return sorted(rows, key=lambda row: str(row["began"]), reverse=True)


def _row(one: dict[str, Any]) -> str:
    ms = one["ms"]
    outcome = _coloured(one["outcome"], 10)
    host = f"  {visible(one['host'])}" if one.get("host") else ""
    return (
        f"{one['began']} {one['app']:16} {outcome} {ms['total']:>7.1f}ms {ms['queue']:>6.1f}ms"
        f" {ms['held']:>6.1f}ms {ms['boot']:>6.1f}ms {one['commands']:>5}"
        f"  {visible(one['message'])}{host}"
    )


def _coloured(outcome: str | None, width: int) -> str:
    text = f"{outcome or '-':{width}}"
    return click.style(text, fg="green" if outcome == "ok" else "red")


def _show(one: dict[str, Any]) -> None:
    ms = one["ms"]
    host = f", host {visible(one['host'])}" if one.get("host") else ""
    click.echo(
        f"{one['kind']} {visible(one['message'])} on {one['channel']}, app {one['app']},"
        f" process {one['pid']}{host}"
    )
    click.echo(f"{one['began']}  {_coloured(one['outcome'], 0)}  {ms['total']:.1f} ms")
    if one["detail"]:
        click.echo("  " + "\n  ".join(visible(line) for line in one["detail"].splitlines()))
    total = max(ms["total"], 0.001)
    start = before = 0.0
    for name in ("queue", "held", "boot", "run"):
        before = start
        if name != "held" or ms["held"]:
            text = "held back: runs before it ended their process" if name == "held" else name
            click.echo(f"{start:>9.1f} {ms[name]:>9.1f}ms {_bar(start, ms[name], total)} {text}")
        start += ms[name]
    for step in one["steps"]:
        start = before + step["at_ms"]
        took = "        - " if step["ms"] is None else f"{step['ms']:>9.1f}ms"
        wrong = ""
        if step["outcome"] not in {"ok", ""}:
            wrong = click.style(f"  {visible(step['outcome'])}", fg="red")
        bar = _bar(start, step["ms"] or 0.0, total)
        name, note = step["name"], visible(step["note"])
        click.echo(f"{start:>9.1f} {took} {bar}   {name} {note}{wrong}")
    if one["left_out"]:
        click.echo(f"{'':>20} {'':{BAR}}   and {one['left_out']} more")


def _bar(start: float, length: float, total: float) -> str:
    first = min(int(start / total * BAR), BAR - 1)
    width = max(min(round(length / total * BAR), BAR - first), 1)
    return f"{' ' * first}{'━' * width:{BAR - first}}"
