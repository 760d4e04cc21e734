"""Thresholds that a run must hold: `"reply.p99" = "< 1500ms"`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Any

from attrs import frozen

from ..config.units import parse_duration, parse_size, show, show_duration, show_size

LATE = "generator.late.p99"
LATE_LIMIT = "< 20ms"  # unless the campaign sets it; beyond it a run is void

PERCENTILES = {
    "p50": 0.5,
    "p90": 0.9,
    "p95": 0.95,
    "p99": 0.99,
    "p999": 0.999,
    "p9999": 0.9999,
    "max": 1.0,
    "mean": None,
}
_TIMES = re.compile(r"(reply|service|generator\.late|session)\.(" + "|".join(PERCENTILES) + ")")
_COUNTS = ("missing_replies", "errors", "sessions.failed", "sessions.unfinished", "sandbox.starts")
_ERRORS = re.compile(r"errors\.[a-z_]+")
_DIALOGUE = re.compile(r"dialogue\.(.+)\.completed")
_LIMIT = re.compile(r"(<=|>=|==|<|>)\s*(\S.*)")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq,
}  # fmt: skip


@frozen
class Threshold:
    """A measure and its limit. `unit`: s, bytes, ratio, /s or count."""

    name: str
    operator: str
    limit: float
    unit: str
    dialogue: str | None = None

    def holds(self, value: float) -> bool:
        """Whether a value is within the limit."""
        return _COMPARE[self.operator](value, self.limit)

    def show(self, value: float) -> str:
        """Show a value with its unit."""
        match self.unit:
            case "s":
                return show_duration(value) if value > 0 else "0s"
            case "bytes":
                return show_size(value)
            case "ratio":
                return f"{value * 100:.4g}%"
            case "/s":
                return f"{value:.4g}/s"
        return f"{value:g}"

    def __str__(self) -> str:
        return f"{self.operator} {self.show(self.limit)}"


def parse_threshold(name: str, text: Any) -> Threshold:
    """Parse a line of [thresholds]. Raises ValueError."""
    unit, dialogue = _unit(name), _DIALOGUE.fullmatch(name)
    found = _LIMIT.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(
            f'expected a comparison, such as "< 1500ms", "> 97%" or "== 0", got {show(text)}'
        )
    compared, limit = found[1], found[2].strip()
    try:
        value, unit = _value(limit, unit)
    except ValueError as error:
        raise ValueError(f"after {compared}: {error}") from None
    return Threshold(name, compared, value, unit, dialogue[1] if dialogue else None)


def _unit(name: str) -> str:
    if _TIMES.fullmatch(name):
        return "s"
    if name == "sandbox.rss.max":
        return "bytes"
    if name in ("replies.rate", "sessions.rate"):
        return "/s"
    if name == "sessions.completed" or _DIALOGUE.fullmatch(name):
        return "ratio"
    if name in _COUNTS or _ERRORS.fullmatch(name):
        return "count"
    known = ["reply.p99", "service.p99", "session.p99", LATE, *_COUNTS, "errors.REASON",
             "replies.rate", "sessions.completed", "dialogue.NAME.completed",
             "sandbox.rss.max"]  # fmt: skip
    raise ValueError(
        f"unknown measure; known: {', '.join(known)} (times: {', '.join(PERCENTILES)})"
    )


def _value(limit: str, unit: str) -> tuple[float, str]:
    if limit.endswith("%") and unit in ("ratio", "count"):
        return _number(limit[:-1], limit, "a percentage") / 100, "ratio"
    match unit:
        case "s":
            return parse_duration(limit), unit
        case "bytes":
            return parse_size(limit), unit
        case "ratio":
            raise ValueError(f'expected a percentage, such as "97%", got {show(limit)}')
        case "/s":
            return _number(limit.removesuffix("/s"), limit, "a rate"), unit
    return _number(limit, limit, "a number"), unit


def _number(text: str, given: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"expected {what}, got {show(given)}")
    return value
