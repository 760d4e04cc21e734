"""Search by looking at every contact: right, and good for small accounts. An account that is larger is told so."""

from __future__ import annotations

from collections.abc import Sequence

import trio
from attrs import frozen

from ..contacts import Contacts
from ..groups import Group
from .evaluate import matches
from .fields import Document
from .lucene import parse
from .nodes import NOTHING, Node, QueryError

CONTACTS_MAX = 20_000  # contacts of an account that can be searched
PAGE = 500
SLICE = 100  # documents between two moments at which others may run


@frozen
class ScanSearch:
    """A `ContactSearch`."""

    contacts: Contacts

    async def keys(self, account: str, query: str, limit: int | None) -> list[str]:
        """As `ContactSearch.keys`."""
        node = parse(query)
        if limit == 0 or node == NOTHING:
            return []
        found: list[str] = []
        count = await self.contacts.count(account)
        if count > CONTACTS_MAX:
            raise QueryError(None, f"the account has {count} contacts, at most {CONTACTS_MAX} can be searched")
        cursor: int | None = 0
        while cursor is not None:
            page = await self.contacts.page(account, cursor, PAGE)
            found += [contact["key"] for contact in await _filter(node, page.contacts)]
            if limit is not None and len(found) >= limit:
                return found[:limit]
            cursor = page.cursor
        return found

    async def count(self, account: str, query: str) -> int:
        """As `ContactSearch.count`."""
        return len(await self.keys(account, query, None))

    async def among(self, groups: Sequence[Group], query: str) -> list[Group]:
        """As `ContactSearch.among`."""
        return await _filter(parse(query), groups)


async def _filter(node: Node, items: Sequence[Group]) -> list[Group]:
    found = []
    for start in range(0, len(items), SLICE):
        found += [item for item in items[start : start + SLICE] if matches(node, Document(item))]
        await trio.lowlevel.checkpoint()
    return found
