"""What the supervisor and the exporting process say to each other: lines of JSON, one answer to
each batch. No I/O, and nothing of the SDK.
"""

from __future__ import annotations

import msgspec
from attrs import frozen

PROBLEM_MAX = 300  # characters
NO_REASON = "no reason was given"
SECONDS = 10.0  # of one batch, with what the SDK tries again


class Begin(msgspec.Struct, frozen=True):
    """The first line: where to send, what `service.version` is, and how long a batch may take."""

    endpoint: str
    version: str
    seconds: float = SECONDS


class Command(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One command of a run.

    Attributes:
        at: Seconds after the app got the message.
        seconds: Until its reply; None if the run ended before.
        outcome: `ok` or `refused`; empty if it has no reply.
        url: Of http commands: scheme, host and port; empty if they are not certain.
    """

    name: str
    at: float
    seconds: float | None
    outcome: str
    url: str


class Run(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One run, without anything that a user wrote.

    Attributes:
        detail: What the app threw.
        ended: Seconds since 1970.
        queue: Seconds of this phase, likewise `held`, `boot` and `total`: see `observe.Phases`.
        pid: Of the process that handled it; 0 if none did.
        left_out: Commands that were not noted, since there were too many.
    """

    app: str
    account: str
    channel: str
    kind: str
    id: str
    ended: float
    queue: float
    held: float
    boot: float
    total: float
    pid: int
    outcome: str
    detail: str
    commands: list[Command]
    left_out: int


class Done(msgspec.Struct, frozen=True):
    """The answer to a batch: how many of its spans the collector took, how many it refused, how
    many could not be sent, and why. Runs that the sampler does not want are in none of them.
    """

    exported: int = 0
    rejected: int = 0
    failed: int = 0
    problem: str = ""


@frozen
class Encoded:
    """A run as it is sent, and its number of spans, roughly."""

    data: bytes
    spans: int


_encoder = msgspec.json.Encoder()
_runs = msgspec.json.Decoder(list[Run])
_begin = msgspec.json.Decoder(Begin)
_done = msgspec.json.Decoder(Done)


def encoded(run: Run) -> Encoded:
    """A run, ready for `batch`."""
    return Encoded(_encoder.encode(run), len(run.commands) + 3)


def batch(runs: list[Encoded]) -> bytes:
    """The line that sends these runs."""
    return b"[" + b",".join(run.data for run in runs) + b"]\n"


def line(value: Begin | Done) -> bytes:
    """A value as a line."""
    return _encoder.encode(value) + b"\n"


def runs_of(text: bytes) -> list[Run]:
    """Decode a batch. Raises msgspec.DecodeError."""
    return _runs.decode(text)


def begin_of(text: bytes) -> Begin:
    """Decode the first line. Raises msgspec.DecodeError."""
    return _begin.decode(text)


def done_of(text: bytes) -> Done:
    """Decode an answer. Raises msgspec.DecodeError."""
    return _done.decode(text)


def traces_url(endpoint: str) -> str:
    """Where traces are posted to: as `OTEL_EXPORTER_OTLP_ENDPOINT` is read, but an endpoint that
    has the path of traces already keeps it.
    """
    base = endpoint.rstrip("/")
    return base if base.endswith("/v1/traces") else f"{base}/v1/traces"


def in_a_line(text: str) -> str:
    """What somebody else says, in one line of bounded length."""
    return " ".join(text[: 4 * PROBLEM_MAX].split())[:PROBLEM_MAX]
