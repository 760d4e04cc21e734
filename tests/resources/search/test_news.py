"""An index that is told whether there is news: it finds everything that was written, and reads the
store only if it has to.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import hypothesis.strategies as st
from hypothesis import given

from resources.stores.search.dialogue import News
from resources.stores.search.engine import meaning
from resources.stores.search.index import AccountIndex, Behind

from .changing import ContactsThatChange
from .indexes import keys_of, open_index, people

Step = Literal["write", "write elsewhere", "search", "flush", "forget", "fall behind", "open"]
STEPS: list[Step] = [
    "write", "write elsewhere", "search", "search", "search", "flush", "forget", "fall behind",
    "open",
]  # fmt: skip


def search(index: AccountIndex, news: News) -> list[str]:
    node = meaning("*:*")
    while True:
        try:
            return index.read(news, lambda view: keys_of(view, view.find(node)))
        except Behind:
            index.catch_up(lambda done, left: None)


def person(n: int) -> dict[str, object]:
    return people(1, n)[0]


@given(steps=st.lists(st.sampled_from(STEPS), max_size=40), is_alone=st.booleans())
def test_everything_that_was_written_is_found(steps: list[Step], is_alone: bool) -> None:
    """In any order of what can happen to an index; alone, whoever asks knows of each write."""
    contacts = ContactsThatChange()
    with TemporaryDirectory() as name:
        index = open_index(Path(name), contacts)
        is_written = True
        for step in steps:
            match step:
                case "write" | "write elsewhere":
                    contacts.write(person(len(contacts.rows)))
                    is_written = is_written or is_alone or step == "write"
                case "search":
                    news: News = "some" if is_written else "none" if is_alone else "unlikely"
                    assert len(search(index, news)) == len(contacts.rows)
                    is_written = False
                case "flush":
                    index.flush()
                case "forget":
                    index.forget()
                case "fall behind":
                    index.fall_behind()
                case "open":
                    index = open_index(Path(name), contacts)


def test_the_store_is_asked_only_if_needed(tmp_path: Path) -> None:
    contacts = ContactsThatChange()
    for row in people(3):
        contacts.write(row)
    index = open_index(tmp_path, contacts)

    def asked(news: News) -> int:
        before = contacts.asked
        assert len(search(index, news)) == len(contacts.rows)
        return contacts.asked - before

    assert asked("none") == 1  # it had read nothing yet
    assert asked("none") == 0
    assert asked("unlikely") == 1
    contacts.write(person(3))
    assert asked("unlikely") == 2  # the state, and then what has changed
    contacts.write(person(4))
    assert asked("unlikely") == 1  # somebody else is writing: at once what has changed
    assert asked("unlikely") == 1  # nothing this time
    assert asked("unlikely") == 1
    assert asked("none") == 0


def test_a_store_that_was_emptied_is_noticed(tmp_path: Path) -> None:
    contacts = ContactsThatChange()
    contacts.write(person(0))
    index = open_index(tmp_path, contacts)
    assert search(index, "some") == ["k0"]
    contacts.rows.clear()
    contacts.epoch, contacts.latest = "e2", 0
    contacts.write(person(1))  # the same change number, in another history
    assert search(index, "unlikely") == ["k1"]
