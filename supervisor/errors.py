"""What can be expected to go wrong: what an app or its process does ends as an Outcome, never as a
crash of the supervisor; what keeps the supervisor from starting is said in one line.
"""

from __future__ import annotations

from .outcomes import Outcome


class CannotStart(Exception):
    """The supervisor cannot run as it is configured on this host; the text says what is in the way."""


class SandboxFault(Exception):
    """A run cannot go on.

    Attributes:
        outcome: How the run ended.
        detail: The line for the app's log.
    """

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


class AppFailed(SandboxFault):
    """The app threw, rejected, or could not be loaded; its process still talks."""

    def __init__(self, detail: str) -> None:
        super().__init__(Outcome.APP_ERROR, detail)


class BootFailed(SandboxFault):
    """No process could be had."""

    def __init__(self, detail: str) -> None:
        super().__init__(Outcome.BOOT, detail)


class NotDelivered(SandboxFault):
    """The message could not be sent; the process does not know of it, and can go on."""

    def __init__(self, detail: str) -> None:
        super().__init__(Outcome.CRASHED, detail)


class ProtocolViolation(SandboxFault):
    """A line that is no command."""

    def __init__(self, detail: str) -> None:
        super().__init__(Outcome.PROTOCOL, detail)


class InternalError(SandboxFault):
    """Something went wrong in the supervisor that nobody expected; its own log says what."""

    def __init__(self) -> None:
        super().__init__(Outcome.CRASHED, "internal error")


class LimitHit(SandboxFault):
    """A limit of the config was reached."""

    def __init__(self, outcome: Outcome, limit: str, allowed: str, measured: str) -> None:
        super().__init__(outcome, f"limits.{limit} = {allowed}, measured {measured}")


class SandboxGone(Exception):
    """The other end of a pipe is closed; why, is for the sandbox to find out."""
