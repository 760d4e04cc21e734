"""An engine with an index, for tests of what can happen to that."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any, cast

from attrs import define, field

from resources.stores.search.changes import Changes
from resources.stores.search.engine import Behind, Engine
from resources.stores.search.index import FLUSH_AT

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

    def look_around(self) -> None:
        """What happens every few seconds while nobody waits."""
        self.engine._followed_at = -1e9
        self.engine._look_around()

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


def serve(tmp_path: Path) -> Iterator[Served]:
    """One that is used, and in which nothing has gone wrong at the end."""
    served = Served(tmp_path)
    served.write(people(COUNT))
    assert len(served.find("*:*")) == COUNT
    served.write([{**row, "name": "Later"} for row in people(FLUSH_AT, 100)])
    assert len(served.find("name:later")) == FLUSH_AT
    assert served.built == 1
    yield served
    assert not served.troubles
