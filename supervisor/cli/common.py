"""What the commands share: finding the config, exit codes, logging, running a service."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import click
import trio

from ..config import Config, InvalidConfig, load
from ..errors import CannotStart

EXIT_FAILED, EXIT_CONFIG, EXIT_UNREACHABLE = 1, 3, 4

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
    """One JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def start_logging(level: str) -> None:
    """The process's own log, on stderr."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.captureWarnings(capture=True)


def run_or_exit(main: Callable[[], Awaitable[int]], cannot: int = EXIT_FAILED) -> NoReturn:
    """Run until it returns an exit code; what keeps it from starting is said in one line, with exit code `cannot`."""
    try:
        code = trio.run(main)
    except BaseExceptionGroup as group:
        known, rest = group.split(CannotStart)
        if known is None or rest is not None:
            raise
        fail("; ".join(dict.fromkeys(_leaves(known))), cannot)
    except CannotStart as error:
        fail(str(error), cannot)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(code)


def _leaves(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [text for inner in error.exceptions for text in _leaves(inner)]
    return [str(error)]
