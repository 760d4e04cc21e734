"""What decides whether a client may use the store at the moment: the lease, if there is one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

from .resp import Command


def boot_time() -> float:
    """Seconds since this host booted, including those that it was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Gate(Protocol):
    """Asked by the client before each batch.

    Attributes:
        problem: Why it is closed.
    """

    problem: str

    def is_open(self, connection: int) -> bool:
        """Whether a batch may be sent now, over the client's n-th connection. Never waits."""

    def question(self) -> Sequence[Command]:
        """What to ask the store, over the connection itself, while the gate is closed."""

    def answered(self, connection: int, asked: float, answers: Sequence[Any]) -> None:
        """Note the answers, errors among them; `asked` is the boot time before they were asked."""


class OpenGate:
    """Of a store that is ours alone."""

    problem = ""

    def is_open(self, connection: int) -> bool:  # noqa: ARG002  # Gate's
        """True."""
        return True

    def question(self) -> Sequence[Command]:
        """Nothing."""
        return ()

    def answered(self, connection: int, asked: float, answers: Sequence[Any]) -> None:
        """Never called."""
