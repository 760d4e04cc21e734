"""What the store's callers may have to face: it did not answer, it refused, or what it was asked
for cannot be sent to it.
"""

from __future__ import annotations

import re

# seconds until it makes sense to try again what ends by itself: a failover, a restart, a long
# script
SOON = 1.0
# seconds, for what somebody has to look at: a full disk, a password, a key of another type
LATER = 5.0
TEXT_MAX = 500  # characters of the server's words that are kept

PASSING = frozenset({
    "READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "NOREPLICAS", "MOVED", "ASK", "NOSCRIPT",
})  # fmt: skip
"""Codes of refusals that end by themselves, as a rule within seconds."""

WIDE = frozenset({*PASSING, "OOM", "MISCONF", "NOPERM", "NOAUTH", "WRONGPASS", "UNREACHABLE"}) - {
    "NOSCRIPT"
}
"""Codes of refusals that others will meet, too: they are about the server, not about one key or command."""

BEFORE_ALL = frozenset({*PASSING, "OOM", "MISCONF", "NOAUTH", "WRONGPASS", "EXECABORT"})
"""Codes that come before anything is written, also by a script."""

_CODE = re.compile(r"[A-Z][A-Z0-9]{2,19}(?= |$)")
_PLACE = re.compile(r",? script: [0-9a-f]{40}, on @user_script:\d+\.?$")


class StoreError(Exception):
    """The store did not do what it was asked to. Callers catch this one, and need not know which it
    is.

    Attributes:
        sent: Whether the command may have been carried out, wholly or in part.
        retry_after: Seconds after which it makes sense to ask again.
    """

    def __init__(self, reason: str, *, sent: bool, retry_after: float = SOON) -> None:
        super().__init__(reason)
        self.sent = sent
        self.retry_after = retry_after

    @property
    def may_retry(self) -> bool:
        """Whether the same command may be sent again in a moment: it was not carried out, and what
        prevented it will pass.
        """
        return not self.sent and self.retry_after <= SOON


class Unavailable(StoreError):
    """The store did not answer."""


class StoreRefused(StoreError):
    """The store answered with an error. The text is the server's own.

    Attributes:
        code: The first word of the text if it is one of those in capitals ("OOM", "WRONGTYPE"),
            else "ERR".
    """

    def __init__(self, reason: str) -> None:
        reason = reason[:TEXT_MAX] or "ERR (the server did not say why)"
        self.code = code_of(reason)
        # What a script has written stays, should one of its later commands be refused.
        began = _PLACE.search(reason) is not None and self.code not in BEFORE_ALL
        super().__init__(reason, sent=began, retry_after=SOON if self.code in PASSING else LATER)

    @property
    def is_wide(self) -> bool:
        """Whether it is about the server rather than about this command or its key."""
        return self.code in WIDE

    @property
    def plain(self) -> str:
        """The server's words without the place in a script."""
        return _PLACE.sub("", str(self))


class NotEncodable(StoreError):
    """A command holds what cannot be sent: half of a surrogate pair, None, a bool, an object. It
    was not sent.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the command cannot be encoded: {reason[:TEXT_MAX]}", sent=False, retry_after=LATER
        )


def code_of(reason: str) -> str:
    """The code that a server's error text begins with; "ERR" if none."""
    found = _CODE.match(reason)
    return found[0] if found is not None else "ERR"
