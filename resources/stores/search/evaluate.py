"""Whether one document matches a node: the whole query language in plain Python, for few documents
and as the reference for the index.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import regex

from .budget import Budget
from .fields import Document
from .nodes import (
    Any,
    Boolean,
    Everything,
    Exists,
    Fuzzy,
    Node,
    Occur,
    Period,
    Phrase,
    Prefix,
    QueryError,
    Range,
    Regex,
    Term,
    Wildcard,
)  # fmt: skip
from .patterns import least_length

CHECK_EVERY = 256  # beginnings of a wildcard in one token between two looks at the budget
REGEX_SECONDS = 0.5  # for one regular expression on one token
PLACES_MAX = 200_000  # of all words of a sloppy phrase in one field
# of the search for a sloppy phrase with repeated words in one field; beyond, it does not match
SLOPPY_STEPS = 20_000


def matches(node: Node, document: Document, budget: Budget | None = None) -> bool:
    """Whether the node finds the document. The budget may be that of many documents.

    Raises:
        QueryError: It takes too long.
    """
    budget = budget or Budget()
    match node:
        case Boolean(clauses):
            return _boolean(clauses, document, budget)
        case Everything():
            return True
        case Exists(field):
            return field in document.tokens
        case Period(field, first, last):
            moment = document.dates.get(field)
            return (
                moment is not None
                and (first is None or moment >= first)
                and (last is None or moment <= last)
            )
        case Phrase(field, words, slop):
            return _phrase(document.tokens.get(field, ()), words, slop, budget)
    budget.check()
    return any(_token_matches(node, token, budget) for token in document.tokens.get(node.field, ()))


def _boolean(clauses: Sequence[tuple[Occur, Node]], document: Document, budget: Budget) -> bool:
    must = should = False
    for occur, node in clauses:
        if occur is Occur.SHOULD and should:
            continue
        found = matches(node, document, budget)
        if found is (occur is Occur.MUST_NOT) and occur is not Occur.SHOULD:
            return False
        must = must or occur is Occur.MUST
        should = should or (occur is Occur.SHOULD and found)
    return must or should


def _token_matches(
    node: Term | Prefix | Wildcard | Fuzzy | Range | Regex, token: str, budget: Budget
) -> bool:
    match node:
        case Term(_, text):
            return token == text
        case Prefix(_, text):
            return token.startswith(text)
        case Wildcard(_, pattern):
            return wildcard_matches(pattern, token, budget)
        case Fuzzy(_, text, most):
            return distance(text, token, most) <= most
        case Range():
            return range_matches(node, token)
        case Regex(_, pattern):
            return regex_matches(pattern, token)


def regex_matches(pattern: str, token: str) -> bool:
    """Whether a regular expression matches the whole of a token.

    Raises:
        QueryError: It took too long.
    """
    try:
        return _compiled(pattern).fullmatch(token, timeout=REGEX_SECONDS) is not None
    except TimeoutError:
        raise QueryError(
            None, f"a regular expression took longer than {REGEX_SECONDS:g} s"
        ) from None


@lru_cache(256)
def _compiled(pattern: str) -> regex.Pattern[str]:
    return regex.compile(pattern)


def range_matches(node: Range, token: str) -> bool:
    """Whether a token is in the range, by code points."""
    low, high = node.low, node.high
    return (low is None or token > low or (node.with_low and token == low)) and (
        high is None or token < high or (node.with_high and token == high)
    )


def wildcard_matches(pattern: Sequence[str | Any], token: str, budget: Budget) -> bool:
    """Match greedily, with one point to go back to: at most len(pattern) * len(token) steps."""
    if least_length(pattern) > len(token):
        return False
    at = here = mark = 0
    star = -1
    while here < len(token):
        if at < len(pattern) and (pattern[at] is Any.ONE or pattern[at] == token[here]):
            at, here = at + 1, here + 1
        elif at < len(pattern) and pattern[at] is Any.MANY:
            star, mark, at = at, here, at + 1
        elif star >= 0:
            mark += 1
            at, here = star + 1, mark
            if not mark % CHECK_EVERY:
                budget.check()
        else:
            return False
    return all(one is Any.MANY for one in pattern[at:])


def distance(one: str, other: str, most: int) -> int:
    """The number of edits between two texts, a swap of neighbours being one; any number above
    `most` if there are more.
    """
    if abs(len(one) - len(other)) > most:
        return most + 1
    far = most + 1
    width = len(other) + 1
    before: list[int] = []
    last = [min(column, far) for column in range(width)]
    for row, x in enumerate(one, 1):
        # Only what is near the diagonal can be few edits.
        first, end = max(row - most, 1), min(row + most + 1, width)
        now = [far] * width if first > 1 else [row, *[far] * (width - 1)]
        for column in range(first, end):
            y = other[column - 1]
            edits = min(last[column] + 1, now[column - 1] + 1, last[column - 1] + (x != y))
            if row > 1 and column > 1 and x == other[column - 2] and one[row - 2] == y:
                edits = min(edits, before[column - 2] + 1)
            now[column] = edits
        before, last = last, now
    return last[-1]


def _phrase(tokens: Sequence[str], words: Sequence[str], slop: int, budget: Budget) -> bool:
    if slop:
        return sloppy(tokens, words, slop, budget)
    count, first = len(words), words[0]
    for start in range(len(tokens) - count + 1):
        if tokens[start] == first:
            budget.check()
            if tuple(tokens[start : start + count]) == words:
                return True
    return False


def sloppy(tokens: Sequence[str], words: Sequence[str], slop: int, budget: Budget) -> bool:
    """Whether the words can be given different places p of the tokens so that the p - index differ
    by at most `slop`.

    This is equivalent to Lucene's sloppy phrases.
    """
    budget.check()
    if len(words) > len(tokens):
        return False
    places: dict[str, list[int]] = {}
    for place, token in enumerate(tokens):
        places.setdefault(token, []).append(place)
    if any(word not in places for word in words):
        return False
    if sum(len(places[word]) for word in words) > PLACES_MAX:
        raise QueryError(None, "a sloppy phrase of words that occur too often in one field")
    shifted = [
        [(place - index, place) for place in places[word]] for index, word in enumerate(words)
    ]
    if len(set(words)) == len(words):
        return _narrowest(shifted) <= slop
    shifted.sort(key=len)
    return _assign(shifted, slop, budget)


def _narrowest(shifted: Sequence[Sequence[tuple[int, int]]]) -> int:
    """The least spread of values, one from each list."""
    events = sorted((value, index) for index, values in enumerate(shifted) for value, _ in values)
    last: dict[int, int] = {}
    best = events[-1][0] - events[0][0]
    for value, index in events:
        last[index] = value
        if len(last) == len(shifted):
            best = min(best, value - min(last.values()))
    return best


def _assign(shifted: Sequence[Sequence[tuple[int, int]]], slop: int, budget: Budget) -> bool:
    """With repeated words no place may be taken twice: try, within bounds."""
    steps = SLOPPY_STEPS
    stack: list[tuple[int, frozenset[int], int | None, int | None]] = [(0, frozenset(), None, None)]
    while stack and steps:
        budget.check()
        index, used, low, high = stack.pop()
        if index == len(shifted):
            return True
        for value, place in shifted[index]:
            steps -= 1
            lowest = value if low is None else min(low, value)
            highest = value if high is None else max(high, value)
            if place not in used and highest - lowest <= slop:
                stack.append((index + 1, used | {place}, lowest, highest))
        steps = max(steps, 0)
    return False
