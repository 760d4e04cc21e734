"""Files that are damaged, while the index is closed and while it is served: nobody notices, but
that the index is built anew.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from resources.stores.search import checksums
from resources.stores.search.engine import Behind
from resources.stores.search.files import Files
from resources.stores.search.index import FLUSH_AT, View

from .changing import ContactsThatChange
from .indexes import people
from .served import COUNT, Served, serve


@pytest.fixture(name="served")
def _served(tmp_path: Path) -> Iterator[Served]:
    yield from serve(tmp_path)


def check(served: Served) -> None:
    """Every kind of query finds what there is, with the right keys."""
    changed = [f"k{n}" for n in range(100, 100 + FLUSH_AT)]
    others = [f"k{n}" for n in range(COUNT) if not 100 <= n < 100 + FLUSH_AT]
    assert served.find("name:later") == changed
    assert served.find("name:other") == others
    assert served.find('name:"name3 other"') == [key for key in others if int(key[1:]) % 7 == 3]
    assert served.find("created_at:2014") == [f"k{n}" for n in range(COUNT)]
    assert served.find("key:k10?") == [f"k{n}" for n in range(100, 110)]


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _empty(file: Path) -> None:
    os.truncate(file, 0)


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    if data:
        data[len(data) // 3] ^= 16
    file.write_bytes(data)


@pytest.mark.parametrize("harm", [Path.unlink, _cut, _empty, _flip])
def test_a_file_damaged_while_it_was_closed(served: Served, harm: Any) -> None:
    """Each in turn: missing, half of it, none of it, one bit of it."""
    kinds = {file.suffix: file for file in served.files if not file.name.startswith(".")}
    assert {".jsonl", ".json", ".idx", ".pos", ".term", ".del", ".store"} <= set(kinds)
    for suffix in sorted(kinds):
        victim = next(file for file in served.files if file.suffix == suffix)
        harm(victim)
        served.restart()
        check(served)
        served.write([{**row, "name": "Later"} for row in people(FLUSH_AT, 100)])
        check(served)  # with deletions again


def test_a_changed_key_is_noticed(served: Served) -> None:
    """One bit, after which the file of keys can still be read: it names another contact."""
    (file,) = (file for file in served.files if file.suffix == ".jsonl")
    data = file.read_bytes()
    assert data.count(b'"k598"') == 1
    file.write_bytes(data.replace(b'"k598"', b'"k599"'))
    served.restart()
    check(served)
    assert served.built == 2


def test_a_changed_number_of_the_last_change_is_noticed(served: Served) -> None:
    """One digit, after which changes would never be read, or read twice."""
    (file,) = (file for file in served.files if file.name == "state.json")
    text = file.read_text()
    assert '"applied": 850' in text
    file.write_text(text.replace('"applied": 850', '"applied": 840'))
    served.write(people(20, COUNT))
    served.restart()
    assert len(served.find("*:*")) == COUNT + 20
    assert served.built == 2


def test_the_folder_deleted_while_it_is_served(served: Served) -> None:
    """What is written afterwards is found without a restart, and is there after one."""
    shutil.rmtree(served.folder / "a-acct")
    check(served)
    for n in range(6):
        served.write(people(FLUSH_AT, COUNT + n * FLUSH_AT))
        assert len(served.find("*:*")) == COUNT + (n + 1) * FLUSH_AT
    assert served.built == 1  # the writer that failed built it itself
    served.restart()
    assert len(served.find("*:*")) == COUNT + 6 * FLUSH_AT
    assert served.built == 1


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_store_that_was_set_back_is_noticed_before_it_has_as_many_changes_again(
    served: Served, is_closed: bool
) -> None:
    """It has lost its last changes, and others have their numbers now."""
    before = deepcopy(served.contacts.rows), served.contacts.latest
    served.write([{**row, "name": "Lost"} for row in people(FLUSH_AT, 300)])
    assert len(served.find("name:lost")) == FLUSH_AT
    served.contacts.rows, served.contacts.latest = before
    if is_closed:
        served.restart()
    served.engine.follow()
    served.write([{**row, "name": "Kept"} for row in people(2 * FLUSH_AT)])
    assert served.find("name:lost") == []
    assert len(served.find("name:kept")) == 2 * FLUSH_AT
    assert served.built == 2
    served.engine.follow()
    assert len(served.find("name:kept")) == 2 * FLUSH_AT
    assert served.built == 2


def test_a_store_that_was_set_back_is_not_forgotten_at_the_next_look(served: Served) -> None:
    """Which may come before the index was opened for it, when the store has more changes again."""
    before = deepcopy(served.contacts.rows), served.contacts.latest
    served.write([{**row, "name": "Lost"} for row in people(FLUSH_AT, 300)])
    assert len(served.find("name:lost")) == FLUSH_AT
    served.contacts.rows, served.contacts.latest = before
    served.restart()
    served.engine.follow()
    served.write([{**row, "name": "Kept"} for row in people(FLUSH_AT) * 6])
    served.engine.follow()
    assert served.find("name:lost") == []
    assert len(served.find("name:kept")) == FLUSH_AT


def test_what_is_known_of_a_closed_index_ends_when_it_is_opened(served: Served) -> None:
    """A store that is set back to what the index had before that is noticed."""
    served.restart()
    served.engine.follow()
    served.write(people(10, COUNT))
    before = deepcopy(served.contacts.rows), served.contacts.latest
    served.write([{**row, "name": "Lost"} for row in people(FLUSH_AT, 300)])
    assert len(served.find("name:lost")) == FLUSH_AT
    served.engine.idle_close = -1.0
    served.look_around()
    assert not served.engine._slots
    served.contacts.rows, served.contacts.latest = before
    served.engine.follow()
    served.write([{**row, "name": "Kept"} for row in people(2 * FLUSH_AT)])
    assert served.find("name:lost") == []
    assert len(served.find("name:kept")) == 2 * FLUSH_AT


def test_contacts_that_are_written_and_searched_meanwhile_set_nothing_back(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = served.contacts.newest

    def slow(accounts: Sequence[str]) -> list[int]:
        found = newest(accounts)
        served.write(people(5, COUNT))
        assert len(served.find("*:*")) == COUNT + 5
        return found

    monkeypatch.setattr(ContactsThatChange, "newest", lambda _, accounts: slow(accounts))
    served.engine.follow()
    assert len(served.find("*:*")) == COUNT + 5
    assert served.built == 1


@pytest.mark.parametrize("suffix", [".term", ".idx", ".pos", ".json"])
@pytest.mark.parametrize("harm", [Path.unlink, _cut, _empty])
def test_a_file_that_is_cut_while_it_is_served(
    served: Served, suffix: str, harm: Callable[[Path], None]
) -> None:
    """Soon noticed without a search that fails, or with one that does; as long as nothing is wrong
    nothing is built.
    """
    served.look_around()
    assert served.built == 1
    victim = next(
        file
        for file in (served.folder / "a-acct" / "index").iterdir()
        if file.suffix == suffix and not file.name.startswith(".")
    )
    copy = victim.with_suffix(".copy")
    shutil.copyfile(victim, copy)
    harm(copy)
    victim.unlink()  # the engine still has it, whole, so that this process survives
    if copy.exists():
        copy.rename(victim)
    served.look_around()
    check(served)
    assert served.built == 2
    served.look_around()
    check(served)
    assert served.built == 2


def test_looking_at_files_keeps_no_index_open(served: Served) -> None:
    """One that nobody searches is closed as before."""
    slot = served.engine._slots["acct"]
    used_at = slot.used_at
    served.look_around()
    assert slot.used_at == used_at
    served.engine.idle_close = 0.0
    served.look_around()
    assert not served.engine._slots


def test_an_engine_that_fails_has_its_index_built_anew_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If that does not help the failure is said, and the index kept."""
    find, fail = View.find, [True]

    def fail_once(view: View, *args: Any) -> list[int]:
        if fail.pop():
            raise ValueError("something in the engine")
        return find(view, *args)

    monkeypatch.setattr(View, "find", fail_once)
    fail[:] = [False, True]
    assert len(served.find("*:*")) == COUNT
    assert served.built == 2
    for _ in range(3):
        fail[:] = [True]
        with pytest.raises(ValueError, match="something in the engine"):
            served.find("*:*")
    assert served.built == 2
    assert not Files.of(served.folder, "acct").damage()


def test_an_engine_that_panics_as_it_opens_has_its_index_built_anew(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Panic(BaseException):
        """As pyo3's is."""

    def fail(*_: object) -> None:
        raise Panic

    served.restart()
    with monkeypatch.context() as patch:
        patch.setattr("resources.stores.search.files.check_index", fail)
        with pytest.raises(Behind):
            next(served.engine.find("acct", "*:*", 0, None, 100))
    check(served)
    assert served.built == 2


def test_files_that_are_written_meanwhile_are_not_damaged(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit may delete files that the list of a moment ago names."""
    files, names = Files.of(served.folder, "acct"), checksums._files
    rounds = iter(range(1, 3))

    def late(folder: Path) -> list[Path]:
        found = names(folder)
        if next(rounds, None):
            served.write([{**row, "name": "Later"} for row in people(FLUSH_AT, 100)])
            served.find("*:*")
        return found

    monkeypatch.setattr(checksums, "_files", late)
    assert not files.damage()
    assert next(rounds, None) is None
    victim = next(file for file in served.files if file.suffix == ".pos")
    victim.unlink()
    assert f"{victim} is missing" in files.damage()
