"""A TOML file as a document and the line of each of its keys, or as the problems in it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from attrs import frozen

from resources.text import clean, is_clean, visible

from .bounds import line_too_deep
from .files import Unreadable, read_text
from .locate import Path, locate

_POSITION = re.compile(r"\(at line (\d+), column (\d+)\)")
_LONG_NUMBER = re.compile(r"(?<![\w.+-])[+-]?[0-9][0-9_]{4000,}")  # Python reads 4,300 digits


@frozen
class Problem:
    """One thing wrong in a config file."""

    line: int
    text: str


class InvalidConfig(Exception):
    """The file cannot be used. `problems` are all errors found in it, in the order of lines."""

    def __init__(self, file: FilePath, problems: list[Problem]) -> None:
        self.file = file
        self.problems = sorted(set(problems), key=lambda problem: (problem.line, problem.text))
        super().__init__("\n".join(f"{file}:{p.line}: {p.text}" for p in self.problems))


def read_toml(file: FilePath, most: int) -> tuple[dict[str, Any], Mapping[Path, int]]:
    """Read a TOML file of at most `most` bytes; return its document and the line of each key.

    Raises:
        InvalidConfig: It cannot be read, or is not valid TOML.
    """
    try:
        text = read_text(file, most)
    except Unreadable as error:
        raise InvalidConfig(file, [Problem(1, f"cannot be read: {error}")]) from error
    # Paths in the file are relative to its own, and are shown to apps and admin clients.
    if not is_clean(str(file)):
        raise InvalidConfig(file, [Problem(1, "cannot be used: its path is not UTF-8 text")])
    line = line_too_deep(text)
    if line is not None:
        raise InvalidConfig(file, [Problem(line, "it is nested too deeply from here on")])
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # ValueError also for an integer of more digits than Python reads
        problem = Problem(_line_of(error, text), one_line(f"not valid TOML: {error}"))
        raise InvalidConfig(file, [problem]) from error
    return document, _located(text)


def one_line(text: str) -> str:
    """A message with control characters and line ends escaped, for terminals and line readers."""
    return visible(clean(text), keep="")


def _line_of(error: Exception, text: str) -> int:
    if found := _POSITION.search(str(error)):
        return int(found[1])
    place = _LONG_NUMBER.search(text)  # the one error without a position
    return text.count("\n", 0, place.start() if place else len(text)) + 1


def _located(text: str) -> Mapping[Path, int]:
    try:
        return locate(text)
    # the config is as good without lines: errors then name line 1
    except Exception:  # noqa: BLE001
        return {}
