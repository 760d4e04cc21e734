"""Problems that checks of a config have found, each with its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from resources.fence import cause_of

from .locate import Path

Found = Iterator[tuple[Path, str]]
SHA256 = re.compile(r"[0-9a-f]{64}")


def look(path: Path, problem: Callable[[], str | None]) -> Found:
    """Yield the problem of one value, if any; a check that fails is a problem, too."""
    try:
        text = problem()
    # a check that fails has found a value that cannot be used
    except Exception as error:  # noqa: BLE001
        text = f"cannot be used: {cause_of(error)}"
    if text:
        yield path, text


def token_problems(tokens: tuple[str, ...], path: Path) -> Found:
    """Yield the tokens of a list that are not the SHA-256 of one."""
    for index, token in enumerate(tokens):
        if not SHA256.fullmatch(token):
            yield (*path, index), "expected the SHA-256 of a token as 64 lower-case hex digits"
