"""Lucene's classic query language, as its QueryParser 8 reads it: default operator OR, leading
wildcards allowed.

As there, AND, OR and NOT have no precedence: each clause is marked as it is read (`_Clauses.add`),
and a clause of which analysis leaves nothing is dropped at that moment.
"""

from __future__ import annotations

import math
import re
import struct
from functools import lru_cache

from attrs import define, field

from .fields import DEFAULT, Kind, fold, kind_of, period
from .lexer import Token, tokens_of
from .nodes import (
    LENGTH_MAX,
    NOTHING,
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
from .patterns import INTEGER_MAX, regex_of, wildcard_of
from .words import words

CLAUSES_MAX = 1024  # of one group, as in Lucene
DEPTH_MAX = 100  # groups in groups
EDITS_MAX = 2
# Characters of all fuzzy terms, each counted so often for 0, 1, 2 edits; one takes some 3 KB.
FUZZY_MAX, FUZZY_WEIGHT = 20_000, (0, 1, 8)

_DECIMAL = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)[fFdD]?")
_HEXADECIMAL = re.compile(
    r"([+-]?0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)[pP][+-]?[0-9]+)[fFdD]?"
)
CACHED_QUERY = 1000  # characters; shorter queries are cached parsed
_NO_NUMBER = re.compile(r"[+-]?(?:NaN|Infinity)")
_CONTROLS = "".join(map(chr, range(33)))  # and the space: what Java strips
_SINGLE = struct.Struct("f")
_SINGLE_MAX = (2 - 2**-24) * 2.0**127  # from here on, a number is infinite in single precision
_HEX = re.compile(r"[0-9a-fA-F]{4}")


def parse(query: str) -> Node:
    """Parse a query.

    Raises:
        QueryError: It is not valid, or exceeds a limit of this module.
    """
    if len(query) > LENGTH_MAX:
        raise QueryError(None, f"it has {len(query)} characters, {LENGTH_MAX} are allowed")
    parser = _Parser(tokens_of(query))
    node = parser.group(DEFAULT, 0)
    parser.expect("END", "the end of the query")
    return NOTHING if node is None else node


def meaning(query: str) -> Node:
    """Parse a query; short ones are cached. Raises QueryError."""
    return _remembered(query) if len(query) <= CACHED_QUERY else parse(query)


@lru_cache(2048)
def _remembered(query: str) -> Node:
    return parse(query)


@define
class _Clauses:
    """The clauses of one group, marked as Lucene's addClause does it."""

    marked: list[tuple[Occur, Node]] = field(factory=list)

    def add(self, conjunction: str, modifier: str, node: Node | None, position: int) -> None:
        if conjunction == "AND" and self.marked and self.marked[-1][0] is not Occur.MUST_NOT:
            self.marked[-1] = (Occur.MUST, self.marked[-1][1])
        if node is None:
            return
        if modifier == "-":
            occur = Occur.MUST_NOT
        else:
            occur = Occur.MUST if modifier == "+" or conjunction == "AND" else Occur.SHOULD
        self.marked.append((occur, node))
        if len(self.marked) > CLAUSES_MAX:
            raise QueryError(position, f"more than {CLAUSES_MAX} clauses in one group")


@define
class _Parser:
    tokens: list[Token]
    at: int = 0
    fuzzy: int = 0

    @property
    def next(self) -> Token:
        return self.tokens[self.at]

    def take(self) -> Token:
        token = self.next
        if token.kind != "END":
            self.at += 1
        return token

    def expect(self, kind: str, what: str) -> Token:
        if self.next.kind != kind:
            raise _unexpected(self.next, what)
        return self.take()

    def group(self, name: str, depth: int) -> Node | None:
        """Clauses up to the end or a closing bracket; None if analysis leaves nothing of them."""
        if depth > DEPTH_MAX:
            raise QueryError(self.next.position, f"groups are nested more than {DEPTH_MAX} deep")
        clauses, first, conjunction = _Clauses(), None, ""
        began = self.at
        while True:
            here, modifier = self.at, ""
            if self.next.kind in ("+", "-", "NOT"):
                modifier = "+" if self.take().kind == "+" else "-"
            position = self.next.position
            node = self.clause(name, depth)
            if here == began and not modifier:
                first = node
            clauses.add(conjunction, modifier, node, position)
            if self.next.kind in ("END", ")"):
                break
            conjunction = self.take().kind if self.next.kind in ("AND", "OR") else ""
        if not clauses.marked:
            return None
        if len(clauses.marked) == 1 and first is not None:
            return first
        return Boolean(tuple(clauses.marked))

    def clause(self, name: str, depth: int) -> Node | None:
        if self.next.kind in ("TERM", "*") and self.tokens[self.at + 1].kind == ":":
            token = self.take()
            name = "*" if token.kind == "*" else _unescaped(token.text, token.position)
            self.take()
        token = self.take()
        match token.kind:
            case "(":
                node = self.group(name, depth + 1)
                self.expect(")", "a closing )")
                self.boost()
                return node
            case "[" | "{":
                return self.range(name, token)
            case "QUOTED":
                fuzz = self.fuzz_and_boost()
                slop = _integer(_number(fuzz, 0.0)) if fuzz else 0
                return _phrase(
                    name, _unescaped(token.text[1:-1], token.position + 1), slop, token.position
                )
            case "TERM" | "LONE" | "*" | "PREFIX" | "WILDCARD" | "REGEX":
                node = _term(name, token, self.fuzz_and_boost())
                if isinstance(node, Fuzzy):
                    self.count_fuzzy(node, token.position)
                return node
        raise _unexpected(token, "a term")

    def count_fuzzy(self, node: Fuzzy, position: int) -> None:
        """Each becomes an automaton, whose size is in proportion to its text."""
        self.fuzzy += len(node.text) * FUZZY_WEIGHT[node.edits]
        if self.fuzzy > FUZZY_MAX:
            raise QueryError(
                position,
                f"all fuzzy terms have more than {FUZZY_MAX} characters, each of two edits"
                f" counting {FUZZY_WEIGHT[2]} times",
            )

    def boost(self) -> bool:
        """A boost, which has no effect on what matches."""
        if self.next.kind != "^":
            return False
        self.take()
        token = self.expect("NUMBER", "a number")
        if math.isinf(_number(token.text, 0.0)):
            raise QueryError(token.position, f"expected a boost below {_SINGLE_MAX:.2g}")
        return True

    def fuzz_and_boost(self) -> str | None:
        """What follows `~`, which may stand before a boost or behind it."""
        boosted = self.boost()
        fuzz = self.take().text[1:] if self.next.kind == "~" else None
        if not boosted:
            self.boost()
        return fuzz

    def range(self, name: str, opening: Token) -> Node:
        low = self.bound()
        self.expect("TO", "TO")
        high = self.bound()
        if self.next.kind not in ("]", "}"):
            raise _unexpected(self.next, "a closing ] or }")
        closing = self.take()
        self.boost()
        return _range(
            name,
            low,
            high,
            with_low=opening.kind == "[",
            with_high=closing.kind == "]",
            at=opening.position,
        )

    def bound(self) -> str | None:
        token = self.take()
        if token.kind not in ("BOUND", "QUOTED", "TO"):
            raise _unexpected(token, "a bound of the range")
        if token.kind == "BOUND" and token.text == "*":
            return None
        text = token.text[1:-1] if token.kind == "QUOTED" else token.text
        return _unescaped(text, token.position)


def _unexpected(token: Token, expected: str) -> QueryError:
    got = repr(token.text) if token.kind != "END" else "the end of the query"
    return QueryError(token.position, f"expected {expected}, got {got}")


def _unescaped(text: str, position: int) -> str:
    if "\\" not in text:
        return text
    found, at = [], 0
    while at < len(text):
        if text[at] != "\\":
            found.append(text[at])
            at += 1
        elif text[at + 1 : at + 2] == "u":
            digits = text[at + 2 : at + 6]
            if not _HEX.fullmatch(digits):
                raise QueryError(
                    position + at, f"expected four hexadecimal digits after \\u, got {digits!r}"
                )
            found.append(chr(int(digits, 16)))
            at += 6
        elif at + 1 == len(text):
            raise QueryError(position + at, "expected a character after \\, got the end")
        else:
            found.append(text[at + 1])
            at += 2
    # Two escapes may be the halves of one character, as Java writes it.
    return "".join(found).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _number(text: str, default: float) -> float:
    """What Lucene reads after a `~`: a number as Java writes them, in single precision; what it
    cannot read it ignores.
    """
    text = text.strip(_CONTROLS)
    if found := _DECIMAL.fullmatch(text):
        number = float(found[1])
    elif found := _HEXADECIMAL.fullmatch(text):
        try:
            number = float.fromhex(found[1])
        except OverflowError:
            number = math.inf
    else:
        return float(text) if _NO_NUMBER.fullmatch(text) else default
    return (
        math.copysign(math.inf, number)
        if abs(number) > _SINGLE_MAX
        else _SINGLE.unpack(_SINGLE.pack(number))[0]
    )


def _integer(number: float) -> int:
    """Java's conversion: 0 for what is not a number, and the nearest integer that there is."""
    if math.isnan(number):
        return 0
    return int(max(-INTEGER_MAX - 1, min(number, INTEGER_MAX)))


def _term(name: str, token: Token, fuzz: str | None) -> Node | None:
    text = token.text
    match token.kind:
        case "*" | "WILDCARD":
            if text == "*" and name == "*":
                return Everything()
            _unescaped(text, token.position)  # Lucene refuses what is wrong in here, too
            return Wildcard(name, wildcard_of(name, text)) if text.strip("*") else Exists(name)
        case "PREFIX":
            return Prefix(name, fold(name, _unescaped(text[:-1], token.position)))
        case "REGEX":
            _unescaped(text, token.position)
            return Regex(name, regex_of(name, text[1:-1], token.position + 1))
        case "LONE":
            text = text[0]
        case _:
            text = _unescaped(text, token.position)
    if fuzz is not None:
        return _fuzzy(name, text, fuzz, token.position)
    return _analysed(name, text, token.position)


def _analysed(name: str, text: str, position: int) -> Node | None:
    """A bare term: any of its words; None if it has none."""
    if kind_of(name) is not Kind.WORDS:
        return _keyword(name, text, position)
    found = words(text)
    if len(found) > CLAUSES_MAX:
        raise QueryError(position, f"more than {CLAUSES_MAX} words in one term")
    if len(found) <= 1:
        return Term(name, found[0]) if found else None
    return Boolean(tuple((Occur.SHOULD, Term(name, word)) for word in found))


def _keyword(name: str, text: str, position: int) -> Node:
    if kind_of(name) is Kind.DATE:
        return Period(name, *period(text, position))
    return Term(name, fold(name, text))


def _phrase(name: str, text: str, slop: int, position: int) -> Node | None:
    if kind_of(name) is not Kind.WORDS:
        return _keyword(name, text, position)
    found = words(text)
    if len(found) <= 1:
        return Term(name, found[0]) if found else None
    if slop < 0:
        raise QueryError(position, f"expected a number of moves of at least 0 after ~, got {slop}")
    return Phrase(name, tuple(found), slop)


def _fuzzy(name: str, text: str, fuzz: str, position: int) -> Node:
    similarity = _number(fuzz, 2.0)
    if similarity < 0:
        raise QueryError(position, f"expected a number of edits of at least 0 after ~, got {fuzz}")
    folded = fold(name, text)
    if similarity >= 1:
        if similarity > INTEGER_MAX + 1 or similarity != int(similarity):
            raise QueryError(position, f"expected a whole number of edits after ~, got {fuzz}")
        edits = min(int(similarity), EDITS_MAX)
    else:  # the old meaning: how alike, from 0 to 1; 0 is exactly
        alike = similarity == 0 or math.isnan(similarity)
        edits = 0 if alike else min(int((1 - similarity) * len(folded)), EDITS_MAX)
    return Fuzzy(name, folded, edits) if edits else Term(name, folded)


def _range(
    name: str, low: str | None, high: str | None, *, with_low: bool, with_high: bool, at: int
) -> Node:
    if low is None and high is None:
        return Exists(name)
    if kind_of(name) is Kind.DATE:
        first = last = None
        if low is not None:
            begin, end = period(low, at)
            first = begin if with_low else end + 1
        if high is not None:
            begin, end = period(high, at)
            last = end if with_high else begin - 1
        return Period(name, first, last)
    low, high = (None if bound is None else fold(name, bound) for bound in (low, high))
    return Range(name, low, high, with_low, with_high)
