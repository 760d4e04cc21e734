"""Indexes over contacts that change, and what is found in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from resources.stores.search.changes import Changes
from resources.stores.search.engine import meaning
from resources.stores.search.index import AccountIndex, View

from .changing import ContactsThatChange


def open_index(folder: Path, changes: ContactsThatChange) -> AccountIndex:
    return AccountIndex.open(folder, "acct", cast("Changes", changes))


def caught_up(folder: Path, changes: ContactsThatChange) -> AccountIndex:
    index = open_index(folder, changes)
    index.catch_up(lambda done, left: None)
    return index


def find(index: AccountIndex, query: str, after: int = 0, limit: int | None = None) -> list[str]:
    view = index.refresh()
    return keys_of(view, view.find(meaning(query), after, limit))


def keys_of(view: View, numbers: list[int]) -> list[str]:
    return [key for keys in view.keys.arrays(numbers, 100) for key in json.loads(keys)]


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
