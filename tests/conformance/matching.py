"""The cases' way of saying what a reply must be: subset matching of objects, and matchers."""

from __future__ import annotations

import json
import re
from typing import Any

MATCHERS = {"$type", "$regex", "$absent", "$ref", "$unordered", "$contains", "$len", "$eq", "$json"}
TYPES = {
    "string": str,
    "boolean": bool,
    "object": dict,
    "array": list,
    "null": type(None),
    "number": (int, float),
    "integer": int,
}
ABSENT = object()


def put_in(value: Any, names: dict[str, Any]) -> Any:
    """`${name}` in the strings of a value."""
    if isinstance(value, str):
        if whole := re.fullmatch(r"\$\{([\w.]+)\}", value):
            return names[whole[1]]
        return re.sub(r"\$\{([\w.]+)\}", lambda found: str(names[found[1]]), value)
    if isinstance(value, list):
        return [put_in(item, names) for item in value]
    if isinstance(value, dict):
        return {key: put_in(item, names) for key, item in value.items()}
    return value


def mismatch(expected: Any, actual: Any, names: dict[str, Any], path: str = "$") -> str | None:
    """Where and how `actual` is not as expected; None when it is."""
    if isinstance(expected, dict) and len(expected) == 1 and next(iter(expected)) in MATCHERS:
        ((matcher, argument),) = expected.items()
        return _matcher(matcher, argument, actual, names, path)
    if isinstance(expected, dict):
        if not isinstance(actual, dict):
            return f"{path}: expected an object, got {actual!r}"
        found = (
            mismatch(item, actual.get(key, ABSENT), names, f"{path}.{key}")
            for key, item in expected.items()
        )
        return next((text for text in found if text), None)
    if isinstance(expected, list):
        if not isinstance(actual, list) or len(actual) != len(expected):
            return f"{path}: expected {expected!r}, got {actual!r}"
        found = (
            mismatch(e, a, names, f"{path}[{n}]")
            for n, (e, a) in enumerate(zip(expected, actual, strict=True))
        )
        return next((text for text in found if text), None)
    return None if _same(expected, actual) else f"{path}: expected {expected!r}, got {actual!r}"


def _same(expected: Any, actual: Any) -> bool:
    if isinstance(expected, bool) or isinstance(actual, bool):
        return expected is actual
    return bool(expected == actual) and actual is not ABSENT


def _deep_same(expected: Any, actual: Any) -> bool:
    if isinstance(expected, dict) and isinstance(actual, dict):
        return expected.keys() == actual.keys() and all(
            _deep_same(expected[key], actual[key]) for key in expected
        )
    if isinstance(expected, list) and isinstance(actual, list):
        return len(expected) == len(actual) and all(map(_deep_same, expected, actual))
    return _same(expected, actual)


def _matcher(
    matcher: str, argument: Any, actual: Any, names: dict[str, Any], path: str
) -> str | None:
    text = f"{path}: expected {matcher} {argument!r}, got {actual!r}"
    if matcher == "$absent":
        return None if (actual is ABSENT) == bool(argument) else text
    if actual is ABSENT:
        return text
    match matcher:
        case "$type":
            right = isinstance(actual, TYPES[argument]) and (
                argument == "boolean" or not isinstance(actual, bool)
            )
        case "$regex":
            right = isinstance(actual, str) and re.search(argument, actual, re.DOTALL) is not None
        case "$ref":
            right = _same(names[argument], actual)
        case "$eq":
            right = _deep_same(argument, actual)
        case "$len":
            right = isinstance(actual, str | list | dict) and len(actual) == argument
        case "$json":
            return (
                mismatch(argument, json.loads(actual), names, f"{path}(json)")
                if isinstance(actual, str)
                else text
            )
        case "$contains":
            right = isinstance(actual, list) and all(
                any(mismatch(one, item, names) is None for item in actual) for one in argument
            )
        case _:  # $unordered
            right = isinstance(actual, list) and _same_unordered(argument, actual, names)
    return None if right else text


def _same_unordered(expected: list[Any], actual: list[Any], names: dict[str, Any]) -> bool:
    left = list(actual)
    for one in expected:
        found = next(
            (index for index, item in enumerate(left) if mismatch(one, item, names) is None), None
        )
        if found is None:
            return False
        del left[found]
    return not left
