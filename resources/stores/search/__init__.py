"""Lucene's classic query language over contacts.

    text > lexer > lucene > nodes > translate > tantivy        nodes > evaluate    one document at a
                     time, in plain Python fields, patterns (analysis)               index = tantivy
                     + what changed since, from Redis
    engine (all indexes) < process < dialogue < the supervisor

`fields` says what is compared, `schema` where it stands in an index, `index` how an index follows
Redis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from ..groups import Group
from .nodes import QueryError, SearchError

__all__ = ["CannotSearch", "ContactSearch", "QueryError", "SearchError"]


class CannotSearch(SearchError):
    """There can be no answer at the moment; the text says why."""


class ContactSearch(Protocol):
    """Finds contacts and groups by queries in Lucene's language. Sees every write that was answered
    before it was asked.

    Every coroutine raises QueryError for a query that makes no sense or is too much, CannotSearch
    where the index or the process cannot be had at the moment, and Unavailable where Redis does not
    answer.
    """

    async def keys_json(self, account: str, query: str, limit: int | None) -> msgspec.Raw:
        """The keys of the contacts that match, `limit` at most, the oldest contacts first: a JSON
        array, ready to be sent.
        """

    async def page(self, account: str, query: str, after: int, limit: int) -> tuple[list[str], int]:
        """The keys of the first contacts that match and are newer than the one with the number
        `after`, `limit` at most; and the number of the last of them, to go on after.
        """

    async def count(self, account: str, query: str) -> int:
        """How many contacts match."""

    async def groups(self, account: str, query: str) -> Sequence[Group]:
        """The groups that match, by name."""
