"""Signals that arrive before the service can act on them, from the first instruction of
`jsbox serve` on.

By default SIGHUP ends a process, and SIGTERM ends it with an exit code other than 0. This module
imports nothing that takes time.
"""

import os
import signal

_came: list[int] = []
_held: list[bool] = []  # not empty once the service is being started


def watch() -> None:
    """Remember SIGHUP from here on; let SIGTERM end the process at once, with exit code 0."""
    signal.signal(signal.SIGHUP, _note)
    signal.signal(signal.SIGTERM, _note)


def hold() -> None:
    """Remember SIGTERM too from here on: the service, once it listens, asks for it."""
    _held.append(True)


def ignore() -> None:
    """Ignore these signals from here on: the process is about to end with its own exit code."""
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def taken() -> list[int]:
    """Return the signals that have come, in order, and forget them."""
    came = _came.copy()
    del _came[: len(came)]
    return came


def _note(number: int, frame: object) -> None:  # noqa: ARG001  # the signature of a signal handler
    if number == signal.SIGTERM and not _held:
        # SystemExit would be lost in a callback of a weak reference, of which each import has one
        os._exit(0)
    _came.append(number)
