"""How much of their limits runs use: the newest values of each, for operators who choose limits,
and a line in the app's log when a run comes close.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping

import trio
from attrs import define, field, frozen

from ..config.model import App, Limits
from ..config.units import parse_count, parse_duration, parse_size

KEPT = 512  # newest values of one limit of one app
CLOSE = 0.8  # of a limit; from here on there is a line in the app's log
SAY_SECONDS = 3600.0  # between two such lines about one limit
LIMITS = {
    "wall": "s",
    "cpu": "s",
    "output": "bytes",
    "commands": "",
    "memory": "bytes",
    "heap": "bytes",
    "boot": "s",
}
"""The limits that are measured, and their units. `heap` is the live heap."""
PER_RUN = ("wall", "cpu", "output", "commands")
"""Those of which every run has a value."""


@frozen
class Seen:
    """What was measured of one limit in the newest runs; `boot` once per process, `memory` and
    `heap` now and then.
    """

    count: int
    p50: float
    p99: float
    most: float


@define
class _Ring:
    values: array[float] = field(factory=lambda: array("d"))
    next: int = 0
    most: float = 0.0
    said_at: float = float("-inf")

    def add(self, value: float) -> None:
        self.most = max(self.most, value)
        if len(self.values) < KEPT:
            self.values.append(value)
        else:
            self.values[self.next] = value
            self.next = (self.next + 1) % KEPT


@define
class Usage:
    """The newest values, by app and limit."""

    _rings: dict[tuple[str, str], _Ring] = field(factory=dict, init=False)

    def note(self, app: App, used: Mapping[str, float]) -> dict[str, str]:
        """Note what a run or a process used. Returns lines for the app's log, by limit, about
        limits that it came close to.
        """
        lines = {}
        for name, value in used.items():
            ring = self._rings.setdefault((app.name, name), _Ring())
            ring.add(value)
            limit = limit_of(app.limits, name)
            if value >= limit * CLOSE and trio.current_time() - ring.said_at > SAY_SECONDS:
                ring.said_at = trio.current_time()
                lines[name] = _warning(name, limit, value)
        return lines

    def seen(self, app: str) -> dict[str, Seen]:
        """What was measured of each limit."""
        found = {}
        for name in LIMITS:
            ring = self._rings.get((app, name))
            if ring is not None:
                values = sorted(ring.values)
                last = len(values) - 1
                found[name] = Seen(
                    len(values), values[last // 2], values[int(last * 0.99)], ring.most
                )
        return found

    def what_if(
        self, app: str, limits: Mapping[str, float]
    ) -> tuple[dict[str, tuple[int, int]], tuple[int, int]]:
        """Count the newest runs that used more than these limits: for each limit (how many, of how
        many), and the same for any of them.
        """
        each, over = {}, set[int]()
        runs = 0
        for name, limit in limits.items():
            ring = self._rings.get((app, name))
            places = (
                [at for at, value in enumerate(ring.values) if value > limit]
                if ring is not None
                else []
            )
            each[name] = len(places), len(ring.values) if ring is not None else 0
            if name in PER_RUN:  # these have the same run at the same place
                over.update(places)
                runs = max(runs, each[name][1])
        return each, (len(over), runs)

    def forget(self, apps: Mapping[str, App]) -> None:
        """Forget apps that are not among these."""
        for name, limit in list(self._rings):
            if name not in apps:
                del self._rings[name, limit]


def _warning(name: str, limit: float, value: float) -> str:
    unit = LIMITS[name]
    allowed, used = f"{limit:g} {unit}".rstrip(), f"{value:.3g} {unit}".rstrip()
    return (
        f"limits.{name} = {allowed}: {used} were used, {value / limit:.0%};"
        " runs over the limit are ended (this warning repeats at most hourly)"
    )


def limit_of(limits: Limits, name: str) -> float:
    """The value of a limit that is measured."""
    value: float = getattr(limits, name)
    return value


def parse_what_if(text: str) -> tuple[str, float]:
    """Parse `wall=5s`, written as in the config, to name and value. Raises ValueError."""
    name, sign, value = text.partition("=")
    if not sign or name not in LIMITS:
        raise ValueError(
            f"expected LIMIT=VALUE with one of the measured limits ({', '.join(LIMITS)}),"
            f" got {text!r}"
        )
    unit = LIMITS[name]
    try:
        if unit == "s":
            return name, float(parse_duration(value))
        if unit == "bytes":
            return name, float(parse_size(value))
        return name, float(parse_count(int(value)))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
