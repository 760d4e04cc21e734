"""Terms that contain a text, found in memory: the same as by the engine's automaton."""

from __future__ import annotations

from pathlib import Path

import pytest

from resources.stores.search.dictionary import Dictionary, _Room
from resources.stores.search.index import AccountIndex

from .changing import ContactsThatChange
from .indexes import caught_up, find

DOMAINS = ("example.org", "mail.co.za", "ünïcode.org", "x\ny.org")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> AccountIndex:
    """400 contacts with e-mail addresses and an extra, each another one."""
    contacts = ContactsThatChange()
    for n in range(400):
        contacts.write(
            {
                "key": f"k{n}", "created_at": "2014-01-02 03:04:05.000000", "groups": [],
                "email_address": f"person{n}@{DOMAINS[n % 4]}", "extras-a": f"one{n}two word",
                "extras-b": f"two{n}one",
            }
        )  # fmt: skip
    return caught_up(tmp_path_factory.mktemp("index"), contacts)


@pytest.mark.parametrize(
    "query",
    [
        "email_address:?*son39*",
        "email_address:?*39@mail*",
        "email_address:?*ïcode*",
        "email_address:*@?ail.*za",
        "email_address:?*rson3??@*",
        "email_address:?*\\\ny.o*",
        "email_address:?*nobody*",
        "email_address:?*\\.org",
        "extras-a:*e39*",
        "extras-a:*39two",
        "extras-b:*39two",
        "extras-c:*39two",
        "name:*399*",
        "-email_address:?*son1* AND extras-a:*e1*",
    ],
)
def test_the_second_time_is_as_the_first(query: str, index: AccountIndex) -> None:
    """The automaton's answer at first, then that of the terms in memory."""
    # there is one
    fresh = Dictionary(index.refresh().dictionary.searcher)  # type: ignore[union-attr]
    index._dictionary = fresh
    answers = [find(index, query) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert fresh._laid_out


def test_what_many_terms_contain_is_left_to_the_engine(
    index: AccountIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so is a dictionary that is too large."""
    dictionary = index.refresh().dictionary
    assert dictionary is not None
    for _ in range(2):
        dictionary.containing("email_address", "", "son39", lambda term: True)
    found = dictionary.containing("email_address", "", "son39", lambda term: "39" in term)
    assert found is not None
    assert len(found) == 11
    monkeypatch.setattr("resources.stores.search.dictionary.LOOKS_MAX", 10)
    assert dictionary.containing("email_address", "", "son39", lambda term: True) is None
    monkeypatch.setattr("resources.stores.search.dictionary.BYTES_MAX", 1000)
    other = Dictionary(dictionary.searcher)
    for _ in range(3):
        assert other.containing("email_address", "", "son39", lambda term: True) is None


def test_a_new_state_has_new_terms(tmp_path: Path) -> None:
    """What was laid out for one state is not looked at for the next."""
    contacts = ContactsThatChange()
    row = {"created_at": "2014-01-02 03:04:05.000000", "groups": []}
    for n in range(300):
        contacts.write({"key": f"k{n}", "email_address": f"a{n}@old.org", **row})
    index = caught_up(tmp_path, contacts)
    for _ in range(3):
        assert len(find(index, "email_address:*7@old*")) == 30
    for n in range(300):
        contacts.write({"key": f"k{n}", "email_address": f"a{n}@new.org", **row})
    find(index, "a")
    index.flush()
    for _ in range(3):
        assert len(find(index, "email_address:*7@new*")) == 30
        assert not find(index, "email_address:*7@old*")


def test_all_together_take_a_bounded_number_of_bytes(
    index: AccountIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes later uses the automaton, until others are gone."""
    room = _Room(12_000)
    monkeypatch.setattr("resources.stores.search.dictionary._room", room)
    searcher = index.refresh().dictionary.searcher  # type: ignore[union-attr]

    def asked_twice() -> Dictionary:
        dictionary = Dictionary(searcher)
        for _ in range(2):
            found = dictionary.containing("email_address", "", "son39", lambda _: True)
        assert found is None or len(found) == 11
        return dictionary

    first, second = asked_twice(), asked_twice()
    assert any(first._laid_out.values())
    assert room.left < 12_000 / 2
    assert not any(second._laid_out.values())
    del first
    assert room.left == 12_000
    assert any(asked_twice()._laid_out.values())
