"""How deep a TOML document may be. Checked first: parsing takes time quadratic in the depth."""

from __future__ import annotations

import re
from typing import Any

from .locate import Path

DEPTH_MAX = 32  # of nested tables and lists; a config has six
BRACKETS_MAX = 64  # of nested brackets
PARTS_MAX = 64  # of a dotted key

# Possessive, and an unterminated string takes the rest of its line or text: linear in any text.
_STRINGS = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*+"{0,5}+'
    r"|'''(?:[^']|'(?!''))*+'{0,5}+"
    r'|"(?:[^"\\\n]|\\.)*+"?+'
    r"|'[^'\n]*+'?+"
    r"|#[^\n]*+",
    re.DOTALL,
)
_DOTTED = re.compile(rf"(?<![\w.-])[\w-]++(?:[ \t]*+\.[ \t]*+[\w-]++){{{PARTS_MAX},}}+", re.ASCII)


def line_too_deep(text: str) -> int | None:
    """Find the line at which TOML text becomes too deep to be parsed, if any."""
    plain = _STRINGS.sub(_blank, text)
    found = _DOTTED.search(plain)
    first = [] if found is None else [found.start()]
    if plain.count("[") + plain.count("{") > BRACKETS_MAX:
        depth = 0
        for bracket in re.finditer(r"[\[\]{}]", plain):
            depth += 1 if bracket[0] in "[{" else -1
            if depth > BRACKETS_MAX:
                first.append(bracket.start())
                break
    return plain.count("\n", 0, min(first)) + 1 if first else None


def _blank(string: re.Match[str]) -> str:
    """A valid part of a key that spans as many lines as the string."""
    return "q" + "\n" * string[0].count("\n")


def path_too_deep(document: dict[str, Any]) -> Path | None:
    """Find a path in a document that is longer than DEPTH_MAX, if any."""
    waiting: list[tuple[Path, Any]] = [((), document)]
    while waiting:
        path, value = waiting.pop()
        if len(path) > DEPTH_MAX:
            return path
        if isinstance(value, dict):
            waiting += [((*path, key), item) for key, item in value.items()]
        elif isinstance(value, list):
            waiting += [
                ((*path, index), item)
                for index, item in enumerate(value)
                if isinstance(item, dict | list)
            ]
    return None
