"""The query language in plain Python, against what Apache Lucene found."""

from __future__ import annotations

from typing import Any

import pytest

from resources.stores.search.budget import Budget
from resources.stores.search.evaluate import distance, matches, sloppy
from resources.stores.search.fields import Document
from resources.stores.search.lucene import parse
from resources.stores.search.nodes import QueryError

from .oracle import QUERIES, contacts


@pytest.fixture(scope="module")
def documents() -> dict[str, Document]:
    return {contact["key"]: Document(contact) for contact in contacts()}


@pytest.mark.parametrize("query", QUERIES, ids=[query["id"] for query in QUERIES])
def test_lucene_agrees(query: dict[str, Any], documents: dict[str, Document]) -> None:
    """The same contacts, or an error where Lucene has one."""
    if query["expect"] == "error":
        with pytest.raises(QueryError):
            parse(query["query"])
        return
    node = parse(query["query"])
    found = sorted(key for key, document in documents.items() if matches(node, document))
    assert found == sorted(query["keys"])


@pytest.mark.parametrize(
    ("query", "position", "text"),
    [
        ("", 1, "expected a term, got the end of the query"),
        ("name:", 6, "expected a term, got the end of the query"),
        ("name:[BAD_QUERY!]", 17, "expected TO, got ']'"),
        ('name:"foo', 6, 'expected a closing "'),
        ("name:/a", 6, "expected a closing /"),
        ("a AND OR b", 7, "expected a term, got 'OR'"),
        ("(a", 3, "expected a closing ), got the end of the query"),
        ("a)", 2, "expected the end of the query, got ')'"),
        ("a^x", 3, "expected a number, got 'x'"),
        ("a~1.5", 1, "expected a whole number of edits"),
        ("dob:soon", 5, "expected a date"),
        ("dob:[2014 TO soon]", 5, "expected a date"),
        ("name:\\u00zz", 6, "expected four hexadecimal digits"),
        ("a:/(b/", 6, "expected a closing )"),
        ("a:/~b/", 4, "the operator ~ is not supported"),
        ("a:/[b-/", 4, "expected a closing ]"),
        ("(" * 101 + "a" + ")" * 101, 102, "nested more than 100 deep"),
        ("a " * 1025, 2049, "more than 1024 clauses"),
        ("a" * 70_000, None, "70000 characters, 65536 are allowed"),
    ],
)
def test_errors_say_where_and_what(query: str, position: int | None, text: str) -> None:
    """The position counts from 1; the text says what was expected."""
    with pytest.raises(QueryError) as raised:
        parse(query)
    assert raised.value.position == position, raised.value
    assert text in raised.value.detail


def test_hostile_queries_are_quick() -> None:
    """What a parser or an engine could choke on is refused or done at once."""
    for query in (
        "(" * 60_000,
        "a AND " * 10_000,
        '"' + "a " * 30_000 + '"~9',
        "!" * 60_000,
        "[" * 60_000,
        "\\" * 60_001,
        "~" * 60_000,
    ):
        try:
            matches(parse(query), Document({"name": "a " * 1000}))
        except QueryError:
            continue


def test_a_swap_is_one_edit() -> None:
    """And edits beyond the bound are not counted on."""
    assert distance("abcd", "abdc", 2) == 1
    assert distance("kitten", "sitting", 2) > 2
    assert distance("", "ab", 2) == 2


def test_sloppy_phrases_with_repeated_words() -> None:
    """A word that stands twice in the phrase needs two places."""
    assert not sloppy(["a"], ["a", "a"], 1, Budget())
    assert sloppy(["a", "b", "a"], ["a", "a"], 1, Budget())
    assert not sloppy(["a", "b", "b", "a"], ["a", "a"], 1, Budget())
