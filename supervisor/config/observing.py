"""Settings of what operators see: when an app counts as failing, and where the apps' logs go."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from .units import Count, Duration, Percent


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
