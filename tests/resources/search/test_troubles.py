"""An account whose number of changes cannot be read is a matter of its own."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path

import pytest

from resources.stores.search.changes import StoreGone
from resources.stores.search.engine import FOLLOW_BEHIND, Behind, CannotBuild
from resources.stores.search.files import Files
from resources.stores.search.index import FLUSH_AT
from resources.stores.search.troubles import Troubles

from .changing import ContactsThatChange
from .indexes import people
from .served import COUNT, Served, serve

LOGGER = "resources.stores.search.troubles"


@pytest.fixture(name="served")
def _served(tmp_path: Path) -> Iterator[Served]:
    yield from serve(tmp_path)


def test_an_account_whose_changes_cannot_be_read_stops_no_other(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is reported once, however often the engine looks around, and when it is over."""
    readable = list[bool]()

    def newest(contacts: ContactsThatChange, accounts: Sequence[str]) -> list[int | StoreGone]:
        bad = 0 if readable else StoreGone("its number is b'x'")
        return [bad if account == "bad" else contacts.latest for account in accounts]

    monkeypatch.setattr(ContactsThatChange, "newest", newest)
    served.engine.accounts = ["bad", "acct"]
    caplog.set_level(logging.INFO, LOGGER)
    for _ in range(3):
        served.look_around()
    assert [record.message for record in caplog.records] == [
        "account bad: its index cannot follow: its number is b'x'"
    ]
    assert served.troubles == [("bad", "its number is b'x'")]
    served.write(people(FOLLOW_BEHIND + 1, COUNT))
    served.look_around()
    served.engine.work_behind()  # the other account catches up before anybody asks
    assert len(served.find("*:*")) == COUNT + FOLLOW_BEHIND + 1
    readable.append(True)
    served.look_around()
    served.look_around()
    assert [record.message for record in caplog.records][-1:] == [
        "account bad: its index can follow again"
    ]
    assert served.troubles.pop() == ("bad", "")
    assert len(served.troubles) == 1
    served.troubles.clear()


@pytest.fixture(name="set_back")
def _set_back(served: Served) -> Callable[[], None]:
    """Has the store lose changes that are in the index on disk."""
    before = deepcopy(served.contacts.rows), served.contacts.latest
    served.write([{**row, "name": "Lost"} for row in people(FLUSH_AT, 300)])
    assert len(served.find("name:lost")) == FLUSH_AT

    def set_back() -> None:
        served.contacts.rows, served.contacts.latest = before

    return set_back


def _check_anew(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is built anew when it can be, though the store has as many changes again."""
    served.write([{**row, "name": "Kept"} for row in people(2 * FLUSH_AT)])
    monkeypatch.setattr("resources.stores.search.troubles.RETRY_SECONDS", 0.0)
    assert served.find("name:lost") == []
    assert len(served.find("name:kept")) == 2 * FLUSH_AT
    assert served.troubles.pop() == ("acct", "")
    served.troubles.clear()


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_store_that_is_set_back_while_the_index_cannot_be_written_is_noted(
    served: Served, set_back: Callable[[], None], is_closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Files, "save", fail)
        served.write(people(FLUSH_AT, COUNT))
        served.find("*:*")
        assert served.troubles
        set_back()
        if is_closed:
            served.engine._slots.clear()
        served.engine.follow()
        with pytest.raises(CannotBuild):
            served.find("name:lost")
    _check_anew(served, monkeypatch)


@pytest.mark.parametrize("is_noted", [True, False])
def test_an_index_that_cannot_be_deleted_is_not_opened_again(
    served: Served, set_back: Callable[[], None], is_noted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file system can only be read for a while. That it is of no use was noticed before, or
    while it was searched.
    """

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        patch.setattr(Path, "mkdir", fail)
        patch.setattr(Path, "open", fail)
        set_back()
        if is_noted:
            served.engine.follow()
        with pytest.raises((CannotBuild, Behind)):
            served.engine.count("acct", "*:*")
        served.engine.work_behind()
        assert "Read-only file system" in served.troubles[-1][1]
        served.engine._slots.clear()
    _check_anew(served, monkeypatch)


def test_what_is_wrong_with_an_account_is_told_until_nothing_is() -> None:
    """Two things may be: its number of changes, and its index."""
    told = list[tuple[str, str]]()
    troubles = Troubles(lambda account, reason: told.append((account, reason)))
    troubles.note_failure("a", "the disk")
    troubles.note_unreadable({"a": "the number", "b": "the number"})
    troubles.note_unreadable({"b": "another number"})
    troubles.note_built("a")
    troubles.note_built("a")
    troubles.note_unreadable({})
    assert told == [
        ("a", "the disk"),
        ("a", "the number"),
        ("b", "the number"),
        ("b", "another number"),
        ("a", "the disk"),
        ("a", ""),
        ("b", ""),
    ]
