"""What the commands share: finding the config, exit codes, logging, running a service."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import click
import trio

from resources.fence import cause_of, leaves

from ..config import Config, InvalidConfig, load
from ..errors import CannotStart

EXIT_FAILED, EXIT_CONFIG, EXIT_UNREACHABLE, EXIT_INTERRUPTED = 1, 3, 4, 130
SHOWN_MAX = 3  # tracebacks of errors that nobody expected

config_option = click.option(
    "-c", "--config", "config_file", type=click.Path(path_type=Path), default=Path("jsbox.toml"), show_default=True,
    help="The config file.",
)  # fmt: skip
isolation_option = click.option(
    "--isolation", type=click.Choice(["strict", "standard", "none"]), default="standard", show_default=True,
    help="How the app is held; none: resource limits only, for your own code.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def fail(text: str, code: int = EXIT_FAILED) -> NoReturn:
    """Say why and leave."""
    click.echo(f"jsbox: {text}", err=True)
    sys.exit(code)


def load_or_exit(file: Path) -> Config:
    """The config, or every error in it and exit code 3."""
    try:
        config = load(file)
    except InvalidConfig as error:
        click.echo(str(error), err=True)
        count = len(error.problems)
        fail(f"{count} error{'s' if count > 1 else ''} in {file}", EXIT_CONFIG)
    for warning in config.warnings:
        click.echo(f"jsbox: warning: {warning}", err=True)
    return config


def print_json(value: Any) -> None:
    """One JSON document; with escapes where the locale, or Unicode, lacks a character."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    click.echo(text)


def start_logging(level: str) -> None:
    """The process's own log, on stderr."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.captureWarnings(capture=True)


def run_or_exit(main: Callable[[], Awaitable[int]], cannot: int = EXIT_FAILED) -> NoReturn:
    """Run until it returns an exit code, and exit with it.

    What keeps it from starting is said in one line, with exit code `cannot`. An error that nobody
    expected is said with its cause in one line, then where that was raised, with exit code 1; the
    task groups round it are left out.
    """
    try:
        code = trio.run(main)
    except BaseException as error:  # noqa: BLE001  # each ends the command, with the exit code of its kind
        code = _exit_code(error, cannot)
    sys.exit(code)


def _exit_code(error: BaseException, cannot: int) -> int:
    """Say what ended the command; return its exit code. Of several errors, those that nobody
    expected come first.
    """
    errors = leaves(error)
    unexpected = [
        one for one in errors if isinstance(one, Exception) and not isinstance(one, CannotStart)
    ]
    if unexpected:
        causes = "; ".join(dict.fromkeys(map(cause_of, unexpected)))
        click.echo(f"jsbox: internal error: {causes}", err=True)
        for one in unexpected[:SHOWN_MAX]:
            click.echo(_plain("".join(traceback.format_exception(one, chain=False))), err=True)
        return EXIT_FAILED
    if reasons := dict.fromkeys(str(one) for one in errors if isinstance(one, CannotStart)):
        click.echo(f"jsbox: {'; '.join(reasons)}", err=True)
        return cannot
    code = next((one.code or 0 for one in errors if isinstance(one, SystemExit)), EXIT_INTERRUPTED)
    return code if isinstance(code, int) else EXIT_FAILED


def _plain(text: str) -> str:
    """Text of several lines without what a terminal, or an encoding, would stumble over."""
    return "".join(
        char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text
    )
