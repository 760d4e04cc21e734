"""The tokens of Lucene's classic query language: the longest wins; of equally long ones, the first
of the list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import frozen

from .nodes import QueryError

_SPACE = " \t\n\r\u3000"
_ESCAPED = r"\\[\s\S]"
_START = r'(?:[^ \t\n\r\u3000+\-!():^\[\]"{}~*?\\/]|' + _ESCAPED + ")"
_INNER = r'(?:[^ \t\n\r\u3000!():^\[\]"{}~*?\\/]|' + _ESCAPED + ")"


# A term, a prefix or a wildcard, which only its whole text tells apart (`_kind_of_word`).
_WORD = ("WORD", f"(?:{_START}|[*?])(?:{_INNER}|[*?])*")
_WITHOUT_STARS = re.compile(f"{_START}{_INNER}*")


def _compiled(*rows: tuple[str, str]) -> list[tuple[str, re.Pattern[str]]]:
    return [(name, re.compile(pattern)) for name, pattern in rows]


_QUERY = _compiled(
    ("AND", r"AND|&&"), ("OR", r"OR|\|\|"), ("NOT", r"NOT|!"), ("+", r"\+"), ("-", r"-"),
    ("LONE", rf"[+\-!][{_SPACE}]"), ("(", r"\("), (")", r"\)"), (":", ":"), ("*", r"\*"),
    ("^", r"\^"),
    ("QUOTED", rf'"(?:[^"\\]|{_ESCAPED})*"'), ("~", f"~{_INNER}*"), _WORD,
    ("REGEX", r"/(?:\\/|[^/])*/"), ("[", r"\["), ("{", r"\{"),
)  # fmt: skip
_RANGE = _compiled(
    ("TO", "TO"), ("]", r"\]"), ("}", r"\}"), ("QUOTED", r'"(?:\\"|[^"])+"'), ("BOUND", r"[^ \]}]+")
)
_BOOST = _compiled(("NUMBER", r"[0-9]+(?:\.[0-9]+)?"))
_ALONE = frozenset("():^[{")  # tokens by themselves, and no part of others
_EXPECTED = {id(_QUERY): "a term", id(_RANGE): "a bound of the range", id(_BOOST): "a number"}


@frozen
class Token:
    """A piece of a query; `position` counts from 1."""

    kind: str
    text: str
    position: int


def tokens_of(query: str) -> list[Token]:
    """The tokens of a query, followed by one of kind `END`.

    Raises:
        QueryError: A character begins no token.
    """
    found: list[Token] = []
    table, at = _QUERY, 0
    while True:
        if table is not _BOOST:
            while at < len(query) and query[at] in _SPACE:
                at += 1
        if at >= len(query) and table is not _BOOST:
            found.append(Token("END", "", len(query) + 1))
            return found
        token = _longest(table, query, at)
        found.append(token)
        at += len(token.text)
        if token.kind == "^":
            table = _BOOST
        elif token.kind in ("[", "{"):
            table = _RANGE
        elif token.kind in ("]", "}", "NUMBER"):
            table = _QUERY


def _longest(table: Sequence[tuple[str, re.Pattern[str]]], query: str, at: int) -> Token:
    best = Token("", "", at + 1)
    if table is _QUERY and query[at : at + 1] in _ALONE:
        return Token(query[at], query[at], at + 1)
    for kind, pattern in table:
        match = pattern.match(query, at)
        if match is not None and match.end() - at > len(best.text):
            best = Token(kind, match[0], at + 1)
    if best.text:
        return best if best.kind != "WORD" else Token(_kind_of_word(best.text), best.text, at + 1)
    if query[at : at + 1] in ('"', "/") and query[at : at + 1]:
        raise QueryError(at + 1, f"expected a closing {query[at]}, got the end of the query")
    got = repr(query[at]) if at < len(query) else "the end of the query"
    raise QueryError(at + 1, f"expected {_EXPECTED[id(table)]}, got {got}")


def _kind_of_word(text: str) -> str:
    plain = _WITHOUT_STARS.match(text)
    if plain is None:
        return "WILDCARD"
    rest = text[plain.end() :]
    return {"": "TERM", "*": "PREFIX"}.get(rest, "WILDCARD")
