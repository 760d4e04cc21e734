"""Signals that come before anybody can act on them: from the first instruction of `jsbox serve`
until the service listens to them.

By default SIGHUP ends a process, and SIGTERM ends it with an exit code that is no success. Imports
nothing that takes time.
"""

import signal
import sys

_came: list[int] = []
_held: list[bool] = []  # not empty once the service is being started


def watch() -> None:
    """From here on a SIGHUP is remembered; a SIGTERM ends the process at once, with exit code 0."""
    signal.signal(signal.SIGHUP, _note)
    signal.signal(signal.SIGTERM, _note)


def hold() -> None:
    """From here on a SIGTERM is remembered too: somebody will ask."""
    _held.append(True)


def ignore() -> None:
    """From here on they are nobody's business: the process is about to end, with an exit code of
    its own.
    """
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def taken() -> list[int]:
    """The signals that came since, in order; they are forgotten."""
    came = _came.copy()
    del _came[: len(came)]
    return came


def _note(number: int, frame: object) -> None:  # noqa: ARG001  # the signature of a signal handler
    if number == signal.SIGTERM and not _held:
        sys.exit(0)
    _came.append(number)
