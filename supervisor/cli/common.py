"""What the commands share: finding the config, exit codes, logging, running Trio."""

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
from resources.text import visible, visible_json

from ..config import Config, InvalidConfig, load
from ..errors import CannotStart

EXIT_FAILED, EXIT_CONFIG, EXIT_UNREACHABLE, EXIT_INTERRUPTED = 1, 3, 4, 130
TEXT = "\n\t"  # characters that a text of several lines may have on a terminal
SHOWN_MAX = 3  # tracebacks of unexpected errors

config_option = click.option(
    "-c",
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    default=Path("jsbox.toml"),
    show_default=True,
    help="The config file.",
)
isolation_option = click.option(
    "--isolation",
    type=click.Choice(["strict", "standard", "none"]),
    default="standard",
    show_default=True,
    help="How the app is isolated; none: resource limits only, for your own code.",
)
screen_option = click.option(
    "--screen",
    "preset",
    type=click.Choice(["160", "182"]),
    default="182",
    show_default=True,
    help="What a USSD screen holds, in the GSM 7-bit alphabet; a longer reply is marked.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def fail(text: str, code: int = EXIT_FAILED) -> NoReturn:
    """Print why to stderr, and exit."""
    click.echo(f"jsbox: {visible(text, keep=TEXT)}", err=True)
    sys.exit(code)


def load_or_exit(file: Path) -> Config:
    """Load the config; print every error in it and exit with code 3 if it is invalid."""
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
    """Print a JSON document, escaped if the locale (or Unicode) lacks a character in it."""
    text = visible_json(json.dumps(value, indent=2, ensure_ascii=False))
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    click.echo(text)


def start_logging(level: str) -> None:
    """Write the process's own log to stderr."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.captureWarnings(capture=True)


def run_or_exit(main: Callable[[], Awaitable[int]], cannot: int = EXIT_FAILED) -> NoReturn:
    """Run `main` under Trio and exit with the code it returns.

    CannotStart is printed in one line, with exit code `cannot`. An unexpected error is printed in
    one line with its cause, then with its traceback, without the task groups around it; the exit
    code is then 1.
    """
    try:
        code = trio.run(main)
    # any error ends the command, with the exit code of its kind
    except BaseException as error:  # noqa: BLE001
        code = _exit_code(error, cannot)
    sys.exit(code)


def _exit_code(error: BaseException, cannot: int) -> int:
    """Print what ended the command; return its exit code. Unexpected errors come first."""
    errors = leaves(error)
    unexpected = [
        one for one in errors if isinstance(one, Exception) and not isinstance(one, CannotStart)
    ]
    if unexpected:
        causes = "; ".join(dict.fromkeys(map(cause_of, unexpected)))
        click.echo(f"jsbox: internal error: {causes}", err=True)
        for one in unexpected[:SHOWN_MAX]:
            click.echo(
                visible("".join(traceback.format_exception(one, chain=False)), keep="\n"), err=True
            )
        return EXIT_FAILED
    if reasons := dict.fromkeys(str(one) for one in errors if isinstance(one, CannotStart)):
        click.echo(f"jsbox: {'; '.join(reasons)}", err=True)
        return cannot
    code = next((one.code or 0 for one in errors if isinstance(one, SystemExit)), EXIT_INTERRUPTED)
    return code if isinstance(code, int) else EXIT_FAILED
