"""The `jsbox` command. Commands are imported when called, so that `jsbox --help` is quick."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from .. import __version__
from .codes import EXIT_INTERRUPTED
from .examples import add_examples

COMMANDS = {
    "demo": ("demo", "Play a conversation with a sample app, then serve it."),
    "new": ("new", "Make the folder of a new app."),
    "types": ("types", "Print the types of what an app may use, for TypeScript."),
    "dev": ("dev", "Talk to your own app in the terminal."),
    "test": ("test", "Test an app: conversations that it should hold."),
    "chat": ("chat", "Talk to an app of a running server."),
    "serve": ("serve", "Run the apps of a config file."),
    "check": ("check", "Check a config file."),
    "doctor": ("doctor", "Check this host."),
    "ps": ("ps", "Show the sandbox processes."),
    "logs": ("logs", "Show an app's log."),
    "trace": ("trace", "Show where the time of a message's run went."),
    "replay": ("replay", "Replay a recorded run, with the same app or a changed one."),
    "outbox": ("outbox", "Show, list or drop what waits to be sent."),
    "deadletters": ("deadletters", "Show, retry or drop messages that were set aside."),
    "limits": ("limits", "Show an app's limits and how much of them it uses."),
    "reload": ("reload", "Make the server reload its config."),
    "push": ("push", "Make an app start conversations."),
    "contacts": ("contacts", "Import, export and look up contacts."),
    "groups": ("groups", "List, export and import groups of contacts."),
    "optouts": ("optouts", "List, export and import addresses that have opted out."),
    "audit": ("audit", "Show what operators did, who and when."),
    "load": ("load", "Load a server with conversations and check thresholds."),
    "backup": ("backup", "Back up the whole store to a file, while it serves."),
    "restore": ("backup", "Restore a backup into an empty data directory."),
    "migrate": ("migrate", "Bring an app and its data from vxsandbox."),
    "token": ("token", "Make a bearer token for a gateway or an operator."),
    "extras": ("extras", "The systemd unit, alert rules and dashboard that go with a service."),
    "version": ("version", "Show the version, the build, and what is bundled."),
}


AROUND = 40  # characters beside what cannot be encoded


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's
        return list(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002  # click's
        name: str,
    ) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f".{COMMANDS[name][0]}", __package__)
        command: click.Command = getattr(module, name)
        add_examples(command, name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. What is wrong with a file, or with the encoding of an argument, ends it
        with one line; Ctrl-C, without any.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)
        except UnicodeEncodeError as error:
            if error.encoding != "utf-8":
                raise
            start = max(error.start - AROUND, 0)
            self._end(f"{error.object[start : error.end + AROUND]!r} is not text in UTF-8", 2)
        except OSError as error:
            if error.filename is None:  # a bug, or a pipe that nobody reads: click ends that
                raise
            self._end(f"{os.fsdecode(error.filename)}: {error.strerror}")

    def _end(self, text: str, code: int = 1) -> NoReturn:
        from .common import fail

        fail(text, code)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002  # click's
        formatter: click.HelpFormatter,
    ) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="jsbox")
def jsbox() -> None:
    """Runs JavaScript messaging apps (USSD menus, SMS, chat bots) in isolated Node.js sandboxes.

    Exit codes: 0 ok, 1 failed, 2 usage, 3 invalid config, 4 not reachable,
    99 a threshold of `load` was missed.
    """


def _open_streams() -> None:
    """Open the standard streams that our caller has closed. Else the first files and sockets would
    get their numbers, and what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            lowest = os.open(os.devnull, os.O_RDWR)  # which is `number`
            os.set_inheritable(lowest, True)  # noqa: FBT003  # keyword arguments are not taken
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", closefd=False)  # noqa: SIM115  # stays
            setattr(sys, name, stream)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see __main__.py
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a command must not fail because the locale lacks a character
            stream.reconfigure(errors="backslashreplace")
    jsbox(args=arguments, prog_name="jsbox")
