"""`jsbox replay`: play a recorded run again."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click
import trio

from resources.stores.recordings import Recording, decode
from resources.text import visible

from ..config import Config
from ..config.model import App
from ..config.source_maps import source_map_of
from .client import admin_client, json_of, path_of
from .common import (
    config_option,
    fail,
    json_option,
    load_or_exit,
    print_json,
    run_or_exit,
)

if TYPE_CHECKING:
    from ..tools.replay import Compared, Difference

SHOWN_MAX = 300  # characters of a value
SIGNS = {
    "same": (" ", None),
    "varies": ("~", "bright_black"),
    "changed": ("!", "yellow"),
    "missing": ("-", "red"),
    "new": ("+", "green"),
}


@click.command()
@click.argument("message")
@click.option(
    "--app",
    "source",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Replay it with this JavaScript instead.",
)
@click.option(
    "--as",
    "name",
    help="The app whose modules, limits and config to use (default: the recorded one).",
)
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Only write the recording to this file.",
)
@config_option
@json_option
def replay(
    *,
    message: str,
    source: Path | None,
    name: str | None,
    save: Path | None,
    config_file: Path,
    as_json: bool,
) -> None:
    """Replay a recorded run in a fresh sandbox, and check whether the app does the same.

    No resource is touched. MESSAGE is a message_id or event_id of an app with `record = true`,
    whose recording the server has, or a file written by --save. Exit codes: 0 the app did the same,
    1 it did not.
    """
    config = load_or_exit(config_file)
    text = _recording_text(message, config)
    if save is not None:
        save.write_bytes(text)
        click.echo(f"written: {save}")
        return
    try:
        recording = decode(text)
    except ValueError as error:
        fail(f"{message} is not a recording: {error}")
    app = _app(config, name or recording.app, source)
    run_or_exit(partial(_play, recording, app, config, as_json))


def _recording_text(message: str, config: Config) -> bytes:
    if Path(message).is_file():
        return Path(message).read_bytes()
    with admin_client(config) as client:
        response = client.get(path_of("v1", "recordings", message))
        if response.is_error:
            json_of(response)
        return response.content


def _app(config: Config, name: str, source: Path | None) -> App:
    if name not in config.apps:
        fail(f"the config has no app {name!r}; choose one with --as")
    app = config.apps[name]
    if source is None:
        return app
    try:
        text = source.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{source} cannot be read: {error}")
    source_map = source_map_of(source, text)
    return attrs.evolve(app, javascript=source, source=text, source_map=source_map)


async def _play(recording: Recording, app: App, config: Config, as_json: bool) -> int:
    from ..errors import BootFailed
    from ..host.version import node_path
    from ..jail.walls import open_isolation
    from ..service import HARNESS
    from ..tools.replay import replay as play_again

    with open_isolation(config.isolation, node_path(config), HARNESS) as walls:
        await trio.to_thread.run_sync(walls.prepare, (app,))
        try:
            compared = await play_again(recording, app, walls)
        except* BootFailed as failed:
            reasons = "; ".join(map(str, failed.exceptions))
            fail(f"app {app.name} could not be started: {reasons}")
    if as_json:
        print_json(_as_json(recording, compared))
    else:
        _show(recording, app, compared)
    return 0 if compared.is_same else 1


def _as_json(recording: Recording, compared: Compared) -> dict[str, Any]:
    return {
        "message": recording.id,
        "app": recording.app,
        "same": compared.is_same,
        "then": dict(zip(("outcome", "detail"), compared.then, strict=True)),
        "now": dict(zip(("outcome", "detail"), compared.now, strict=True)),
        "commands": [
            {
                "kind": line.kind,
                "name": line.name,
                "then": line.then,
                "now": line.now,
                "fields": {
                    path: {"then": then, "now": now} for path, (then, now) in line.fields.items()
                },
            }
            for line in compared.lines
        ],
    }


def _show(recording: Recording, app: App, compared: Compared) -> None:
    content = recording.payload.get("content")
    click.echo(
        f"{recording.kind} {visible(recording.id)} to app {recording.app},"
        f" content {_value(content)}, replayed with {app.javascript}"
    )
    if app.digest != recording.source:
        click.echo("note: the app's source has changed since")
    for line in compared.lines:
        _show_line(line)
    if recording.left_out:
        click.echo(f"  {recording.left_out} further commands were not recorded")
    for title, (outcome, detail) in (("then", compared.then), ("now", compared.now)):
        click.echo(
            f"{title:5} {outcome}" + (f": {visible(detail.splitlines()[0])}" if detail else "")
        )
    verdict = "the app does the same" if compared.is_same else "the app does something else"
    click.echo(click.style(verdict, fg="green" if compared.is_same else "red"))


def _show_line(line: Difference) -> None:
    _, colour = SIGNS[line.kind]
    first, *rest = lines_of(line)
    click.echo(click.style(first, fg=colour))
    for text in rest:
        click.echo(text)


def lines_of(line: Difference) -> list[str]:
    """A command of a replay, and how it differs from the recorded one."""
    sign, _ = SIGNS[line.kind]
    request = line.then if line.now is None else line.now
    shown = "" if line.fields else " " + _value(request)
    note = {"varies": "  (it varies by itself)", "new": "  (not recorded)"}.get(line.kind, "")
    found = [f"{sign} {visible(line.name)}{shown}{note}"]
    if line.kind == "changed":
        for path, (then, now) in line.fields.items():
            found.append(f"    {visible(path)}: {_value(then)} -> {_value(now)}")
    return found


def _value(value: Any) -> str:
    text = visible(json.dumps(value, ensure_ascii=False, sort_keys=True))
    width = SHOWN_MAX if os.isatty(1) else SHOWN_MAX * 4
    return (
        text if len(text) <= width else f"{text[:width]}... [{len(text) - width} more characters]"
    )
