"""JSON from an operator: whatever is ambiguous or cannot be stored is reported, not guessed.

`parse` reads a text and puts a `Wrong` in the place of each bad value, so that one row of many can
be refused alone. `problem_in` finds the first of them. Large texts take a while: use a worker
thread.
"""

from __future__ import annotations

import json
import math
from typing import Any

from attrs import frozen

from resources.text import DEPTH_MAX, is_clean

VALUES_MAX = 400_000  # in one text; more would keep others waiting for too long
SHOWN_MAX = 50  # characters of a key
LEAST, MOST = -(1 << 63), (1 << 64) - 1  # integers that the store keeps
DIGITS_MAX = len(str(MOST))


@frozen
class Wrong:
    """A bad value; the text says what is wrong with it."""

    text: str


def parse(data: bytes) -> Any:
    """Parse a JSON text; a bad value in it becomes a `Wrong`.

    Raises:
        ValueError: It is not JSON. The text says where.
    """
    if data.count(b",") > VALUES_MAX:
        raise ValueError(f"expected at most {VALUES_MAX} values")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8 text (byte {error.start})") from error
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON: {error}") from error
    except RecursionError as error:
        raise ValueError(f"expected at most {DEPTH_MAX} levels of nesting") from error


def problem_in(value: Any, depth_max: int = DEPTH_MAX) -> str:
    """Describe the first problem in a parsed value, with its path; empty if there is none."""
    waiting: list[tuple[str, Any, int]] = [("", value, 0)]
    while waiting:
        path, item, depth = waiting.pop()
        problem = ""
        if isinstance(item, Wrong):
            problem = item.text
        elif isinstance(item, str):
            problem = "" if is_clean(item) else "half of a surrogate pair is no character"
        elif isinstance(item, dict | list):
            if depth >= depth_max:
                problem = f"expected at most {depth_max} levels of nesting"
            elif isinstance(item, dict):
                unclean = next((key for key in item if not is_clean(key)), None)
                if unclean is not None:
                    problem = f"half of a surrogate pair is no character (in the key {unclean!a})"
                waiting += [
                    (f"{path}.{_short(key)}", inner, depth + 1)
                    for key, inner in reversed(item.items())
                ]
            else:
                waiting += [
                    (f"{path}[{n}]", item[n], depth + 1) for n in range(len(item) - 1, -1, -1)
                ]
        if problem:
            return f"{path.removeprefix('.')}: {problem}" if path else problem
    return ""


def _object(pairs: list[tuple[str, Any]]) -> Any:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen = set[str]()
        twice = next(
            key
            for key, _ in pairs
            if key in seen or seen.add(key)  # type: ignore[func-returns-value]
        )
        return Wrong(f"the key {_short(twice)!a} is given twice")
    return made


def _integer(digits: str) -> Any:
    if len(digits) <= DIGITS_MAX and LEAST <= (value := int(digits)) <= MOST:
        return value
    return Wrong(f"an integer of {len(digits.lstrip('-'))} digits is too large")


def _number(text: str) -> Any:
    value = float(text)
    return value if math.isfinite(value) else Wrong(f"the number {_short(text)} is too large")


def _constant(name: str) -> Any:
    return Wrong(f"{name} is not a JSON number")


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."
