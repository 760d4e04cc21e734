"""Which apps are failing: too large a share of their newest runs ended badly, by their own fault.

A few runs prove little, and an app must not appear and disappear with each message. So it becomes
failing with `failing.runs` failed ones at least, and recovers when their share is below half of
`failing.percent`, or when none has failed for `failing.within`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import trio
from attrs import define, field, frozen

from ..config.model import App
from ..config.units import show_duration
from ..outcomes import NOT_THE_APPS, Outcome

SLICES = 20  # counts kept per app; the oldest is dropped when its time is over
LAST_MAX = 500  # characters kept of the newest reason


@define
class _Slice:
    number: int  # of `failing.within` / SLICES since the clock's zero
    runs: int = 0
    failed: int = 0


@define
class _Row:
    slices: deque[_Slice] = field(factory=lambda: deque(maxlen=SLICES))
    is_failing: bool = False
    last: str = ""


@frozen
class Failed:
    """How many of an app's newest runs failed, and why the newest of them did."""

    failed: int
    runs: int
    last: str


@define
class Failures:
    """Counts the failed runs of each app."""

    _apps: Mapping[str, App] = field(factory=dict, init=False)
    _rows: dict[str, _Row] = field(factory=dict, init=False)

    def update(self, apps: Mapping[str, App]) -> None:
        """Take the apps as they are now: those that have changed are tried anew."""
        before, self._apps = self._apps, apps
        for name in list(self._rows):
            if name not in apps or before.get(name) != apps[name]:
                del self._rows[name]

    def note(self, app: App, outcome: Outcome, detail: str) -> None:
        """A run has ended."""
        current = self._apps.get(app.name)
        if outcome in NOT_THE_APPS or (current is not app and current != app):
            return  # or it is a run of an app that a reload has changed meanwhile
        row = self._rows.setdefault(app.name, _Row())
        number = _number(app)
        if not row.slices or row.slices[-1].number != number:
            row.slices.append(_Slice(number))
        newest = row.slices[-1]
        newest.runs += 1
        if outcome is Outcome.OK:
            return  # it makes no app failing; whether one recovers is judged when somebody asks
        newest.failed += 1
        first = detail.split("\n", 1)[0][:LAST_MAX]
        row.last = f"{outcome}: {first}" if first else str(outcome)
        self._judge(app, row)

    def state(self, app: App) -> Failed | None:
        """How an app fails; None if it does not count as failing."""
        row = self._rows.get(app.name)
        if row is None:
            return None
        failed, runs = self._judge(app, row)
        return Failed(failed, runs, row.last) if row.is_failing else None

    def _judge(self, app: App, row: _Row) -> tuple[int, int]:
        settings, oldest = app.failing, _number(app) - SLICES
        while row.slices and row.slices[0].number <= oldest:
            row.slices.popleft()
        failed = sum(one.failed for one in row.slices)
        runs = sum(one.runs for one in row.slices)
        if row.is_failing:
            row.is_failing = bool(failed) and 200 * failed >= settings.percent * runs
        else:
            row.is_failing = failed >= settings.runs and 100 * failed >= settings.percent * runs
        row.is_failing = row.is_failing and settings.percent > 0
        return failed, runs


def explain(app: App, failed: Failed) -> str:
    """Say in one line how an app fails."""
    within = show_duration(app.failing.within)
    return (
        f"{failed.failed} of its {failed.runs} runs of the last {within} failed;"
        f" the newest: {failed.last}"
    )


def _number(app: App) -> int:
    return int(trio.current_time() / app.failing.within * SLICES)
