"""Errors that are expected. What an app or its process does ends as an Outcome, never as a crash of
the supervisor; what keeps the supervisor from starting is reported in one line.
"""

from __future__ import annotations

from .outcomes import Outcome


class CannotStart(Exception):
    """The supervisor cannot run with this config on this host; the text says why."""


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
    """The app threw, rejected, or could not be loaded; its process still answers.

    Attributes:
        is_load: It could not be loaded: this happens to every message.
    """

    def __init__(self, detail: str, *, is_load: bool = False) -> None:
        super().__init__(Outcome.APP_ERROR, detail)
        self.is_load = is_load


class BootFailed(SandboxFault):
    """No process could be started."""

    def __init__(self, detail: str) -> None:
        super().__init__(Outcome.BOOT, detail)


class AppRemoved(SandboxFault):
    """A reload removed the app before its run had a process: the run has not begun."""

    def __init__(self, app: str) -> None:
        super().__init__(
            Outcome.SHUTDOWN, f"there is no app {app} any more: a reload has removed it"
        )


class NotDelivered(SandboxFault):
    """The message could not be sent; the process has not seen it, and can go on."""

    def __init__(self, detail: str) -> None:
        super().__init__(Outcome.CRASHED, detail)


class ProtocolViolation(SandboxFault):
    """The process wrote a line that is not a command."""

    def __init__(self, detail: str) -> None:
        super().__init__(Outcome.PROTOCOL, detail)


class InternalError(SandboxFault):
    """A bug in the supervisor showed; its own log says what happened."""

    def __init__(self) -> None:
        super().__init__(Outcome.CRASHED, "internal error")


class LimitHit(SandboxFault):
    """A limit of the config was reached."""

    def __init__(self, outcome: Outcome, limit: str, allowed: str, measured: str) -> None:
        super().__init__(outcome, f"limits.{limit} = {allowed}, measured {measured}")


class SandboxGone(Exception):
    """The other end of a pipe is closed; the sandbox finds out why."""
