"""What apps fire with `metrics.fire`, since the start of the service, for Prometheus.

Names are the apps' own, and each makes series that Prometheus keeps: they are bounded. Values of
further names are counted, and go to Graphite only.
"""

from __future__ import annotations

from attrs import define, field

OF_APP_MAX = 200  # names of one app
ALL_MAX = 10_000  # of all apps together

Name = tuple[str, str, str]
"""App, store and metric."""


@define
class Fired:
    """The values of one metric.

    Attributes:
        last: The newest.
        total: Their sum.
        count: How many there were.
    """

    last: float = 0.0
    total: float = 0.0
    count: int = 0


@define(eq=False)
class AppMetrics:
    """The metrics of all apps.

    Attributes:
        values: By app, store and metric.
        left_out: Values by app that were not taken, since there were too many names.
    """

    values: dict[Name, Fired] = field(factory=dict, init=False)
    left_out: dict[str, int] = field(factory=dict, init=False)
    _names: dict[str, int] = field(factory=dict, init=False)  # by app

    def fire(self, app: str, store: str, metric: str, value: float) -> None:
        """Add a value. Never raises."""
        name = (app, store, metric)
        fired = self.values.get(name)
        if fired is None:
            names = self._names.get(app, 0)
            if names >= OF_APP_MAX or len(self.values) >= ALL_MAX:
                self.left_out[app] = self.left_out.get(app, 0) + 1
                return
            self._names[app] = names + 1
            fired = self.values[name] = Fired()
        fired.last = value
        fired.total += value
        fired.count += 1
