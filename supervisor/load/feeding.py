"""What each user says of their own: a CSV file with a header row, whose texts replace `{column}` in
the steps of dialogues.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from attrs import evolve

from ..config.files import read_text
from .campaign import Dialogue, Step

FILE_MAX = 64 << 20  # bytes
ADDRESS = "address"  # the column with a user's address, if there is one
TEXTS = ("dial", "send", "expect")  # of a step
_NAME = re.compile(r"\{(\w+)\}")

Row = Mapping[str, str]


def read_rows(file: Path) -> list[Row]:
    """Read the rows of a file.

    Raises:
        Unreadable: The file cannot be read.
        ValueError: It is no CSV with a header row and a cell for each column in every row.
    """
    text = read_text(file, FILE_MAX).removeprefix("\ufeff")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        if not all(names) or len(set(names)) != len(names):
            raise ValueError(f"{file}: line 1: expected a row with the names of the columns")
        rows = list[Row]()
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(names):
                where = f"{file}: line {reader.line_num}"
                raise ValueError(f"{where}: expected {len(names)} cells, got {len(cells)}")
            rows.append(dict(zip(names, cells, strict=True)))
    except csv.Error as error:
        raise ValueError(f"{file}: line {reader.line_num}: not CSV: {error}") from error
    if not rows:
        raise ValueError(f"{file}: expected a header row and at least one user")
    addresses = [row[ADDRESS] for row in rows] if ADDRESS in names else []
    if len(set(addresses)) != len(addresses):
        raise ValueError(f"{file}: two users have the same address")
    return rows


def missing(step: Step, row: Row) -> str | None:
    """The first `{column}` in a step that the rows do not have; None if they have all."""
    return next((name for name in _names(step) if name not in row), None)


def _names(step: Step) -> Iterator[str]:
    for text in (getattr(step, name) for name in TEXTS):
        yield from _NAME.findall(text or "")
    for branch in step.branches:
        yield from _NAME.findall(branch.expect)
        for inner in branch.steps:
            yield from _names(inner)


def filled(dialogue: Dialogue, row: Row) -> Dialogue:
    """A dialogue as one user holds it."""
    return evolve(dialogue, steps=_filled(dialogue.steps, row))


def _filled(steps: Sequence[Step], row: Row) -> tuple[Step, ...]:
    return tuple(
        evolve(
            step,
            dial=_fill(step.dial, row),
            send=_fill(step.send, row),
            expect=_fill(step.expect, row),
            branches=tuple(
                evolve(one, expect=_fill(one.expect, row) or "", steps=_filled(one.steps, row))
                for one in step.branches
            ),
        )
        for step in steps
    )


def _fill(text: str | None, row: Row) -> str | None:
    return None if text is None else _NAME.sub(lambda found: row[found[1]], text)
