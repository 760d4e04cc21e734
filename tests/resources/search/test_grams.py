"""`*x*` and `*x` in addresses, by phrases of three characters: the same contacts as one by one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from resources.stores.search import translate
from resources.stores.search.engine import meaning
from resources.stores.search.evaluate import matches
from resources.stores.search.fields import Document
from resources.stores.search.grams import LENGTH_MAX, grams_of, phrase_of
from resources.stores.search.index import AccountIndex

from .changing import ContactsThatChange
from .indexes import caught_up, find

SIGNS = [
    *"aaab.@-_+1;l^$é日🇿",
    *("e\u0301", "\x00", "\x01", "\x02", "\x03", "\x1c"),
    *(" ", "\t", "\n", "\x85", "\xa0", "\u2028"),
]
SPECIAL = set('+-&|!(){}[]^"~*?:\\/ \t\n\u3000')


def addresses() -> list[str]:
    """Many that differ little, of characters that have a meaning somewhere, and some by hand."""
    source = random.Random(16)
    some = ["".join(source.choices(SIGNS, k=source.randrange(1, 12))) for _ in range(100)]
    return [*some, "a", "aa", "aaa", "aaaa", "aaaaa", "x" * LENGTH_MAX, "abc" * 85, "\x01long"]


def contact(number: int, address: str, field: str = "email_address") -> dict[str, object]:
    return {
        "key": f"k{number}", "created_at": "2014-01-02 03:04:05.000000", "groups": [],
        field: address,
    }  # fmt: skip


def escaped(text: str) -> str:
    return "".join("\\" + char if char in SPECIAL else char for char in text)


@pytest.fixture(scope="module")
def contacts() -> list[dict[str, object]]:
    fields = ("email_address", "twitter_handle", "msisdn")
    return [contact(n, one, fields[n % 3]) for n, one in enumerate(addresses())]


@pytest.fixture(scope="module")
def index(
    contacts: list[dict[str, object]], tmp_path_factory: pytest.TempPathFactory
) -> AccountIndex:
    changing = ContactsThatChange()
    for one in contacts:
        changing.write(one)
    return caught_up(tmp_path_factory.mktemp("index"), changing)


@pytest.fixture
def no_automaton(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(field: str, pattern: str) -> None:
        raise AssertionError(f"an automaton over {field}: {pattern}")

    monkeypatch.setattr(translate, "_regex_query", refuse)


@pytest.mark.usefixtures("no_automaton")
def test_the_same_contacts_as_one_by_one(
    index: AccountIndex, contacts: list[dict[str, object]]
) -> None:
    """For pieces of the addresses, at their ends and inside, and for what none contains."""
    source = random.Random(61)
    pieces = {
        "aaa",
        "aaaa",
        "\x02aa",
        "a\x03",
        "1aaa",
        "x" * LENGTH_MAX,
        "x" * 300,
        "long",
        "abcabc",
    }
    for address in addresses():
        at = source.randrange(len(address))
        pieces |= {address[at : at + 3], address[at : at + 5], address}
    documents = [(str(one["key"]), Document(one)) for one in contacts]
    hits = 0
    for piece in sorted(pieces):
        for field in ("email_address", "twitter_handle"):
            for query in (f"{field}:*{escaped(piece)}*", f"{field}:*{escaped(piece)}"):
                least = 2 if query.endswith(escaped(piece)) else 3
                if len(piece) < least:
                    continue
                node = meaning(query)
                expected = [key for key, document in documents if matches(node, document)]
                assert find(index, query) == expected, query
                hits += len(expected)
    assert hits > 200


@pytest.mark.parametrize(
    "query",
    ["*aa*a*", "*a?a*", "*a", "*a*", "a*a", "?*aa", "*aa?", "??*", "*-*a*"],
)
def test_other_patterns_are_as_before(
    query: str, index: AccountIndex, contacts: list[dict[str, object]]
) -> None:
    node = meaning(f"email_address:{query}")
    expected = [str(one["key"]) for one in contacts if matches(node, Document(one))]
    assert find(index, f"email_address:{query}") == expected
    assert expected


def test_an_address_that_is_too_long_is_found_too(tmp_path: Path) -> None:
    """The account's others then have to be looked at, in that field."""
    changing = ContactsThatChange()
    long = "start" + "y" * LENGTH_MAX + "zend"
    for n, address in enumerate(("ann@example.org", long, "bob@example.org")):
        changing.write(contact(n, address))
        changing.write(contact(n + 10, address[:20], "msisdn"))
    index = caught_up(tmp_path, changing)
    assert find(index, "email_address:*yyyz*") == ["k1"]
    assert find(index, "email_address:*zend") == ["k1"]
    assert find(index, "email_address:*xample*") == ["k0", "k2"]
    assert find(index, "msisdn:*xample*") == ["k10", "k12"]


def test_grams_are_unambiguous() -> None:
    """No two texts have the same, whatever they contain; a text of a few characters has none."""
    texts = addresses()
    assert len({tuple(grams_of("a", text)) for text in texts}) == len(set(texts))
    assert phrase_of("a", "xy") == []
    assert grams_of("b", "ann") == ["b\x02an", "bann", "bnn\x03"]
    assert all(not gram.split()[1:] for text in texts for gram in grams_of("a", text))
