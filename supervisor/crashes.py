"""Apps whose processes keep ending by themselves: they are started ever more slowly, and in the end not at all, until a reload."""

from __future__ import annotations

from attrs import define, field, frozen

from .config.model import App
from .outcomes import Outcome

CRASHES = frozenset({Outcome.BOOT, Outcome.CRASHED})
FREE = 3  # crashes in a row before the first pause
FIRST_PAUSE = 0.25  # seconds; each further crash doubles it, up to pool.crash_backoff


@frozen
class CrashState:
    """How an app is doing: `running`, `backing off` or `tripped`; crashes in a row, and what the last one was."""

    state: str
    crashes: int
    last: str


@define
class _Row:
    crashes: int = 0
    last: str = ""


@define
class CrashLoops:
    """Counts the runs in a row that ended with their process, for each app."""

    _rows: dict[str, _Row] = field(factory=dict, init=False)

    def note(self, app: App, outcome: Outcome, detail: str) -> bool:
        """A run has ended. Whether the app is tripped by it."""
        if outcome not in CRASHES:
            self._rows.pop(app.name, None)
            return False
        row = self._rows.setdefault(app.name, _Row())
        row.crashes, row.last = row.crashes + 1, detail
        return row.crashes == app.pool.trip_after

    def pause(self, app: App) -> float:
        """Seconds to wait before a process of the app is started."""
        crashes = self._rows.get(app.name, _Row()).crashes
        return 0.0 if crashes < FREE else min(FIRST_PAUSE * 2.0 ** min(crashes - FREE, 30), app.pool.crash_backoff)

    def is_tripped(self, app: App) -> bool:
        """Whether no more runs of the app are started."""
        row = self._rows.get(app.name)
        return row is not None and row.crashes >= app.pool.trip_after

    def state(self, app: App) -> CrashState:
        """How an app is doing."""
        row = self._rows.get(app.name, _Row())
        name = "tripped" if self.is_tripped(app) else "backing off" if self.pause(app) else "running"
        return CrashState(name, row.crashes, row.last)

    def forgive(self) -> None:
        """After a reload everything is tried again."""
        self._rows.clear()
