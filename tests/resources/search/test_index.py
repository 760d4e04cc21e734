"""An account's index through everything that can happen to its contacts and its files."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest

from resources.stores.search.changes import Changes
from resources.stores.search.engine import meaning
from resources.stores.search.index import FLUSH_AT, OVERLAY_MAX, AccountIndex, Behind

from .changing import ContactsThatChange
from .indexes import caught_up, find, keys_of, open_index, people


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
    assert again.applied == index.applied == changes.latest
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


def test_large_contacts_wait_in_memory_within_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are moved into the index sooner, and more of them are caught up with at once."""
    monkeypatch.setattr("resources.stores.search.index.FLUSH_BYTES", 10_000)
    monkeypatch.setattr("resources.stores.search.index.OVERLAY_BYTES", 40_000)
    changes = ContactsThatChange()
    index, most = open_index(tmp_path, changes), 0
    for n in range(40):
        for contact in people(1, n):
            changes.write({**contact, "name": "ab " * 700})
        with suppress(Behind):
            assert len(find(index, "ab")) == n + 1
        most = max(most, len(index.overlay))
        assert index.wants_flush is (len(index.overlay) >= 5)
        if n == 8:
            index.flush()
            assert not index.overlay
            assert not index.wants_flush
    assert most == 18
    with pytest.raises(Behind):
        index.refresh()
    index.catch_up(lambda done, left: None)
    assert len(find(index, "ab")) == 40
    changes.write({**people(1)[0], "name": "ab " * 700})
    for _ in range(40):
        assert len(find(index, "ab")) == 40  # the same one again and again is one
        changes.write({**people(1)[0], "name": "ab " * 700})
    assert not index.wants_flush


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
