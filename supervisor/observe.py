"""What happens in the supervisor, as values, for whoever counts it. The parts call an `Observer`
and know nothing of Prometheus.

Events are msgspec structs, not attrs classes: most are made on the path of a message, and a frozen
attrs class takes three times as long to make.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from .outcomes import Outcome

PHASES = ("queue", "held", "boot", "app", "calls")


class Phases(msgspec.Struct, frozen=True, gc=False):
    """Where the time of a message or event went, from its acceptance to the end of its run.

    Attributes:
        queue: Seconds that it waited for its turn.
        held: Seconds that it was held back, since runs of its app ended their process.
        boot: Seconds that it waited for a process.
        app: Seconds of the app's own.
        calls: Seconds that the app waited for its commands.
    """

    queue: float = 0.0
    held: float = 0.0
    boot: float = 0.0
    app: float = 0.0
    calls: float = 0.0

    @property
    def total(self) -> float:
        """Seconds of all phases."""
        return self.queue + self.held + self.boot + self.app + self.calls


class RunEnded(msgspec.Struct, frozen=True, gc=False):
    """A run of a message or event (`kind`) ended."""

    app: str
    kind: str
    outcome: Outcome
    phases: Phases


class RunUsed(msgspec.Struct, frozen=True, gc=False):
    """A run that was not cut off used CPU time."""

    app: str
    cpu_seconds: float


class LimitNear(msgspec.Struct, frozen=True, gc=False):
    """A run came close to a limit; the app's log says so too."""

    app: str
    limit: str


class ReplyMissing(msgspec.Struct, frozen=True, gc=False):
    """The app did not reply to a session's message. `fallback`: the fallback reply was sent."""

    app: str
    fallback: bool


class CommandServed(msgspec.Struct, frozen=True, gc=False):
    """A command was answered. `outcome` is success, refused, timeout, unknown, unavailable or
    error.
    """

    app: str
    command: str
    outcome: str
    seconds: float


class ProcessStarted(msgspec.Struct, frozen=True, gc=False):
    """A process of an app is ready, `seconds` after its start."""

    app: str
    seconds: float


class ProcessEnded(msgspec.Struct, frozen=True, gc=False):
    """A process of an app ended. `reason` is an outcome, or `retired`."""

    app: str
    reason: str


class InboundAnswered(msgspec.Struct, frozen=True, gc=False):
    """A gateway's message or event was answered. `answer` is accepted, duplicate, or the code of a
    rejection.
    """

    channel: str
    answer: str


class Delivered(msgspec.Struct, frozen=True, gc=False):
    """An outbound message was handed to a gateway. `again`: not for the first time."""

    channel: str
    again: bool


class ClientStalled(msgspec.Struct, frozen=True, gc=False):
    """A gateway's client read nothing for too long, and its connection is closed."""

    channel: str


class ClientRefused(msgspec.Struct, frozen=True, gc=False):
    """A gateway's client was not let in. `channel` is empty if there is none of that name; `reason`
    is channel, token, or local (the channel has no tokens, so it is for this host only).
    """

    channel: str
    reason: str


class Searched(msgspec.Struct, frozen=True, gc=False):
    """A search ended. `outcome` is ok, refused, unavailable or cancelled."""

    outcome: str
    seconds: float


class SearchRestarted(msgspec.Struct, frozen=True, gc=False):
    """The search process ended; another is started."""


class Reloaded(msgspec.Struct, frozen=True, gc=False):
    """The config was reloaded, or (`ok` is false) the reload was refused."""

    ok: bool


Event = (
    RunEnded
    | RunUsed
    | LimitNear
    | ReplyMissing
    | CommandServed
    | ProcessStarted
    | ProcessEnded
    | InboundAnswered
    | Delivered
    | ClientStalled
    | ClientRefused
    | Searched
    | SearchRestarted
    | Reloaded
)

Observer = Callable[[Event], None]
"""Called with everything that is counted. A call must not wait and must not raise."""


def ignore(event: Event) -> None:
    """Observe nothing."""
