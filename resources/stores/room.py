"""Room on the disk that the embedded store writes to. While less than the reserve is free, the
store is not asked to write more. So it never meets a full disk, after which it would take no
command at all, not even those that end the runs in progress.

Free space is measured once a second (supervisor/store/disk.py); in between, admitted bytes are
counted. So an incoming message waits for nothing and makes no system call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from attrs import define, field

from .errors import StoreRefused

OVERHEAD = 256  # bytes that a command takes besides its values
AGAIN = 8  # to recover, reserve + reserve/AGAIN must be free

log = logging.getLogger(__name__)


class NoRoom(StoreRefused):
    """The disk is nearly full. The text is fit for apps and gateways."""


@define(eq=False)
class Room:
    """How much room is left. If nobody measures it, there is room for everything.

    Attributes:
        reserve: Bytes kept free. Half of them are for ending the runs in progress: replies,
            opt-outs, log lines. The rest is for what gives room back: ended runs, acknowledged
            messages, deletions.
        free: Bytes free at the last measurement; None: not measured yet.
        on_again: Called when there is room again.
    """

    reserve: int = 0
    free: int | None = field(default=None, init=False)
    on_again: list[Callable[[], None]] = field(factory=list, init=False)
    _left: int = field(default=0, init=False)  # of `free`, after all that was let through since
    _is_short: bool = field(default=False, init=False)

    @property
    def problem(self) -> str:
        """Why nothing new is accepted; "" while it is."""
        return self._text() if self._is_short else ""

    def look(self, free: int) -> None:
        """Note how many bytes are free now."""
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
        """Count a write, and return None; or the reason why it may not be made.

        Args:
            size: Its bytes, as far as known.
            is_urgent: Whether it ends something in progress.
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
        """Count a write.

        Raises:
            NoRoom: It may not be made.
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
