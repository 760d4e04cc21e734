"""`jsbox trace`: where the time of a run went."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from resources.text import visible

from .client import admin_client, json_of
from .common import config_option, json_option, load_or_exit, print_json

BAR = 40  # characters


@click.command()
@click.argument("message", required=False)
@click.option("--app", help="List the newest runs of this app only.")
@click.option("--notable", is_flag=True, help="List only those that failed or were slow.")
@click.option("-n", "--lines", default=20, show_default=True, help="How many to list.")
@config_option
@json_option
def trace(
    message: str | None,
    app: str | None,
    notable: bool,
    lines: int,
    config_file: Path,
    as_json: bool,
) -> None:
    """Show the time line of a message's (or event's) run; without MESSAGE, list the newest runs."""
    with admin_client(load_or_exit(config_file)) as client:
        if message is None:
            asked = (
                {"limit": str(lines)}
                | ({"app": app} if app else {})
                | ({"notable": "1"} if notable else {})
            )
            body = json_of(client.get("/v1/traces", params=asked))
        else:
            body = json_of(client.get(f"/v1/traces/{quote(message, safe='')}"))
    if as_json:
        print_json(body)
    elif message is None:
        click.echo(
            f"{'BEGAN':27} {'APP':16} {'OUTCOME':10} {'TOTAL':>9} {'QUEUE':>8} {'HELD':>8}"
            f" {'BOOT':>8} {'CMDS':>5}  MESSAGE"
        )
        for one in body["traces"]:
            click.echo(_row(one))
    else:
        _show(body)


def _row(one: dict[str, Any]) -> str:
    ms = one["ms"]
    outcome = _coloured(one["outcome"], 10)
    return (
        f"{one['began']} {one['app']:16} {outcome} {ms['total']:>7.1f}ms {ms['queue']:>6.1f}ms"
        f" {ms['held']:>6.1f}ms {ms['boot']:>6.1f}ms {one['commands']:>5}"
        f"  {visible(one['message'])}"
    )


def _coloured(outcome: str | None, width: int) -> str:
    text = f"{outcome or '-':{width}}"
    return click.style(text, fg="green" if outcome == "ok" else "red")


def _show(one: dict[str, Any]) -> None:
    ms = one["ms"]
    click.echo(
        f"{one['kind']} {visible(one['message'])} on {one['channel']}, app {one['app']},"
        f" process {one['pid']}"
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
