"""What a run measures: latencies, counts, and what happened in each second."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any

from attrs import define, field, frozen

SLICE = 1.0  # seconds of one point of the timeline
EXAMPLES = 5  # kept of each kind of error
TEXT_MAX = 500  # characters of a text in one

Place = tuple[Any, ...]
"""A step of a dialogue in its file: its number from 1, or within a branch that of the step before,
the branch's name, and its number there: `(2, "OK", 3)`. A branch: its step, and its name. Places
can be sorted: numbers and names take turns.
"""


def place_text(place: Place) -> str:
    """As the report shows a place: `2/OK/3`."""
    return "/".join(map(str, place))


@define
class Times:
    """Latencies in seconds, each with the second of the run at which it was due to begin.

    A sample takes 16 bytes.
    """

    at: array[float] = field(factory=lambda: array("d"))
    took: array[float] = field(factory=lambda: array("d"))

    def add(self, at: float, took: float) -> None:
        """Add a sample."""
        self.at.append(at)
        self.took.append(took)

    def __len__(self) -> int:
        return len(self.took)

    def measured(self, since: float) -> list[float]:
        """The latencies of samples due at or after second `since`, sorted."""
        return sorted(took for at, took in zip(self.at, self.took, strict=True) if at >= since)

    def newest(self, count: int) -> list[float]:
        """The last `count` latencies, sorted."""
        return sorted(self.took[-count:])

    def slices(self, width: float, since: float = 0.0) -> dict[int, list[float]]:
        """The latencies of samples due at or after second `since` by stretch of `width` seconds,
        each sorted.
        """
        found: dict[int, list[float]] = {}
        for at, took in zip(self.at, self.took, strict=True):
            if at >= since:
                found.setdefault(int(at // width), []).append(took)
        return {key: sorted(values) for key, values in sorted(found.items())}


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that this share of the sorted values does not exceed; 0 if none."""
    if not ordered:
        return 0.0
    return ordered[min(max(0, int(share * len(ordered) + 0.999999) - 1), len(ordered) - 1)]


@define
class DialogueCounts:
    """What became of one dialogue's sessions; `stopped` counts failed and left ones by step,
    `branches` how often each branch was taken.
    """

    started: int = 0
    completed: int = 0
    gave_up: int = 0
    failed: int = 0
    unfinished: int = 0
    stopped: Counter[Place] = field(factory=Counter)
    branches: Counter[Place] = field(factory=Counter)


@define
class Second:
    """One second of the run."""

    offered: int = 0
    completed: int = 0
    replies: int = 0
    errors: int = 0


@frozen
class Example:
    """A session that went wrong: which step of a dialogue, when, what was expected and what came.

    Attributes:
        step: As `place_text` shows it.
        at: Seconds since the start.
        got: None if nothing came.
    """

    dialogue: str
    step: str
    at: float
    user: str
    expected: str
    got: str | None


@define
class Measures:
    """All measures. Times are seconds since the start; what begins before `since` is warm-up."""

    since: float
    reply: Times = field(factory=Times)
    service: Times = field(factory=Times)
    session: Times = field(factory=Times)
    late: Times = field(factory=Times)
    dialogues: dict[str, DialogueCounts] = field(factory=dict)
    errors: Counter[str] = field(factory=Counter)
    examples: dict[str, list[Example]] = field(factory=dict)  # the first of each kind of error
    notes: list[tuple[float, str]] = field(factory=list)
    timeline: dict[int, Second] = field(factory=dict)
    missing_replies: int = 0
    skipped: int = 0  # sessions that could not begin because every user was in one
    offered: int = 0
    open: int = 0

    def second(self, at: float) -> Second:
        """The point of the timeline for a time."""
        return self.timeline.setdefault(int(at // SLICE), Second())

    def counts(self, dialogue: str) -> DialogueCounts:
        """The counts of a dialogue."""
        return self.dialogues.setdefault(dialogue, DialogueCounts())

    def is_measured(self, due: float) -> bool:
        """Whether what was due at that time counts."""
        return due >= self.since

    def error(self, at: float, due: float, reason: str, example: Example | None = None) -> None:
        """Count a session that failed, and keep it as an example if there are few."""
        self.second(at).errors += 1
        if self.is_measured(due):
            self.errors[reason] += 1
            kept = self.examples.setdefault(reason, [])
            if example is not None and len(kept) < EXAMPLES:
                kept.append(example)
            if reason in ("no_reply", "timeout"):
                self.missing_replies += 1
