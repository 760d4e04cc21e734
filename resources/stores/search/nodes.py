"""A query after parsing and analysis: texts are as in the index, and clauses that no text can match
are gone.
"""

from __future__ import annotations

from enum import Enum

from attrs import frozen

LENGTH_MAX = 64 * 1024  # characters of a query


class SearchError(Exception):
    """A search failed; the text says why."""


class QueryError(SearchError):
    """A query is not valid, or asks too much.

    Attributes:
        position: That of the wrong character, from 1; None if the whole query is meant.
        detail: What was expected there.
    """

    def __init__(self, position: int | None, detail: str) -> None:
        super().__init__(
            f"Bad query: {detail}"
            if position is None
            else f"Bad query at character {position}: {detail}"
        )
        self.position = position
        self.detail = detail


class Occur(Enum):
    """How a clause counts in a `Boolean`."""

    SHOULD = ""
    MUST = "+"
    MUST_NOT = "-"


class Any(Enum):
    """What stands for other characters in a `Wildcard`."""

    ONE = "?"
    MANY = "*"


@frozen
class Everything:
    """`*:*`."""


@frozen
class Exists:
    """`field:*`: the field exists."""

    field: str


@frozen
class Term:
    """One token, or the whole of a keyword."""

    field: str
    text: str


@frozen
class Phrase:
    """Two or more tokens in a row; with a slop, that many moves away from it."""

    field: str
    tokens: tuple[str, ...]
    slop: int


@frozen
class Prefix:
    """`text*`."""

    field: str
    text: str


@frozen
class Wildcard:
    """Characters, and what stands for others. No two `Any.MANY` in a row."""

    field: str
    pattern: tuple[str | Any, ...]


@frozen
class Fuzzy:
    """Tokens within 1 or 2 edits; swapping two neighbours is one."""

    field: str
    text: str
    edits: int


@frozen
class Range:
    """Tokens from `low` to `high` by code points; None is open. At least one is given."""

    field: str
    low: str | None
    high: str | None
    with_low: bool
    with_high: bool


@frozen
class Period:
    """Dates from `first` to `last`, both included, in microseconds since 1970; None is open.
    Empty if `first` is later.
    """

    field: str
    first: int | None
    last: int | None


@frozen
class Regex:
    """A regular expression that a whole token matches, in the syntax that Python and Rust share."""

    field: str
    pattern: str


@frozen
class Boolean:
    """Clauses: all that must match, none that must not, and at least one of the others if none
    must.
    """

    clauses: tuple[tuple[Occur, Node], ...]


Node = (
    Everything
    | Exists
    | Term
    | Phrase
    | Prefix
    | Wildcard
    | Fuzzy
    | Range
    | Period
    | Regex
    | Boolean
)
NOTHING = Boolean(())


def fields_of(node: Node) -> frozenset[str]:
    """The fields that a query asks about."""
    match node:
        case Boolean(clauses):
            return frozenset[str]().union(*(fields_of(clause) for _, clause in clauses))
        case Everything():
            return frozenset()
    return frozenset((node.field,))
