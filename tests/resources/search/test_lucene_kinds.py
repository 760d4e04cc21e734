"""Kinds of queries that are easily read otherwise than Lucene reads them: numbers after `~`,
quantifiers and classes in regular expressions, escapes in wildcards, the last day of all.
"""

from __future__ import annotations

import pytest

from resources.stores.search.evaluate import matches
from resources.stores.search.fields import Document
from resources.stores.search.lucene import parse
from resources.stores.search.nodes import QueryError

WORDS = ["mpho", "mphoo", "mpo", "a", "aa", "aaaa", "*a", ")", "?:b", "{b", "2b", "-b", "db", "]b"]


def found(query: str, words: list[str]) -> list[str]:
    """Which of some words, as groups, the query finds."""
    node = parse(query)
    return [word for word in words if matches(node, Document({"groups": [word]}))]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        # After ~ stands a number as Java reads it, in single precision; what is none is ignored.
        ("groups:mpho~1f", ["mpho", "mphoo", "mpo"]),
        ("groups:mpho~0x1p0", ["mpho", "mphoo", "mpo"]),
        ("groups:mpho~+1e0", ["mpho", "mphoo", "mpo"]),
        ("groups:mpho~0.999999999", ["mpho", "mphoo", "mpo"]),
        ("groups:mphoo~0.6", ["mpho", "mphoo"]),
        ("groups:mpho~NaN", ["mpho"]),
        ("groups:mpho~-0.0", ["mpho"]),
        ("groups:mpho~2147483647", ["mpho", "mphoo", "mpo"]),
        ("groups:mphox~abc", ["mpho", "mphoo", "mpo"]),
        ("groups:mphox~-abc", ["mpho", "mphoo", "mpo"]),
        # Each quantifier repeats what stands before it, with its quantifier.
        ("groups:/a**/", ["a", "aa", "aaaa"]),
        ("groups:/a*?/", ["a", "aa", "aaaa"]),
        ("groups:/a+?/", ["a", "aa", "aaaa"]),
        ("groups:/a??/", ["a"]),
        ("groups:/a{1}{2}/", ["aa"]),
        ("groups:/(aa){2}?/", ["aaaa"]),
        ("groups:/a?{4}/", ["a", "aa", "aaaa"]),
        ("groups:/a{2,}+{1}/", ["aa", "aaaa"]),
        ("groups:/mpho{1,9999}/", ["mpho", "mphoo"]),
        ("groups:/a{9999}?/", []),
        # With nothing before it, an operator is an ordinary character.
        ("groups:/*a/", ["*a"]),
        ("groups:/)/", [")"]),
        ("groups:/(?:b)/", ["?:b"]),
        ("groups:/mp(x|{)|{b/", ["{b"]),
        ("groups:/()a/", ["a"]),
        # In classes, too; what stands behind a - is the end of a range.
        (r"groups:/[\d]b/", ["2b"]),
        (r"groups:/[\d-]b/", ["2b", "-b"]),
        (r"groups:/[^\d\]]b/", ["{b", "-b", "db"]),
        (r"groups:/[\W]b/", ["{b", "-b", "]b"]),
        (r"groups:/[\s\D]b/", ["{b", "-b", "db", "]b"]),
        (r"groups:/[\S]b/", ["{b", "2b", "-b", "db", "]b"]),
        ("groups:/[]]b/", ["]b"]),
        ("groups:/[*--]b/", ["-b"]),
        # An escaped character of a wildcard is itself, however long the wildcard is.
        (r"groups:\*?", ["*a"]),
        (r"groups:?\a", ["aa", "*a"]),
        ("groups:" + "?" * 300 + "*", []),
        ("groups:*" + "*?" * 2 + "*" * 300 + "?", ["mpho", "mphoo", "mpo", "aaaa", "?:b"]),
    ],
)
def test_read_as_lucene_does(query: str, expected: list[str]) -> None:
    """Of those words these are found."""
    assert found(query, WORDS) == expected


def test_an_escaped_letter_of_a_wildcard_is_not_folded() -> None:
    """As in Lucene: words are in lower case, and that letter is not."""
    person = Document({"name": "Ayanda"})
    assert matches(parse("name:A?AND*"), person)
    assert matches(parse(r"name:\a?and*"), person)
    assert not matches(parse(r"name:\A?and*"), person)
    assert matches(parse(r"name:\Ayanda"), person)
    assert matches(parse(r"name:\Ay*"), person)


@pytest.mark.parametrize(
    ("query", "position", "text"),
    [
        ("mpho~-1", 1, "expected a number of edits of at least 0"),
        ("a mpho~-0.001", 3, "expected a number of edits of at least 0"),
        ("mpho~99999999999", 1, "expected a whole number of edits"),
        ("mpho~Infinity", 1, "expected a whole number of edits"),
        ('x "mpho mpo"~-1', 3, "expected a number of moves of at least 0"),
        ('"mpho mpo"~-Infinity', 1, "expected a number of moves of at least 0"),
        ("/[a-]/", 2, "expected the smaller character first in a-]"),
        ("/[+-x/", 2, "expected a closing ]"),
        ("/a)/", 3, "there is no ( for this )"),
        ("/a{2147483648}/", 3, "expected a number of at most 2147483647"),
        ("/((ab{1,100}){100}){3}/", 20, "repeats more than 20000 characters"),
        ("/a{3,2}/", 3, "expected the smaller number first"),
        ("/a{,2}/", 3, "expected {n}, {n,} or {n,m}"),
        (r"?\unsub*", 2, "expected four hexadecimal digits"),
        (r"/\unsub/", 2, "expected four hexadecimal digits"),
        ("mpho^" + "9" * 39, 6, "expected a boost below 3.4e+38"),
        ("a (mpho mpo)^" + "9" * 400, 14, "expected a boost below 3.4e+38"),
        ("name:[a TO b]^340282360000000000000000000000000000000", 15, "expected a boost below"),
        ("dob:9999-12-32", 5, "there is no date"),
        ("dob:0000", 5, "there is no date"),
    ],
)
def test_refused_as_lucene_does(query: str, position: int, text: str) -> None:
    """With the place, and what was expected there."""
    with pytest.raises(QueryError) as raised:
        parse(query)
    assert raised.value.position == position, raised.value
    assert text in raised.value.detail


@pytest.mark.parametrize("query", ['"mpho"~-1', 'groups:"a b"~-1', '"a b"~-0.9', '"a b"~1e99'])
def test_moves_count_only_in_phrases(query: str) -> None:
    """Of two words; a fraction of a move is none, and more moves than there are words are all."""
    parse(query)


@pytest.mark.parametrize("query", ["mpho^0", "mpho^0.0", "mpho^" + "3" * 39, "mpho~1^007"])
def test_boosts_that_are_none_for_us(query: str) -> None:
    """Any other is read, and changes nothing about what is found."""
    assert matches(parse(query), Document({"name": "mpho"}))


def test_the_end_of_time_is_a_date() -> None:
    """A usual "for ever" in a range, and its last microsecond."""
    for_ever = Document({"dob": "9999-12-31 23:59:59.999999"})
    for query in (
        "dob:9999-12-31", "dob:[1980 TO 9999-12-31]", 'dob:[* TO "9999-12-31 23:59:59"]',
        'dob:"9999-12-31 23"', 'dob:"9999-12-31 23:59:59.999999"', "dob:[9999-12-31 TO *]",
        "dob:{9999-12-30 TO *}",
    ):  # fmt: skip
        assert matches(parse(query), for_ever), query
    assert not matches(parse("dob:{9999-12-31 TO *}"), for_ever)
    assert not matches(parse("dob:[* TO 9999-12-31}"), for_ever)
