"""`jsbox outbox`: what apps have sent and no gateway, broker or Junebug has taken yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import httpx2

from resources.text import visible

from ..config.units import show_size
from .client import admin_client, error_of, json_of, path_of
from .common import config_option, fail, json_option, load_or_exit, print_json

PAGE = 1000  # messages asked for at a time
PATH = "/v1/outbox"


@click.group(invoke_without_command=True)
@config_option
@json_option
@click.pass_context
def outbox(context: click.Context, config_file: Path, as_json: bool) -> None:
    """Show how much waits on each channel to be sent; list, show or drop messages."""
    if context.invoked_subcommand is not None:
        return
    with admin_client(load_or_exit(config_file)) as client:
        body = json_of(client.get(PATH))
    if as_json:
        print_json(body)
        return
    click.echo(f"{'CHANNEL':20} {'WAITING':>8} {'SIZE':>9}  OLDEST")
    for one in body["outboxes"]:
        size = show_size(one["bytes"]) if one["bytes"] else "-"
        click.echo(f"{one['channel']:20} {one['count']:>8} {size:>9}  {one['oldest'] or '-'}")


@outbox.command(name="list")
@click.argument("channel")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="How many of the oldest.",
)
@config_option
@json_option
def list_messages(channel: str, lines: int, config_file: Path, as_json: bool) -> None:
    """List the messages that wait on a channel, oldest first."""
    found: list[dict[str, Any]] = []
    cursor = 0
    with admin_client(load_or_exit(config_file)) as client:
        while len(found) < lines and cursor is not None:
            asked = {"limit": str(min(lines - len(found), PAGE)), "cursor": str(cursor)}
            body = json_of(client.get(_path(channel), params=asked))
            found += body["messages"]
            cursor = body["cursor"]
    if as_json:
        print_json({"messages": found})
        return
    if not found:
        click.echo(f"nothing waits on channel {visible(channel)}")
        return
    click.echo(f"{'NUMBER':>10} {'TIME (UTC)':27} {'TRIES':>5} {'BYTES':>7}  {'TO':16}  MESSAGE")
    for one in found:
        to_addr, message_id = (
            visible(str(one[key] or "-"), keep="") for key in ("to_addr", "message_id")
        )
        click.echo(
            f"{one['delivery']:>10} {visible(str(one['timestamp'] or '-'), keep=''):27}"
            f" {one['attempts']:>5} {one['bytes']:>7}  {to_addr:16}  {message_id}"
        )


@outbox.command()
@click.argument("channel")
@click.argument("number", type=click.IntRange(1))
@config_option
def show(channel: str, number: int, config_file: Path) -> None:
    """Print a message in full, as JSON."""
    with admin_client(load_or_exit(config_file)) as client:
        print_json(json_of(client.get(_path(channel, number))))


@outbox.command()
@click.argument("channel")
@click.argument("numbers", metavar="NUMBER...", nargs=-1, type=click.IntRange(1))
@click.option("--all", "is_all", is_flag=True, help="Everything that waits there now.")
@config_option
@json_option
def drop(
    channel: str, numbers: tuple[int, ...], is_all: bool, config_file: Path, as_json: bool
) -> None:
    """Delete messages that wait. The app is not told. A gateway may have sent what it was given."""
    if bool(numbers) is is_all:
        raise click.UsageError("expected NUMBERs, or --all")
    errors: dict[str, str] = {}
    with admin_client(load_or_exit(config_file)) as client:
        if is_all:
            count = _drop_all(client, channel)
        else:
            for number in numbers:
                answer = client.delete(_path(channel, number))
                if answer.is_error:
                    errors[str(number)] = error_of(answer)
            count = len(numbers) - len(errors)
    if as_json:
        print_json({"dropped": count, "errors": errors})
    else:
        click.echo(f"{count} dropped")
        for name, reason in errors.items():
            click.echo(f"{name}: {visible(reason)}", err=True)
    if errors:
        fail(f"{len(errors)} were not dropped")


def _drop_all(client: httpx2.Client, channel: str) -> int:
    """Drop what waits now, in pages; return how many messages."""
    rows = json_of(client.get(PATH))["outboxes"]
    newest = next((one["newest"] for one in rows if one["channel"] == channel), None)
    if newest is None:
        fail(f"there is no channel {channel!r}")
    count, is_more = 0, bool(newest)
    while is_more:
        body = json_of(client.delete(_path(channel), params={"until": str(newest)}))
        count, is_more = count + body["dropped"], body["more"]
    return count


def _path(channel: str, number: int | None = None) -> str:
    path = PATH + path_of(channel)
    return path if number is None else f"{path}/{number}"
