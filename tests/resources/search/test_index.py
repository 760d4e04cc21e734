"""An account's index: against Lucene, against the plain evaluator, and through everything that can
happen to its files.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from resources.stores.search.changes import Changes
from resources.stores.search.engine import meaning
from resources.stores.search.evaluate import matches
from resources.stores.search.fields import Document
from resources.stores.search.index import FLUSH_AT, OVERLAY_MAX, AccountIndex, Behind, View
from resources.stores.search.nodes import QueryError

from ...examples import examples
from .changing import ContactsThatChange
from .oracle import QUERIES, contacts


def open_index(folder: Path, changes: ContactsThatChange) -> AccountIndex:
    return AccountIndex.open(folder, "acct", cast("Changes", changes))


def find(index: AccountIndex, query: str, after: int = 0, limit: int | None = None) -> list[str]:
    view = index.refresh()
    return keys_of(view, view.find(meaning(query), after, limit))


def keys_of(view: View, numbers: list[int]) -> list[str]:
    return [key for keys in view.keys.arrays(numbers, 100) for key in json.loads(keys)]


def caught_up(folder: Path, changes: ContactsThatChange) -> AccountIndex:
    index = open_index(folder, changes)
    index.catch_up(lambda done, left: None)
    return index


def people(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "key": f"k{n}",
            "name": f"Name{n % 7} Other",
            "created_at": "2014-01-02 03:04:05.000000",
            "groups": [],
        }
        for n in range(start, start + count)
    ]


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
TEXTS = st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join)
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
CONTACTS = st.fixed_dictionaries(
    {"groups": st.lists(st.sampled_from(["g1", "G1", "g 2"]), max_size=2),
        "created_at": st.sampled_from(["2014-06-01 10:30:00.000001",
        "2015-12-31 23:59:59.999999"])},
    optional={
        "name": TEXTS, "surname": TEXTS,
        "msisdn": st.sampled_from(["+27821", "+27822", "27821", "A B"]),
        "email_address": st.sampled_from(["A@x.org", "b@y.org"]), "extras-a": TEXTS,
        "extras-b c": TEXTS,
        "subscription-a": st.sampled_from(["1", 5, True, None]),
        "dob": st.sampled_from(["1980-02-29 00:00:00.000000", None]),
    },
)  # fmt: skip

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


def test_pages_follow_one_another(tmp_path: Path) -> None:
    """Each page begins after the last number of the one before, also where contacts have changed
    since.
    """
    changes = ContactsThatChange()
    for contact in people(700):
        changes.write(contact)
    index = caught_up(tmp_path, changes)
    for contact in people(40, 100):
        changes.write({**contact, "name": "changed"})
    found, after = [], 0
    while True:
        view = index.refresh()
        seqs = view.find(meaning("*:*"), after, 90)
        found += keys_of(view, seqs)
        if len(seqs) < 90:
            break
        after = seqs[-1]
    assert found == [f"k{n}" for n in range(700)]


def test_few_contacts_need_no_files(tmp_path: Path) -> None:
    """A small account is searched in memory."""
    changes = ContactsThatChange()
    for contact in people(FLUSH_AT - 1):
        changes.write(contact)
    index = open_index(tmp_path, changes)
    assert len(find(index, "name:other")) == FLUSH_AT - 1
    assert not index.wants_flush
    assert not list(tmp_path.iterdir())


def test_a_flush_moves_what_is_new_into_the_index(tmp_path: Path) -> None:
    """Afterwards the same is found, from disk; another process finds it too."""
    changes = ContactsThatChange()
    for contact in people(600):
        changes.write(contact)
    index = caught_up(tmp_path, changes)
    for contact in people(FLUSH_AT, 550):
        changes.write({**contact, "name": "Later"})
    assert len(find(index, "name:later")) == FLUSH_AT
    assert index.wants_flush
    index.flush()
    assert not index.overlay
    assert len(find(index, "name:later")) == FLUSH_AT
    again = open_index(tmp_path, changes)
    assert again.applied == index.applied == changes.newest
    assert find(again, "name:later") == find(index, "name:later")


def test_more_than_the_overlay_holds_is_caught_up_with(tmp_path: Path) -> None:
    """Until then there is no search; afterwards there is."""
    changes = ContactsThatChange()
    for contact in people(300):
        changes.write(contact)
    index = open_index(tmp_path, changes)
    with pytest.raises(Behind) as behind:
        index.refresh()
    assert behind.value.left == 300
    index.catch_up(lambda done, left: None)
    for contact in people(OVERLAY_MAX + 1):
        changes.write({**contact, "name": "Later"})
    with pytest.raises(Behind):
        index.refresh()
    steps: list[tuple[int, int]] = []
    index.catch_up(lambda done, left: steps.append((done, left)))
    assert steps[-1] == (OVERLAY_MAX + 1, 0)
    assert len(find(index, "name:later")) == OVERLAY_MAX + 1


def test_another_history_is_noticed(tmp_path: Path) -> None:
    """Redis was emptied, or an older copy of it restored: the index is rebuilt from what is
    there.
    """
    changes = ContactsThatChange()
    for contact in people(400):
        changes.write(contact)
    index = caught_up(tmp_path, changes)
    for other in (ContactsThatChange("e2"), ContactsThatChange("e1")):
        for contact in people(20, 1000):
            other.write(contact)
        index.changes = cast("Changes", other)
        with pytest.raises(Behind):
            index.refresh()
        index.catch_up(lambda done, left: None)
        assert find(index, "*:*") == [f"k{n}" for n in range(1000, 1020)]


def _spoil(folder: Path, how: str) -> None:
    (account,) = folder.iterdir()
    match how:
        case "no state":
            (account / "state.json").unlink()
        case "state is no JSON":
            (account / "state.json").write_text("{")
        case "another version":
            state = json.loads((account / "state.json").read_text())
            (account / "state.json").write_text(json.dumps(state | {"version": 0}))
        case "keys cut short":
            os.truncate(account / "keys.jsonl", 100)
        case "no meta file":
            (account / "index" / "meta.json").unlink()
        case "meta file is no JSON":
            (account / "index" / "meta.json").write_text("no")
        case "segment file cut short":
            largest = max((account / "index").glob("*.term"), key=lambda file: file.stat().st_size)
            os.truncate(largest, 10)
        case "segment file missing":
            next((account / "index").glob("*.store")).unlink()


@pytest.mark.parametrize(
    "how",
    [
        "no state", "state is no JSON", "another version", "keys cut short", "no meta file",
        "meta file is no JSON",
        "segment file cut short", "segment file missing",
    ],
)  # fmt: skip
def test_a_broken_index_is_rebuilt(how: str, tmp_path: Path) -> None:
    """Whatever is wrong with the files, the contacts are found again."""
    changes = ContactsThatChange()
    for contact in people(500):
        changes.write(contact)
    caught_up(tmp_path, changes)
    _spoil(tmp_path, how)
    index = open_index(tmp_path, changes)
    assert index.applied == 0
    with pytest.raises(Behind):
        index.refresh()
    index.catch_up(lambda done, left: None)
    assert len(find(index, "name:other")) == 500


def test_what_a_killed_process_had_not_noted_is_read_again(tmp_path: Path) -> None:
    """Committed but not noted as applied: no contact is lost, and none is there twice."""
    changes = ContactsThatChange()
    for contact in people(500):
        changes.write(contact)
    index = caught_up(tmp_path, changes)
    (account,) = tmp_path.iterdir()
    noted = (account / "state.json").read_bytes()
    for contact in people(300, 400):
        changes.write({**contact, "name": "Later"})
    find(index, "*")
    index.flush()
    del index
    (account / "state.json").write_bytes(noted)
    index = open_index(tmp_path, changes)
    assert len(find(index, "*:*")) == 700
    assert len(find(index, "name:later")) == 300
    index.flush()
    assert index.refresh().count(meaning("*:*")) == 700


def test_accounts_have_folders_of_their_own(tmp_path: Path) -> None:
    """Also with names that mean something to the file system."""
    found = set()
    for account in ("..", ".", "a/b", "a", "A", "a%2Fb"):
        index = AccountIndex.open(tmp_path, account, cast("Changes", ContactsThatChange()))
        assert index.files.folder.parent == tmp_path
        found.add(index.files.folder)
    assert len(found) == 6


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
