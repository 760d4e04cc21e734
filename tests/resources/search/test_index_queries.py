"""What an account's index finds: the same as Lucene, and as the plain evaluator."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from resources.stores.search.engine import meaning
from resources.stores.search.evaluate import matches
from resources.stores.search.fields import Document
from resources.stores.search.index import AccountIndex
from resources.stores.search.nodes import QueryError

from ...examples import examples
from .changing import ContactsThatChange
from .indexes import caught_up, find
from .oracle import BY_KIND, QUERIES, contacts


@pytest.fixture(scope="module", params=["all in the index", "half of them changed since"])
def lucene_index(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AccountIndex]:
    changes = ContactsThatChange()
    every = contacts()
    if request.param == "all in the index":
        for contact in every:
            changes.write(contact)
        yield caught_up(tmp_path_factory.mktemp("index"), changes)
        return
    for contact in every[: len(every) // 2 + 200]:
        changes.write({"key": contact["key"], "name": "another name before", "groups": ["old"]})
    index = caught_up(tmp_path_factory.mktemp("index"), changes)
    for contact in every[: len(every) // 2 + 200]:
        changes.write(contact)
    index.catch_up(lambda done, left: None)
    for contact in every[len(every) // 2 :]:
        changes.write(contact)
    yield index


@pytest.mark.parametrize("query", QUERIES, ids=[query["id"] for query in QUERIES])
def test_lucene_agrees(query: dict[str, Any], lucene_index: AccountIndex) -> None:
    """The same contacts, and as many, or an error where Lucene has one."""
    if query["expect"] == "error":
        with pytest.raises(QueryError):
            find(lucene_index, query["query"])
        return
    assert sorted(find(lucene_index, query["query"])) == sorted(query["keys"])
    assert lucene_index.refresh().count(meaning(query["query"])) == len(query["keys"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", BY_KIND)
def test_lucene_agrees_on_each_kind(kind: str, lucene_index: AccountIndex) -> None:
    """Made at random from the contacts' own values: scripts, escapes, smart groups, mistakes."""
    keys = [contact["key"] for contact in contacts()]
    for query, places in BY_KIND[kind].items():
        try:
            found = sorted(find(lucene_index, query))
        except QueryError:
            assert places is None, query
        else:
            assert places is not None, query
            assert found == sorted(keys[place] for place in places), query


WORDS = [
    "thandi",
    "Thandi",
    "zoë",
    "ZOË",
    "o'brien",
    "van",
    "der",
    "a-b",
    "x_y",
    "你好",
    "Ölaf",
    "1,000",
    "x" * 300,
    "\U0001f600",
    "ab",
    "abc",
    "abcd",
]
FIELDS = [
    "name",
    "surname",
    "msisdn",
    "email_address",
    "groups",
    "extras-a",
    "extras-b c",
    "subscription-a",
    "dob",
    "created_at",
    "nothing",
]
WORD = st.sampled_from(
    [word for word in WORDS if word.isalnum()] + [r"o'brien", r"a\-b", r"\+27821", "nobody"]
)
DATE = st.sampled_from(["2014", "2014-06", "2014-06-01", "1980-02-29", "2016"])
PATTERN = st.text(st.sampled_from("ab*?ozx2"), min_size=1, max_size=6).filter(
    lambda text: text.strip("*?") or "*" in text
)
LEAF = st.one_of(
    WORD, WORD.map(lambda word: f"{word}*"), PATTERN,
    st.tuples(WORD, st.sampled_from(["~", "~1", "~2", "~0.6"])).map("".join),
    st.tuples(st.lists(WORD, min_size=1, max_size=4).map(" ".join),
        st.sampled_from(["", "~1", "~3"])).map(lambda parts: f'"{parts[0]}"{parts[1]}'),
    st.tuples(st.sampled_from("[{"), WORD | st.just("*"), WORD | st.just("*"),
        st.sampled_from("]}")).map(lambda p: f"{p[0]}{p[1]} TO {p[2]}{p[3]}"),
    st.sampled_from(["/[a-c]+/", "/(th|zo).*/", "/.{3}/", "/@/", "/x{200,300}/"]), st.just("*"),
)  # fmt: skip
NAMED = st.one_of(
    st.tuples(st.sampled_from(FIELDS).map(lambda name: name.replace(" ", r"\ ")),
        LEAF).map(":".join),
    st.tuples(st.sampled_from(["dob", "created_at"]), DATE).map(":".join),
    st.tuples(st.sampled_from(["dob", "created_at"]), DATE,
        DATE).map(lambda p: f"{p[0]}:[{p[1]} TO {p[2]}}}"),
    LEAF, st.just("*:*"),
)  # fmt: skip
QUERY = st.recursive(
    NAMED,
    lambda inner: st.lists(
        st.tuples(st.sampled_from(["", "+", "-", "!", "NOT "]), inner,
            st.sampled_from([" ", " AND ", " OR ", " && "])).map(lambda p: (p[0] + p[1], p[2])),
        min_size=1, max_size=4,
    ).map(lambda parts: "(" + "".join(clause + joint for clause,
        joint in parts[:-1]) + parts[-1][0] + ")"),
    max_leaves=8,
)  # fmt: skip
RandomIndex = tuple[AccountIndex, list[tuple[str, Document]]]


@pytest.fixture(scope="module")
def random_index(tmp_path_factory: pytest.TempPathFactory) -> RandomIndex:
    """400 random contacts, of which some have changed since the index was written; and those
    contacts, by key, as they are now.
    """
    source = random.Random(20261125)
    changes = ContactsThatChange()

    def some() -> dict[str, Any]:
        text = lambda: " ".join(source.choices(WORDS, k=source.randrange(5)))  # noqa: E731
        contact: dict[str, Any] = {
            "groups": source.sample(["g1", "G1", "g 2"], source.randrange(3)),
            "created_at": source.choice(
                ["2014-06-01 10:30:00.000001", "2015-12-31 23:59:59.999999"]
            ),
        }
        for name in ("name", "surname", "extras-a", "extras-b c"):
            if source.random() < 0.6:
                contact[name] = text()
        if source.random() < 0.6:
            contact["msisdn"] = source.choice(["+27821", "+27822", "27821", "A B"])
        if source.random() < 0.3:
            contact["email_address"] = source.choice(["A@x.org", "b@y.org"])
        if source.random() < 0.3:
            contact["subscription-a"] = source.choice(["1", 5, True, None])
        if source.random() < 0.3:
            contact["dob"] = "1980-02-29 00:00:00.000000"
        return contact

    for n in range(400):
        changes.write({"key": f"k{n}", **some()})
    index = caught_up(tmp_path_factory.mktemp("random"), changes)
    for n in range(0, 450, 9):
        changes.write({"key": f"k{n}", **some()})
    return index, [(contact["key"], Document(contact)) for contact in changes.all()]


@given(query=QUERY)
@example(query="name:/(a|b)*abc.{40}/")
@example(query='surname:"abc abc ab"~3 AND -name:zoë')
@examples(60, 1500)
def test_index_and_evaluator_agree(query: str, random_index: RandomIndex) -> None:
    """Any query finds the same through the index as one contact at a time."""
    index, now = random_index
    try:
        node = meaning(query)
    except QueryError:
        return
    expected = [key for key, document in now if matches(node, document)]
    assert find(index, query) == expected
    assert index.refresh().count(node) == len(expected)
    assert find(index, query, limit=3) == expected[:3]


SOUP = st.lists(
    st.sampled_from(
        ['"', "(", ")", "[", "]", "{", "}", " TO ", "*", "?", "~", "^", ":", "\\", "/", "+", "-",
            "!", "&&", "||", " AND ", " OR ", " NOT ",
         " ", "a", "zoë", "2014", "name", "groups:", "dob:", "created_at:", "extras-a:", "~2", "^2",
         "\\u00", "\\u0061", "{2,}", "[a-", "\x00", "\u3000"]
    ),
    max_size=20,
).map("".join)  # fmt: skip


@given(
    query=SOUP
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
    | st.binary(max_size=40).map(lambda data: data.decode("latin-1"))
)
@examples(300, 3000)
def test_whatever_is_asked_is_answered_or_refused(query: str, random_index: RandomIndex) -> None:
    """Token soup and random characters: contacts, the same as one at a time, or a QueryError that
    says where or what.
    """
    index, now = random_index
    try:
        found = find(index, query)
    except QueryError as error:
        assert error.detail
        assert error.position is None or 1 <= error.position <= len(query) + 1
        return
    node = meaning(query)
    assert found == [key for key, document in now if matches(node, document)]
