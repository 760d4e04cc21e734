"""Settings of what operators see of the apps: logs, metrics, traces, and when one is failing."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from .units import Address, Count, Duration, Natural, Percent


@frozen
class Failing:
    """[defaults.failing]: when an app is shown as failing. It goes on running."""

    percent: Percent = Percent(20)  # of its runs that failed; 0: it never counts as failing
    within: Duration = Duration(300.0)  # only the runs of this time are looked at
    runs: Count = Count(3)  # failed ones, at least


@frozen
class LogOutput:
    """[log]: where the apps' logs go besides the store."""

    stdout: Literal["off", "text", "json"] = "off"  # the service's standard output


@frozen
class Log:
    """[defaults.log]: the apps' logs."""

    kept: Count = Count(1000)  # newest entries per app


@frozen
class Otel:
    """[otel]: where the traces of runs are sent, by OTLP over HTTP."""

    endpoint: str = ""  # /v1/traces is added to it; empty: nothing is sent, nor loaded


@frozen
class Metrics:
    """[defaults.metrics]: where the metrics that apps fire go."""

    graphite: Address | None = None  # plaintext protocol; empty: metrics are dropped
    prefix: str = "go.campaigns"  # <prefix>.<account>.stores.<store>.<metric>.<agg>
    bucket: Duration = Duration(60.0)


@frozen
class Trace:
    """[defaults.trace]: timelines for `jsbox trace`, and recordings for `jsbox replay`."""

    runs: Natural = Natural(200)  # newest kept per app, in memory
    notable: Natural = Natural(100)  # besides those, the newest that failed or were slow
    slow: Duration = Duration(2.0)  # from a message's acceptance to the end of its run
    recorded: Count = Count(1000)  # newest recordings kept per app, in the store
    recorded_for: Duration = Duration(72 * 3600.0)  # then a recording is deleted
