"""Apps whose processes keep ending. A start costs the host as much as dozens of messages, so these
apps are started more slowly. If their processes end by themselves, they are at last not started at
all until a reload.
"""

from __future__ import annotations

from attrs import define, field, frozen

from ..config.model import App
from ..outcomes import Outcome

CRASHES = frozenset({Outcome.BOOT, Outcome.CRASHED})
HARMLESS = frozenset(
    {Outcome.OK, Outcome.NO_REPLY, Outcome.SHUTDOWN, Outcome.KILLED_BY_OPERATOR, Outcome.HOST_OOM}
)
FREE = 3  # runs in a row that may end their process before the first pause
FIRST_PAUSE = 0.25  # seconds; doubled for each further run
OTHER_PAUSE = 1.0  # seconds at most if we ended the processes; else pool.crash_backoff


@frozen
class CrashState:
    """How an app is doing.

    Attributes:
        state: `running`, `backing off` or `tripped`.
        crashes: How many in a row.
        last: What the last one was.
    """

    state: str
    crashes: int
    last: str


@define
class _Row:
    crashes: int = 0
    ended: int = 0  # crashes and all other runs that ended their process
    last: str = ""


@define
class CrashLoops:
    """Counts the runs in a row that ended with their process, for each app."""

    _rows: dict[str, _Row] = field(factory=dict, init=False)

    def note(self, app: App, outcome: Outcome, detail: str) -> bool:
        """A run has ended. Returns whether that trips the app."""
        if outcome in HARMLESS:
            self._rows.pop(app.name, None)
            return False
        row = self._rows.setdefault(app.name, _Row())
        row.ended, row.last = row.ended + 1, detail
        row.crashes = row.crashes + 1 if outcome in CRASHES else 0
        return row.crashes == app.pool.trip_after

    def pause(self, app: App) -> float:
        """Seconds to wait before a process of the app is started."""
        row = self._rows.get(app.name, _Row())
        if row.ended < FREE:
            return 0.0
        most: float = app.pool.crash_backoff
        if row.crashes < FREE:
            most = min(OTHER_PAUSE, most)
        return min(FIRST_PAUSE * 2.0 ** min(row.ended - FREE, 30), most)

    def in_trouble(self, app: App) -> bool:
        """Whether its last run ended its process: then the next process starts, and runs, in the
        background.
        """
        return app.name in self._rows

    def is_tripped(self, app: App) -> bool:
        """Whether no more runs of the app are started."""
        row = self._rows.get(app.name)
        return row is not None and row.crashes >= app.pool.trip_after

    def state(self, app: App) -> CrashState:
        """How an app is doing."""
        row = self._rows.get(app.name, _Row())
        name = "running"
        if self.is_tripped(app):
            name = "tripped"
        elif self.pause(app):
            name = "backing off"
        return CrashState(name, row.crashes, row.last)

    def forgive(self) -> None:
        """Forget all crashes: after a reload, every app is tried again."""
        self._rows.clear()
