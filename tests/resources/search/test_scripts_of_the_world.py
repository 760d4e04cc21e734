"""Names in many scripts, with flags, keycaps, marks and signs of our own syntax, and dates at the
ends of time: what Lucene found of 70 contacts with 562 queries, an error included.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resources.stores.search.engine import meaning
from resources.stores.search.evaluate import matches
from resources.stores.search.fields import Document
from resources.stores.search.nodes import QueryError

from .changing import ContactsThatChange
from .indexes import caught_up, find

RECORDED = json.loads(Path(__file__).with_name("queries_of_scripts.json").read_text("utf-8"))
CONTACTS: list[dict[str, Any]] = RECORDED["contacts"]
QUERIES: dict[str, list[int] | None] = RECORDED["queries"]


def test_the_index_finds_what_lucene_found(tmp_path: Path) -> None:
    changing = ContactsThatChange()
    for contact in CONTACTS:
        changing.write(contact)
    index = caught_up(tmp_path, changing)
    keys = [contact["key"] for contact in CONTACTS]
    assert sum(bool(places) for places in QUERIES.values()) > len(QUERIES) // 2
    for query, places in QUERIES.items():
        if places is None:
            with pytest.raises(QueryError):
                find(index, query)
        else:
            assert find(index, query) == [keys[place] for place in places], query


def test_so_do_the_contacts_one_by_one() -> None:
    documents = [Document(contact) for contact in CONTACTS]
    for query, places in QUERIES.items():
        if places is not None:
            node = meaning(query)
            found = [place for place, one in enumerate(documents) if matches(node, one)]
            assert found == places, query
