"""What the commands share: finding the config, exit codes, logging, running Trio."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click
import trio

from resources.fence import cause_of, leaves
from resources.text import visible, visible_json

from ..config import Config, InvalidConfig, load
from ..errors import CannotStart
from .codes import EXIT_CONFIG, EXIT_FAILED, EXIT_INTERRUPTED

STDOUT = 1
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
        if not file.exists():
            fail("-c FILE names a config file; `jsbox new DIR` makes an app with one", EXIT_CONFIG)
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


def run_or_exit(
    main: Callable[[], Awaitable[int]], cannot: int = EXIT_FAILED, *, ends_on_sigint: bool = True
) -> NoReturn:
    """Run `main` under Trio and exit with the code it returns.

    The first SIGINT cancels `main`, the second kills this process; but not where `main` receives
    the signal itself. `ends_on_sigint` False: it does so from the beginning.

    CannotStart is printed in one line, with exit code `cannot`. An unexpected error is printed in
    one line with its cause, then with its traceback, without the task groups around it; the exit
    code is then 1.
    """
    # A shell starts what runs in the background so that it ignores Ctrl-C.
    ends_on_sigint = ends_on_sigint and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    try:
        code = trio.run(partial(_until_sigint, main) if ends_on_sigint else main)
    # any error ends the command, with the exit code of its kind
    except BaseException as error:  # noqa: BLE001
        code = _exit_code(error, cannot)
    sys.exit(code)


async def _until_sigint(main: Callable[[], Awaitable[int]]) -> int:
    """Run `main`, and cancel it at SIGINT. KeyboardInterrupt, which Python raises wherever it
    happens to be, is lost in places that drop what is raised, such as callbacks of weak references.
    """
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_signal, signals, nursery.cancel_scope)
            code = await main()
            nursery.cancel_scope.cancel()
            return code
    return EXIT_INTERRUPTED


async def _cancel_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        scope.cancel()


def _exit_code(error: BaseException, cannot: int) -> int:
    """Print what ended the command; return its exit code. Unexpected errors come first."""
    errors = leaves(error)
    unexpected = [
        one for one in errors if isinstance(one, Exception) and not isinstance(one, CannotStart)
    ]
    if any(isinstance(one, BrokenPipeError) for one in unexpected) and _is_unread():
        # what is left to be printed must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
        return EXIT_FAILED
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


def _is_unread(milliseconds: int | None = 0) -> bool:
    """Whether nobody reads our standard output any more: `jsbox test | head -1`. Waits for that to
    happen, `milliseconds` at most; None: for ever.
    """
    looking = select.poll()
    looking.register(STDOUT, 0)
    return any(event & select.POLLERR for _, event in looking.poll(milliseconds))


def end_when_unread() -> None:
    """From now on, end the process when nobody reads its standard output any more, even while there
    is nothing to print. What is printed must be flushed.
    """

    def watch() -> None:
        if _is_unread(None):
            os._exit(EXIT_FAILED)

    threading.Thread(target=watch, name="unread", daemon=True).start()


def must_be_writable(option: str, file: Path) -> None:
    """Exit if a file that a command writes at its end cannot be written."""
    if not file.parent.is_dir():
        fail(f"{option}: there is no folder {file.parent}", 2)
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        fail(f"{option}: {file} cannot be written", 2)
