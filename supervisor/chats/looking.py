"""Compare what an app did with what a test expects."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from attrs import field, frozen

from resources.stores.recordings import Recording

SENDS = ("outbound.send_to", "outbound.send_to_endpoint", "outbound.send_to_tag")
WORDS = {
    "http": "request", "metric": "metric", "sms": "message", "log": "log line",
    "contact": "contact", "kv": "value",
}  # fmt: skip
SHOWN_MAX = 5  # of the things that the app did instead
ABSENT = "(absent)"

Found = Mapping[str, Any]


@frozen
class Done:
    """What the app did, by kind, in order."""

    by_kind: Mapping[str, list[Found]] = field(
        factory=lambda: {"http": [], "metric": [], "sms": [], "log": []}
    )

    def add(self, recording: Recording) -> None:
        """Add what one run did; its log comes from the logbook."""
        for one in recording.exchanges:
            asked, is_done = one.request, bool((one.reply or {}).get("success"))
            if one.name.startswith("http."):
                self.by_kind["http"].append(_request(one.name, asked))
            elif one.name == "metrics.fire" and is_done:
                self.by_kind["metric"].append({"store": "default", **asked})
            elif one.name in SENDS and is_done:
                self.by_kind["sms"].append(
                    {
                        "to": asked.get("to_addr"),
                        "content": asked.get("content"),
                        "endpoint": asked.get("endpoint", "default"),
                    }
                )

    def extend(self, other: Done) -> None:
        """Add what another one has."""
        for kind, found in other.by_kind.items():
            self.by_kind[kind].extend(found)


def _request(name: str, asked: Found) -> Found:
    body = asked.get("data")
    found = {
        "method": name.removeprefix("http.").upper(),
        "url": asked.get("url"),
        "headers": asked.get("headers") or {},
        "body": body or "",
    }
    try:
        return found | {"json": json.loads(body)} if body else found
    except (TypeError, ValueError):
        return found


def fits(kind: str, what: Found, found: Found) -> bool:
    """Whether something that the app did has all that is expected."""
    return all(_fits(kind, key, value, found) for key, value in what.items() if key != "times")


def _fits(kind: str, key: str, value: Any, found: Found) -> bool:
    got = found.get(key)
    match kind, key:
        case ("http", "body") | ("sms", "content") | ("log", "message"):
            is_so = isinstance(got, str) and value in got
        case ("http", "method") | ("log", "level"):
            is_so = value.upper() == got
        case "http", "url":
            is_so = isinstance(got, str) and _is_url(value, got)
        case "http", "params":
            query = str(found.get("url")).partition("?")[2]
            given = dict(parse_qsl(query, keep_blank_values=True))
            is_so = contains({name: str(one) for name, one in value.items()}, given)
        case "http", "headers":
            is_so = contains(_headers(value), _headers(got or {}))
        case "metric", "value":
            is_so = _number(got) == value
        case _:
            is_so = contains(value, got)
    return is_so


def _headers(given: Found) -> Found:
    """Headers by their names in lower case; one that has a list of one value, as that value."""
    return {
        name.lower(): value[0] if isinstance(value, list) and len(value) == 1 else value
        for name, value in given.items()
    }


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _is_url(pattern: str, url: str) -> bool:
    if pattern.endswith("*"):
        return url.startswith(pattern[:-1])
    return url == pattern or ("?" not in pattern and url.partition("?")[0] == pattern)


def contains(expected: Any, got: Any) -> bool:
    """Whether a JSON value has all that is expected: of an object the keys that are named, of a
    list each item, of anything else the same value.
    """
    if isinstance(expected, dict):
        return isinstance(got, dict) and all(
            key in got and contains(value, got[key]) for key, value in expected.items()
        )
    if isinstance(expected, list):
        return (
            isinstance(got, list)
            and len(got) == len(expected)
            and all(contains(one, other) for one, other in zip(expected, got, strict=True))
        )
    if isinstance(expected, bool) or isinstance(got, bool):
        return expected is got
    return bool(expected == got)


def difference(kind: str, what: Found, found: Sequence[Found]) -> list[str]:
    """What differs between what is expected and what there was; empty if it fits."""
    fitting = [one for one in found if fits(kind, what, one)]
    times = what.get("times")
    if fitting if times is None else len(fitting) == times:
        return []
    word = WORDS[kind]
    wanted = {key: value for key, value in what.items() if key != "times"}
    if times is not None:
        lines = [f"expected {times} times, found {len(fitting)} times: {_line(wanted)}"]
    elif not found:
        return [f"- {_line(wanted)}", f"+ (no {word})"]
    else:
        lines = [f"- {_line(wanted)}"]
    nearest = sorted(found, key=lambda one: -_likeness(kind, wanted, one))[:SHOWN_MAX]
    shown = [f"+ {_line(_shown(one, wanted))}" for one in nearest]
    more = [f"  and {len(found) - SHOWN_MAX} more"] if len(found) > SHOWN_MAX else []
    return [*lines, *shown, *more]


def _likeness(kind: str, wanted: Found, found: Found) -> int:
    return sum(_fits(kind, key, value, found) for key, value in wanted.items())


def _shown(found: Found, wanted: Found) -> Found:
    """The fields that are expected, as they are; and, of a request, always which it is."""
    keys = dict.fromkeys([*wanted, *(key for key in ("method", "url") if key in found)])
    return {key: found.get(key, ABSENT) for key in keys if key != "params"}


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def lines_differ(expected: str, got: str | None) -> list[str]:
    """How a reply differs from the expected text, line by line."""
    if got is None:
        return [*(f"- {line}" for line in expected.split("\n")), "+ (no reply)"]
    compared = difflib.ndiff(expected.split("\n"), got.split("\n"))
    return [line for line in compared if not line.startswith("?")]


def values_differ(expected: Any, got: Any) -> list[str]:
    """A JSON value that is not as expected, by lines."""
    if got == ABSENT:
        return [*(f"- {line}" for line in _pretty(expected)), f"+ {ABSENT}"]
    compared = difflib.ndiff(_pretty(expected), _pretty(got))
    return [line for line in compared if not line.startswith("?")]


def _pretty(value: Any) -> list[str]:
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True).split("\n")
