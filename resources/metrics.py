"""metrics: values that are aggregated in time buckets and shown by Graphite, and by Prometheus."""

from __future__ import annotations

import math
import re
from typing import Any

from attrs import field, frozen

from .contract import Caller, Refused, Resource, command
from .messages import shown
from .parameters import Json, number_in, parameter
from .stores.app_metrics import AppMetrics
from .stores.graphite import AGGREGATORS, Graphite, Target, TooManyMetrics

NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9._-]{0,100}")


@frozen
class MetricsSettings:
    """Where the app's metrics go; without a target, to Prometheus only."""

    target: Target | None
    prefix: str


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def _metric_wrong(value: Any) -> str:
    if value is None:
        return "Missing metric name."
    if not isinstance(value, str):
        return f"Invalid type for metric name: {shown(value)}"
    return f"Invalid metric name: {shown(value)}"


def _number(value: Any) -> float | None:
    """A finite number; numeric strings are accepted, as before; booleans are not."""
    if isinstance(value, str):
        return number_in(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


@frozen
class Fire:
    """metrics.fire."""

    metric: Json = parameter(missing="Missing metric name.", wrong=_metric_wrong, check=_is_name)
    value: Json = parameter(
        missing="Invalid metric value: none given",
        wrong=lambda value: f"Invalid metric value: {shown(value)}",
        check=lambda value: _number(value) is not None,
    )
    agg: Json = parameter(
        missing="Invalid metric aggregator: none given",
        wrong=lambda value: f"Invalid metric aggregator: {shown(value)}",
        check=lambda value: isinstance(value, str) and value in AGGREGATORS,
    )
    store: Json = parameter(
        "default",
        wrong=lambda value: f"Invalid metric store name: {shown(value)}",
        check=_is_name,
    )


@frozen
class Done:
    """The value was accepted."""


@frozen
class Metrics(Resource):
    """The metrics command."""

    graphite: Graphite
    kept: AppMetrics = field(factory=AppMetrics)

    @command("metrics.fire")
    def fire(self, caller: Caller, request: Fire) -> Done:
        """Fire a metric value."""
        settings = caller.setting(MetricsSettings)
        number = _number(request.value)
        if number is not None:
            self.kept.fire(caller.app, request.store, request.metric, number)
        if settings.target is not None and number is not None:
            path = f"{settings.prefix}.{caller.account}.stores.{request.store}.{request.metric}"
            try:
                self.graphite.fire(settings.target, caller.account, path, request.agg, number)
            except TooManyMetrics as error:
                raise Refused(str(error)) from error
        return Done()
