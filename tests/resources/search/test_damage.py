"""Files that are damaged, while the index is closed and while it is served: nobody notices, but
that the index is built anew.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any, cast

import pytest
from attrs import define, field

from resources.stores.search.changes import Changes
from resources.stores.search.engine import Behind, CannotBuild, Engine
from resources.stores.search.files import Files
from resources.stores.search.index import FLUSH_AT, View

from .changing import ContactsThatChange
from .indexes import people

COUNT = 600


@define
class Served:
    """An engine whose background work is done when it is due, by the caller."""

    folder: Path
    contacts: ContactsThatChange = field(factory=ContactsThatChange)
    troubles: list[tuple[str, str]] = field(factory=list)
    built: int = 0
    engine: Engine = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.engine = Engine(
            self.folder, cast("Changes", self.contacts), 10, 600.0, ["acct"],
            lambda account, reason: self.troubles.append((account, reason)),
        )  # fmt: skip

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            self.contacts.write(row)

    def find(self, query: str) -> list[str]:
        for _ in range(3):
            try:
                found = [
                    key
                    for page in self.engine.find("acct", query, 0, None, 100)
                    for key in json.loads(page.keys)
                ]
            except Behind:
                self.built += 1
                self.engine.work_behind()
            else:
                self.engine.tidy("acct")
                with suppress(Empty):
                    self.engine.work_full()
                return found
        raise AssertionError("it is still behind")

    @property
    def files(self) -> list[Path]:
        return sorted(file for file in self.folder.rglob("*") if file.is_file())


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    served.write(people(COUNT))
    assert len(served.find("*:*")) == COUNT
    served.write([{**row, "name": "Later"} for row in people(FLUSH_AT, 100)])
    assert len(served.find("name:later")) == FLUSH_AT
    assert served.built == 1
    yield served
    assert not served.troubles


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


def test_a_full_disk_costs_no_index(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is is kept and searched as long as memory has the rest; then the reason is said,
    and it goes on by itself when there is room.
    """
    before = {file: file.stat().st_ino for file in served.files if file.suffix == ".idx"}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Files, "save", full)
        served.write(people(FLUSH_AT, COUNT))
        assert len(served.find("*:*")) == COUNT + FLUSH_AT
        assert len(served.find("*:*")) == COUNT + FLUSH_AT
        assert set(before) <= set(served.files)
        served.write(people(2 * FLUSH_AT + 1000, COUNT))
        with pytest.raises(CannotBuild, match="No space left on device"):
            served.find("*:*")
    ((account, reason), *_) = served.troubles
    assert account == "acct"
    assert "No space left" in reason
    monkeypatch.setattr("resources.stores.search.engine.RETRY_SECONDS", 0.0)
    assert len(served.find("*:*")) == COUNT + 2 * FLUSH_AT + 1000
    assert served.troubles.pop() == ("acct", "")
    served.troubles.clear()
