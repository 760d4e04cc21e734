"""The store's errors: it did not answer, it refused, or a command cannot be encoded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

SOON = 1.0  # seconds to wait before a retry if the cause passes by itself: a failover, a restart
LATER = 5.0  # the same if somebody has to act: a full disk, a password, a key of another type
TEXT_MAX = 500  # characters of the server's words that are kept

PASSING = frozenset({
    "READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "NOREPLICAS", "MOVED",
    "ASK", "NOSCRIPT",
})  # fmt: skip
"""Codes of refusals that end by themselves, as a rule within seconds."""

WIDE = frozenset({
    *PASSING, "FENCED", "OOM", "MISCONF", "NOPERM", "NOAUTH", "WRONGPASS", "UNREACHABLE",
}) - {"NOSCRIPT"}  # fmt: skip
"""Codes of refusals that are about the server, not about one key or command."""

NO_WRITES = frozenset({
    "READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "BUSY", "NOREPLICAS", "OOM", "MISCONF",
    "NOAUTH", "WRONGPASS",
})  # fmt: skip
"""Codes of refusals that any other write meets, too."""

BEFORE_ALL = frozenset({
    *PASSING, "FENCED", "OOM", "MISCONF", "NOAUTH", "WRONGPASS", "EXECABORT", "WRONGTYPE",
})  # fmt: skip
"""Codes of refusals that come before anything is written. In a script, too: the server sees to it
for most, and for WRONGTYPE the script itself (scripts/_checks.lua)."""

FENCED = "FENCED"  # the code of a refusal by scripts/_fence.lua

_CODE = re.compile(r"[A-Z][A-Z0-9]{2,19}(?= |$)")
_PLACE = re.compile(r",? +script: (?:[0-9a-f]{40},)? ?on @user_script:\d+\.?$")


class StoreError(Exception):
    """The store did not do what it was asked to. Callers catch this, and need not know the kind.

    Attributes:
        sent: Whether the command may have run, wholly or in part.
        retry_after: Seconds to wait before asking again.
    """

    def __init__(self, reason: str, *, sent: bool, retry_after: float = SOON) -> None:
        super().__init__(reason)
        self.sent = sent
        self.retry_after = retry_after


class Unavailable(StoreError):
    """The store did not answer."""


class StoreRefused(StoreError):
    """The store answered with an error. The text is the server's own.

    Attributes:
        code: The first word of the text if it is in capitals ("OOM", "WRONGTYPE"), else "ERR".
    """

    def __init__(self, reason: str) -> None:
        reason = reason[:TEXT_MAX] or "ERR (the server did not say why)"
        self.code = code_of(reason)
        # If a command of a script is refused, what the script wrote before stays.
        began = _PLACE.search(reason) is not None and self.code not in BEFORE_ALL
        if self.is_wide:  # the script is not to blame, and operators read this
            reason = _PLACE.sub("", reason)
        super().__init__(reason, sent=began, retry_after=SOON if self.code in PASSING else LATER)

    @property
    def is_wide(self) -> bool:
        """Whether it is about the server rather than this command or its key."""
        return self.code in WIDE

    @property
    def plain(self) -> str:
        """The server's words, without the line of the script."""
        return _PLACE.sub("", str(self))


class Fenced(StoreRefused):
    """Another server owns the partition that a run belongs to: the run must end, and its outcome is
    the other's to say.
    """


class Unreadable(StoreError):
    """What the store has under a key is not what we write there: another program has overwritten
    it. The text names it.
    """

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} cannot be read: {why}", sent=False, retry_after=LATER)


def is_of_one(error: StoreError) -> bool:
    """Whether an error is about one key, not about the store."""
    return isinstance(error, StoreRefused) and not error.is_wide


def raise_wide(answers: Iterable[Any]) -> None:
    """Raise the first error among the answers to several commands that is about the store, and not
    about the row that a command was for.
    """
    for answer in answers:
        if isinstance(answer, StoreError) and not is_of_one(answer):
            raise answer


def named(error: StoreError, what: str) -> StoreError:
    """The error to raise for one that came when `what` was asked for: Unreadable if it is about
    that alone.
    """
    if isinstance(error, StoreRefused) and is_of_one(error):
        return Unreadable(what, error.plain)
    return error


class NotEncodable(StoreError):
    """A command cannot be encoded, and was not sent: it holds half of a surrogate pair, None, a
    bool or an object.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the command cannot be encoded: {reason[:TEXT_MAX]}", sent=False, retry_after=LATER
        )


def code_of(reason: str) -> str:
    """The code at the start of a server's error text; "ERR" if there is none."""
    found = _CODE.match(reason)
    return found[0] if found is not None else "ERR"
