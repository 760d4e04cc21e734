"""Accounts whose contacts cannot be searched, and why."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from attrs import define, field

RETRY_SECONDS = 10.0  # after an index could not be built

log = logging.getLogger(__name__)


@define(eq=False)
class Troubles:
    """What is wrong with accounts. Any number of threads may use it.

    Attributes:
        tell: Called with an account and what is wrong with it; with nothing when that is over.
    """

    tell: Callable[[str, str], None]
    # by account: when its index could not be written, and why
    _failures: dict[str, tuple[float, str]] = field(factory=dict, init=False)
    # by account: why the number of its changes cannot be read
    _unreadable: Mapping[str, str] = field(factory=dict, init=False)

    def failure(self, account: str) -> str | None:
        """Why the index of an account could not be written a moment ago."""
        failed_at, reason = self._failures.get(account, (-RETRY_SECONDS, ""))
        return reason if time.monotonic() - failed_at < RETRY_SECONDS else None

    def note_failure(self, account: str, reason: str) -> None:
        """The index of an account could not be written."""
        self._failures[account] = (time.monotonic(), reason)
        self._tell(account)

    def note_built(self, account: str) -> None:
        """The index of an account was written."""
        if self._failures.pop(account, None) is not None:
            self._tell(account)

    def note_unreadable(self, now: Mapping[str, str]) -> None:
        """These accounts, and no others, have a number of changes that cannot be read, for these
        reasons. Each is logged once, and when it is over.
        """
        before, self._unreadable = self._unreadable, now
        for account, reason in now.items():
            if account not in before:
                log.warning("account %s: its index cannot follow: %s", account, reason)
            if before.get(account) != reason:
                self._tell(account)
        for account in before.keys() - now.keys():
            log.info("account %s: its index can follow again", account)
            self._tell(account)

    def _tell(self, account: str) -> None:
        _, failure = self._failures.get(account, (0.0, ""))
        self.tell(account, self._unreadable.get(account, "") or failure)
