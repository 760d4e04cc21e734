"""The figures of the last hour, for the console: an observer that counts runs by the time of their
end and samples the gauges, in a fixed amount of memory.

Prometheus keeps months, and is where alerts belong. These are for somebody who has just opened the
console, wherever no Prometheus runs.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence

import trio
from attrs import define, field, frozen

from .observe import Event, InboundAnswered, Observer, RunEnded
from .outcomes import Outcome

HOUR = 3600
STEP = 10  # seconds of a step of the whole
RECENT = 300  # seconds that count as the last minutes
KEPT = RECENT // STEP  # steps of those
APP_STEP = 60  # seconds of a step of one app
APPS_BYTES = 8 << 20  # of all apps together; the app that has been idle longest makes room
GAUGES = ("queue", "outbox", "processes", "memory")
# the others are run again, or were not run, and are seen as dead letters
NOT_FAILED = frozenset({Outcome.OK, Outcome.SHUTDOWN, Outcome.DEAD_LETTER})
WELL = ("accepted", "duplicate")  # answers to a message that is not lost

# Upper bounds of the classes of durations, in seconds: each a third larger, from 1 ms to 90 s.
BOUNDS = tuple(0.001 * (4 / 3) ** power for power in range(41))
RUNS, FAILED, REJECTED, CLASSES = 0, 1, 2, 3  # of a step's cells; the classes are the rest
WIDTH = CLASSES + len(BOUNDS) + 1


@frozen
class Summary:
    """Runs of some time: how many, how many of them failed, how many messages were rejected, and
    how long the runs took (seconds; None without runs).
    """

    runs: int
    failed: int
    rejected: int
    p50: float | None
    p99: float | None


@define(eq=False)
class Series:
    """Counts of the last hour in steps of `step` seconds; older ones are overwritten.

    Attributes:
        newest: The number of the newest step since the clock's zero.
    """

    step: int
    newest: int = 0
    _cells: array[int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._cells = array("I", bytes(4 * WIDTH * self.length))

    @property
    def length(self) -> int:
        """Steps of an hour."""
        return HOUR // self.step

    @property
    def bytes(self) -> int:
        """The memory that it takes."""
        return self._cells.itemsize * len(self._cells)

    def row(self, now: float) -> int:
        """The place of the first cell of the step of this time; steps in between are emptied."""
        number = int(now / self.step)
        for between in range(max(self.newest + 1, number - self.length + 1), number + 1):
            at = between % self.length * WIDTH
            self._cells[at : at + WIDTH] = array("I", bytes(4 * WIDTH))
        self.newest = max(self.newest, number)
        return self.newest % self.length * WIDTH

    def ended(self, now: float, seconds: float, *, failed: bool) -> None:
        """Count a run."""
        at, cells = self.row(now), self._cells
        cells[at + RUNS] += 1
        cells[at + FAILED] += failed
        cells[at + CLASSES + bisect_left(BOUNDS, seconds)] += 1

    def rejected(self, now: float) -> None:
        """Count a message that was not accepted."""
        self._cells[self.row(now) + REJECTED] += 1

    def rows(self, now: float, newest: int | None = None) -> list[Summary]:
        """All steps, or the `newest` ones; the oldest first."""
        self.row(now)
        count = self.length if newest is None else newest
        numbers = range(self.newest - count + 1, self.newest + 1)
        return [_summary(self._of(number)) for number in numbers]

    def total(self, now: float, newest: int | None = None) -> Summary:
        """All steps, or the `newest` ones, together."""
        self.row(now)
        count = self.length if newest is None else newest
        rows = [self._of(number) for number in range(self.newest - count + 1, self.newest + 1)]
        return _summary([sum(column) for column in zip(*rows, strict=True)])

    def _of(self, number: int) -> Sequence[int]:
        at = number % self.length * WIDTH
        return self._cells[at : at + WIDTH]


def _summary(cells: Sequence[int]) -> Summary:
    classes = cells[CLASSES:]
    p50, p99 = _quantile(classes, 0.5), _quantile(classes, 0.99)
    return Summary(cells[RUNS], cells[FAILED], cells[REJECTED], p50, p99)


def _quantile(classes: Sequence[int], share: float) -> float | None:
    """A quantile of durations in seconds, as if those of a class were spread evenly in it."""
    left = sum(classes) * share
    if not left:
        return None
    for index, count in enumerate(classes):
        if count and left <= count:
            low = BOUNDS[index - 1] if index else 0.0
            high = BOUNDS[min(index, len(BOUNDS) - 1)]
            return low + (high - low) * left / count
        left -= count
    return BOUNDS[-1]


@define(eq=False)
class Figures:
    """An `Observer` that keeps the last hour.

    Attributes:
        gauges: Each sample of the last hour by name, every `STEP` seconds; NaN if there was none.
        apps_bytes: The bound of what is kept of single apps.
    """

    apps_bytes: int = APPS_BYTES
    gauges: dict[str, array[float]] = field(init=False)
    whole: Series = field(factory=lambda: Series(STEP), init=False)
    _apps: OrderedDict[str, Series] = field(factory=OrderedDict, init=False)
    # steps and their counts, by channel and code
    _rejections: dict[tuple[str, str], deque[tuple[int, int]]] = field(factory=dict, init=False)
    _sampled: int = field(default=0, init=False)  # the step of the newest sample

    def __attrs_post_init__(self) -> None:
        empty = [float("nan")] * self.whole.length
        self.gauges = {name: array("d", empty) for name in GAUGES}

    def __call__(self, event: Event) -> None:
        """Count an event."""
        kind = type(event)
        if kind is RunEnded:
            assert isinstance(event, RunEnded)
            now, failed = trio.current_time(), event.outcome not in NOT_FAILED
            seconds = event.phases.total
            self.whole.ended(now, seconds, failed=failed)
            self._series(event.app).ended(now, seconds, failed=failed)
        elif kind is InboundAnswered:
            assert isinstance(event, InboundAnswered)
            if event.answer not in WELL:
                self.whole.rejected(trio.current_time())
                self._reject(event)

    def _reject(self, event: InboundAnswered) -> None:
        """Count it among those of its channel and kind."""
        counts = self._rejections.setdefault((event.channel, event.answer), deque(maxlen=KEPT))
        step = int(trio.current_time() / STEP)
        if counts and counts[-1][0] == step:
            step, count = counts.pop()
            counts.append((step, count + 1))
        else:
            counts.append((step, 1))

    def rejections(self) -> dict[tuple[str, str], int]:
        """How many messages were rejected in the last minutes, by channel and code."""
        oldest = int(trio.current_time() / STEP) - KEPT
        found = {
            key: sum(count for step, count in counts if step > oldest)
            for key, counts in self._rejections.items()
        }
        for key in [key for key, count in found.items() if not count]:
            del found[key], self._rejections[key]
        return found

    def _series(self, app: str) -> Series:
        known = self._apps.get(app)
        if known is None:
            known = self._apps[app] = Series(APP_STEP)
            while len(self._apps) > 1 and len(self._apps) * known.bytes > self.apps_bytes:
                self._apps.popitem(last=False)
        self._apps.move_to_end(app)
        return known

    def app(self, name: str) -> Series | None:
        """The counts of an app; None if it has had no run, or made room for others."""
        return self._apps.get(name)

    def sample(self, values: dict[str, float]) -> None:
        """Note the gauges of this moment."""
        number = int(trio.current_time() / STEP)
        length = self.whole.length
        for name, column in self.gauges.items():
            for between in range(max(self._sampled + 1, number - length + 1), number):
                column[between % length] = float("nan")
            column[number % length] = values[name]
        self._sampled = number

    def gauge(self, name: str) -> list[float | None]:
        """The samples of the last hour, the oldest first; None where there was none."""
        column, length = self.gauges[name], self.whole.length
        number = int(trio.current_time() / STEP)
        kept = range(self._sampled - length + 1, self._sampled + 1)
        found = [
            column[one % length] if one in kept else float("nan")
            for one in range(number - length + 1, number + 1)
        ]
        return [None if value != value else value for value in found]  # noqa: PLR0124  # NaN

    async def watch(self, look: Callable[[], Awaitable[dict[str, float]]]) -> None:
        """Sample in every step, for ever."""
        while True:
            self.sample(await look())
            now = trio.current_time()
            await trio.sleep_until((int(now / STEP) + 1) * STEP)


def both(first: Observer, second: Observer) -> Observer:
    """An observer that tells two."""

    def tell(event: Event) -> None:
        first(event)
        second(event)

    return tell
