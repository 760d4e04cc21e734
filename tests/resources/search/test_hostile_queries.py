"""Queries that ask for much: answered or refused within a bounded time and memory."""

from __future__ import annotations

import random
import string
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from resources.stores.groups import Group
from resources.stores.search.budget import SHARE, Budget
from resources.stores.search.changes import Changes
from resources.stores.search.engine import meaning
from resources.stores.search.evaluate import distance, matches
from resources.stores.search.fields import Document
from resources.stores.search.group_search import find_groups
from resources.stores.search.index import AccountIndex
from resources.stores.search.lucene import parse
from resources.stores.search.nodes import QueryError
from resources.stores.search.words import words

from .changing import ContactsThatChange
from .indexes import caught_up, find, people

CPU_SECONDS = 10.0  # budgets allow 2 of Python, and the engine a few; without them it is minutes


def person(n: int, words: int) -> dict[str, object]:
    return {
        "key": f"k{n}",
        "name": "a b " * words,
        "email_address": "a" * 7000 + str(n),
        "surname": f"person{n}",
        "created_at": "2014-01-02 03:04:05.000000",
        "groups": [f"g{n}{letter * 20}" for letter in "abc"],
    }


@pytest.fixture(scope="module", params=["in the index", "changed since"])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AccountIndex:
    """400 contacts with long values and many words."""
    contacts = ContactsThatChange()
    for n in range(400):
        contacts.write(person(n, 200))
    found = caught_up(tmp_path_factory.mktemp("index"), contacts)
    if request.param == "changed since":
        for n in range(400):
            contacts.write(person(n, 200))
    return found


def letters(count: int, n: int = 0) -> str:
    return "".join(random.Random(n).choices(string.ascii_lowercase, k=count))


@pytest.mark.slow
@pytest.mark.parametrize(
    "query",
    [
        " ".join(f"{letters(50, n)}~2" for n in range(1000)),
        " ".join(f"email_address:{'a' * 1000}{n}~1" for n in range(60)),
        f"email_address:{'a' * 2400}~2",
        " ".join(f'"a b a b a b a"~{n}' for n in range(100)),
        " ".join(f'name:"{"a " * 60}"~{n}' for n in range(100)),
        " ".join(f"email_address:*{'a' * 60}{'?' * n}b*" for n in range(60)),
        f"email_address:*{'a*' * 3000}b",
        f"email_address:{'*a?' * 2500}b*",
        " ".join(f"groups:[{n} TO z]" for n in range(1000)),
        " ".join(f"created_at:[{1900 + n % 99} TO *]" for n in range(1000)),
        " ".join(f"groups:/.?.?.?.?.?.?[a-z]{{{n}}}x/" for n in range(60)),
        "email_address:/((a{1000}){1000}){1000}/",
        "email_address:/(a*)*b/",
        "email_address:/(((a?){100}){100}){100}b/",
        "groups:/" + "(.*" * 60 + ")" * 60 + "x/",
        "name:(" + "a* " * 1000 + ")",
        "a:" * 30_000 + "a",
        "((((" * 20 + "a b" + "))))" * 20,
    ],
    ids=lambda query: query[:24],
)
def test_the_time_is_bounded(query: str, index: AccountIndex) -> None:
    """In the index and one by one: whatever the engine or Python would compute for minutes."""
    began = time.process_time()
    for ask in (
        lambda: find(index, query),
        lambda: index.refresh().count(meaning(query)),
        lambda: find(index, query, limit=1),
    ):
        try:
            ask()
        except QueryError as error:
            assert error.detail
    assert time.process_time() - began < 3 * CPU_SECONDS


def test_the_automata_of_fuzzy_terms_are_bounded() -> None:
    """Each of two edits and 50 characters takes more than a megabyte. The refusal says where."""
    word = letters(50)
    parse(f"{word}~2 " * 50)
    with pytest.raises(QueryError, match="fuzzy terms") as raised:
        parse(f"{word}~2 " * 51)
    assert raised.value.position == 50 * len(f"{word}~2 ") + 1
    parse(" ".join(f"name{n}~1" for n in range(1000)))


def test_looks_at_many_terms_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The more contacts, the fewer; some are always free. Terms that begin with much are cheap."""
    contacts = ContactsThatChange()
    for contact in people(300):
        contacts.write(contact)
    index = caught_up(tmp_path, contacts)
    many = " ".join(f"groups:[{n} TO *]" for n in range(100, 120))
    assert not find(index, many)
    monkeypatch.setattr("resources.stores.search.translate.LOOKS_MAX", 300 * 19)
    with pytest.raises(QueryError, match="too many patterns, ranges and fuzzy terms for 300"):
        find(index, many)
    monkeypatch.setattr("resources.stores.search.translate.LOOKS_MAX", 0)
    assert not find(index, " ".join(f"groups:[{n} TO *]" for n in range(8)))
    assert not find(index, " ".join(f"groups:abc{n}*" for n in range(150)))
    with pytest.raises(QueryError):
        find(index, " ".join(f"groups:*{n}" for n in range(9)))


def test_words_that_many_contacts_have_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long phrase of one common word took the engine half a minute in 40,000 contacts. Some words
    are always free; rare ones cost nothing.
    """
    contacts = ContactsThatChange()
    for contact in people(300):
        contacts.write(contact | {"email_address": "a" * 100})
    index = caught_up(tmp_path, contacts)
    often, rarely = "other " * 100, " ".join(f"key:k{n}" for n in range(300))
    for query, nanoseconds in (
        (f'"{often}"', 100 * 300 * 30),
        (f'"{often}"~3', 100 * 300 * 30),
        (f"{often} name1", 300 * (100 - 64)),
        (f"email_address:*{'a' * 72}* OR email_address:*{'a' * 72}b", 70 * 300 * 30),
        (rarely, 300 - 64),
        ('"other b" ' * 200, 0),
    ):
        monkeypatch.setattr("resources.stores.search.translate.WORK_MAX", 2 * nanoseconds)
        find(index, query)
        if nanoseconds:
            monkeypatch.setattr("resources.stores.search.translate.WORK_MAX", nanoseconds // 2)
            with pytest.raises(QueryError, match="too many words, and too many contacts"):
                find(index, query)
    monkeypatch.setattr("resources.stores.search.translate.WORK_MAX", 0)
    assert len(find(index, "other " * 64)) == 300


@pytest.mark.parametrize(
    "query", ["*:*", 'query:"a b"', "name:*", "query:[a TO c]", "created_at:2015"]
)
def test_the_time_for_all_groups_is_bounded(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever each is asked, and however large it is."""
    monkeypatch.setattr("resources.stores.search.budget.Budget.__init__.__defaults__", (0.02, inf))
    asked = 0

    class Many:
        def groups(self, account: str) -> Iterator[list[Group]]:
            nonlocal asked
            for n in range(200_000):
                asked += 1
                name, date = "x" * 60, "2014-01-02 03:04:05.000000"
                yield [{"key": f"k{n}", "name": name, "query": "b a " * 5000, "created_at": date}]

    with pytest.raises(QueryError, match=r"of computing|more than 8388608 bytes"):
        find_groups(cast("Changes", Many()), "acct", query)
    assert asked < 50_000


def test_only_what_a_query_asks_about_is_analysed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search by name takes no time for queries of any length."""
    row = {"key": "k", "name": "x y", "query": "long", "created_at": "2014-01-02 03:04:05.000000"}

    class One:
        def groups(self, account: str) -> Iterator[list[Group]]:
            yield [row]

    def not_asked(text: str) -> list[str]:
        assert text != "long"
        return words(text)

    monkeypatch.setattr("resources.stores.search.fields.words", not_asked)
    for query in ("name:y", "*:*", "+created_at:2014 -name:z", "(key:k (name:[a TO b]))", "y"):
        assert find_groups(cast("Changes", One()), "acct", query) == [row], query
    with pytest.raises(AssertionError):
        find_groups(cast("Changes", One()), "acct", "name:y OR (name:z AND query:long)")


def test_a_search_beside_others_ends_before_the_process_is_ended_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others compute in turns with it: by the clock it may take long for what takes little of the
    processor.
    """
    now = 100.0
    clocks = SimpleNamespace(thread_time=time.thread_time, monotonic=lambda: now)
    monkeypatch.setattr("resources.stores.search.budget.time", clocks)
    budget = Budget(allowed=10.0)
    now += 10.0 * SHARE
    budget.check()
    now += 0.1
    with pytest.raises(QueryError, match="too long beside other searches"):
        budget.check()
    with pytest.raises(QueryError, match="too long beside other searches"):
        matches(parse("name:x"), Document({"name": "x"}), budget)


def test_the_time_for_a_long_phrase_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One contact is enough to compute for long: each of its words may begin the phrase."""
    monkeypatch.setattr("resources.stores.search.budget.Budget.__init__.__defaults__", (0.02, inf))
    text = "a " * 30_000
    person = Document({"name": text + text})
    assert matches(parse(f'"{text}"'), person)
    began = time.process_time()
    with pytest.raises(QueryError, match="of computing"):
        matches(parse(f'"{text}b"'), person)
    assert time.process_time() - began < 2


def test_few_edits_are_found_wherever_they_are() -> None:
    """Only what is near the diagonal is computed: the same as with all of it."""
    source = random.Random(20261126)
    for _ in range(2000):
        one = "".join(source.choices("ab", k=source.randrange(9)))
        other = list(one)
        for _ in range(source.randrange(4)):
            at = source.randrange(len(other) + 1)
            match source.randrange(4):
                case 0:
                    other[at:at] = source.choice("abc")
                case 1:
                    del other[at : at + 1]
                case 2:
                    other[at : at + 1] = source.choice("abc")
                case 3:
                    other[at : at + 2] = reversed(other[at : at + 2])
        for most in (1, 2):
            assert (distance(one, "".join(other), most) <= most) is (
                distance(one, "".join(other), 99) <= most
            ), (one, other)
    began = time.process_time()
    assert distance("a" * 8000, "a" * 7999 + "b", 1) == 1
    assert time.process_time() - began < 1


PIECES = (
    "a", "name:", "email_address:", "groups:", "key:", "dob:", "*", "?", "~2", "~1", "~-1", "/",
    '"',
    " TO ", "[", "]", "{", "}", "(", ")", " AND ", " OR ", "NOT ", "+", "-", "^2", "\\", "\\u",
    "[a-z]", "{3}", "{2,}", ".*", ".{50}", "|", "a b a ", "9999-12-31", "2014", "สม",
    "\U0001f1ff\U0001f1e6",
)  # fmt: skip


@pytest.mark.slow
def test_random_queries_are_answered_or_refused(index: AccountIndex) -> None:
    """Pieces of the language many times over: no crash, a refusal that says where or what, within
    the time; the same in the index as one by one.
    """
    source = random.Random(time.time_ns())
    documents = [Document(person(n, 200)) for n in range(0, 400, 40)]
    for _ in range(200):
        piece = "".join(source.choices(PIECES, k=source.randrange(1, 6)))
        query = " ".join([piece] * source.choice((1, 1, 1, 2, 10, 60)))
        began = time.process_time()
        try:
            node = parse(query)
            found = set(find(index, query))
            one_by_one = {
                f"k{n * 40}" for n, document in enumerate(documents) if matches(node, document)
            }
        except QueryError as error:
            assert error.detail, query
            assert error.position is None or 1 <= error.position <= len(query) + 1, query
        else:
            assert {f"k{n}" for n in range(0, 400, 40)} & found == one_by_one, query
        assert time.process_time() - began < 2 * CPU_SECONDS, query
