"""Room on the disk that the embedded store writes to. While less is left than is kept in reserve
the store is not asked for what would take more: so it never meets a full disk, after which it takes
no command at all, nor what ends the runs in progress.

What is free is looked at once a second (supervisor/store/disk.py); in between, what is let through
is counted. So nothing waits, and nothing is asked of the system, where a message comes in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from attrs import define, field

from .errors import StoreRefused

OVERHEAD = 256  # bytes that a command takes besides its values
# a share of the reserve, one part in so many, that must be free besides before all is let through
# again
AGAIN = 8

log = logging.getLogger(__name__)


class NoRoom(StoreRefused):
    """The disk is nearly full. The text says so, for apps and gateways too."""


@define(eq=False)
class Room:
    """How much is left. One that nobody looks after has room for everything.

    Attributes:
        reserve: Bytes that are kept. Half of them are for what ends the runs in progress: replies,
            opt-outs, their logs. The rest is for what gives room back: runs that are struck,
            messages that are acknowledged, deletions.
        free: Bytes that were free when it was last looked at; None: not looked at.
        on_again: Called when there is room again.
    """

    reserve: int = 0
    free: int | None = field(default=None, init=False)
    on_again: list[Callable[[], None]] = field(factory=list, init=False)
    _left: int = field(default=0, init=False)  # of `free`, after all that was let through since
    _is_short: bool = field(default=False, init=False)

    @property
    def problem(self) -> str:
        """Why nothing new is taken in; empty while it is."""
        return self._text() if self._is_short else ""

    def look(self, free: int) -> None:
        """So many bytes are free now."""
        self.free = self._left = free
        if free < self.reserve:
            self._run_short()
        elif self._is_short and free >= self.reserve + self.reserve // AGAIN:
            self._is_short = False
            log.info(
                "there is room again: %d MiB are free; messages and writes are taken", free >> 20
            )
            for call in self.on_again:
                call()

    def refusal(self, size: int, *, is_urgent: bool = False) -> NoRoom | None:
        """Why so many bytes may not be written; None: they may, and are counted.

        Args:
            size: Bytes, as far as they are known.
            is_urgent: It ends what is in progress already.
        """
        if not self.reserve or self.free is None:
            return None
        left = self._left - size - OVERHEAD
        if left < self.reserve:
            self._run_short()
        if left < self.reserve // 2 if is_urgent else self._is_short:
            return NoRoom(self._text())
        self._left = left
        return None

    def check(self, size: int, *, is_urgent: bool = False) -> None:
        """As `refusal`.

        Raises:
            NoRoom: They may not.
        """
        refused = self.refusal(size, is_urgent=is_urgent)
        if refused is not None:
            raise refused

    def _run_short(self) -> None:
        if not self._is_short:
            self._is_short = True
            log.error(
                "%s: messages are rejected, and writes of apps refused, until there is room",
                self._text(),
            )

    def _text(self) -> str:
        return (
            f"the server's disk is nearly full: {max(self._left, 0) >> 20} MiB are free, "
            f"{self.reserve >> 20} MiB are kept in reserve"
        )
