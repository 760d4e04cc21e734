"""Comparing two runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attrs import frozen

WORSE = 1.1  # times the baseline; beyond it a measure is shown as worse
Row = dict[str, Any]

# By name: where the summary has it, whether it is a time, whether more is better.
MEASURES: dict[str, tuple[tuple[str, ...], bool, bool]] = {
    "reply p50": (("replies", "p50"), True, False),
    "reply p99": (("replies", "p99"), True, False),
    "reply p99.9": (("replies", "p999"), True, False),
    "service p50": (("service", "p50"), True, False),
    "service p99": (("service", "p99"), True, False),
    "replies/s": (("replies", "rate"), False, True),
    "completed": (("sessions", "completed_share"), False, True),
    "missing replies": (("missing_replies",), False, False),
    "largest process, bytes": (("server", "rss_max"), False, False),
}


@frozen
class Difference:
    """One measure in both runs."""

    name: str
    before: str
    after: str
    change: str
    is_worse: bool


class NoBaseline(Exception):
    """The folder holds no run."""


def read_summary(folder: Path) -> Row:
    """The summary of an earlier run. Raises NoBaseline."""
    file = folder / "summary.json"
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise NoBaseline(f"{file} cannot be read: {error}") from error
    if not isinstance(found, dict) or found.get("version") != 1:
        raise NoBaseline(f"{file} is not a summary of this version")
    return found


def compare(before: Row, after: Row) -> list[Difference]:
    """Compare the measures that both runs have."""
    found = []
    for name, (path, is_time, high_is_good) in MEASURES.items():
        old, new = _at(before, path), _at(after, path)
        if old is None or new is None:
            continue
        ratio = new / old if old else None
        worse = new > old * WORSE if not high_is_good else new * WORSE < old
        shown = [f"{value * 1000:.1f} ms" if is_time else f"{value:.4g}" for value in (old, new)]
        found.append(
            Difference(name, shown[0], shown[1], "" if ratio is None else f"{ratio:.2f}x", worse)
        )
    return found


def _at(summary: Row, path: tuple[str, ...]) -> float | None:
    value: Any = summary
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) else None
