"""The last line of defence: an unexpected error ends only the thing in which it happened, and is
logged and counted.

Expected errors are handled where they arise. Each client, run, command, batch, search, request and
background task has a fence around it. Cancellation, KeyboardInterrupt and SystemExit pass through.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import define

TEXT_MAX = 500  # characters of an error's text in the log's first line
# times that the same error is logged within `QUIET_SECONDS`; all of them are counted
LOGGED_MAX = 20
QUIET_SECONDS = 60.0
KINDS_MAX = 500  # distinct errors that are tracked for that

tally: Counter[str] = Counter()
"""Errors that each fence of this process has caught: `jsbox_internal_errors_total{where}`."""

log = logging.getLogger(__name__)


@define
class Caught:
    """What a fence has caught; None if nothing."""

    error: Exception | None = None


@contextmanager
def fence(where: str, what: str = "") -> Iterator[Caught]:
    """Contain every `Exception` that the block raises; `Caught` tells whether there was one.

    Of an exception group, cancellations and the like pass on, and the errors stay here.

    Args:
        where: The name of the fence, one of a few: a label of a metric.
        what: What it happened to, for the log: a channel, an app and a message, a client's address.
    """
    caught = Caught()
    try:
        yield caught
    except Exception as error:  # noqa: BLE001  # this is what a fence is for
        caught.error = error
        note(where, error, what)
    except BaseExceptionGroup as group:
        errors, rest = group.split(Exception)
        if errors is not None:
            assert isinstance(errors, Exception)
            caught.error = errors
            note(where, errors, what)
        if rest is not None:
            raise rest from None


def note(where: str, error: BaseException, what: str = "") -> None:
    """Log an unexpected error, its cause first, and count it.

    The same error from the same place is logged a bounded number of times per minute, since a
    client may cause it as often as it likes.
    """
    tally[where] += 1
    if not _is_quiet(where, first_leaf(error)):
        to = f" ({what})" if what else ""
        log.error(
            "internal error in %s%s: %s", where, to, cause_of(error), exc_info=first_leaf(error)
        )


# fence, type, place: since when, how often
_logged: dict[tuple[str, str, str], tuple[float, int]] = {}


def _is_quiet(where: str, error: BaseException) -> bool:
    """Count an error of this kind; return whether it was logged often enough lately."""
    frames = traceback.extract_tb(error.__traceback__)[-1:]
    kind = (
        where,
        type(error).__name__,
        "".join(f"{frame.filename}:{frame.lineno}" for frame in frames),
    )
    now = time.monotonic()
    since, times = _logged.pop(kind, (now, 0))
    if now - since > QUIET_SECONDS:
        if times > LOGGED_MAX:
            log.error(
                "internal error in %s: %d more like the next one were not logged",
                where,
                times - LOGGED_MAX,
            )
        since, times = now, 0
    while len(_logged) >= KINDS_MAX:
        del _logged[next(iter(_logged))]
    _logged[kind] = (since, times + 1)
    return times >= LOGGED_MAX


def cause_of(error: BaseException) -> str:
    """The error itself in one line, whatever groups it is wrapped in: its type, its text and where
    it was raised.
    """
    return "; ".join(dict.fromkeys(map(_in_a_line, leaves(error))))


def leaves(error: BaseException) -> list[BaseException]:
    """The errors in an exception group, and in the groups in it; an error that is no group is its
    only leaf.
    """
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


def first_leaf(error: BaseException) -> BaseException:
    """The first of the errors in a group."""
    return leaves(error)[0]


def _in_a_line(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as second:  # noqa: BLE001  # a failing __str__ must not hide the error
        text = f"<its text cannot be made: {type(second).__name__}>"
    text = text.encode("utf-8", "backslashreplace").decode()[:TEXT_MAX]
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    frames = traceback.extract_tb(error.__traceback__)[-1:]
    place = "".join(f" at {frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames)
    return f"{type(error).__name__}: {shown}{place}" if shown else f"{type(error).__name__}{place}"
