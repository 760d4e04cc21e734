"""Phrases in single quotes, which the old interface wrote and which find nobody here."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytest
from attrs import define, field

from resources.contract import Caller
from resources.groups import GroupsResource, Update
from resources.stores.contacts import Contacts
from resources.stores.groups import Group, Groups
from resources.stores.search import ContactSearch
from resources.stores.search.quotes import advice, quoted


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("msisdn:'+27831112222'", ["msisdn:'+27831112222'"]),
        ("name:a AND (surname:'van Wyk' extras-clinic:'')",
            ["surname:'van Wyk'", "extras-clinic:''"]),
        (r"extras-birth\ day:'x'", ["day:'x'"]),
        ("surname:O'Brien name:d'Arc' 'a b'", []),
        ("msisdn:\"'1'\" msisdn:'1", []),
        ("sql: 'x', https:'", []),
    ],
)  # fmt: skip
def test_each_is_found(text: str, found: list[str]) -> None:
    """A field's name, a colon and a value in quotes; apostrophes of words are none."""
    assert quoted(text) == found


def test_the_advice_can_be_taken() -> None:
    """It says the same as a phrase of Lucene's language."""
    assert advice("name:'a \"b'").endswith('write name:"a \\"b"')


@define
class Log:
    lines: list[tuple[int, str]] = field(factory=list)

    async def __call__(self, level: int, message: str) -> None:
        self.lines.append((level, message))


class AnyGroup:
    async def update(self, account: str, key: str, name: str, query: str | None) -> Group | None:
        return cast("Group", {"key": key, "name": name, "query": query})


async def test_a_smart_group_that_finds_nobody_is_noted() -> None:
    """In the app's log, where its developer looks; the group is changed all the same."""
    log = Log()
    caller = Caller("r", "acct", "app", "ch", None, {}, cast("Any", log))
    resource = GroupsResource(
        cast("Groups", AnyGroup()), cast("Contacts", None), cast("ContactSearch", None)
    )
    for query in ("name:'Sipho N' surname:'x'", 'name:"Sipho N"', None):
        request = Update(key="k", name="North", query=query)
        assert (await resource.update(caller, request)).group["query"] == query
    ((level, text),) = log.lines
    assert level == logging.WARNING
    assert text.startswith("group North: name:'Sipho N' is no phrase here")
    assert text.endswith('write name:"Sipho N"')
