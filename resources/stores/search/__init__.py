"""Lucene's classic query language over contacts.

    text > lexer > lucene > nodes > translate > tantivy: all that is in an index
                            nodes > evaluate: one contact at a time, in plain Python
    view = what is in an index on disk + what has changed since, from Redis
    index (of an account) < engine (all indexes) < process < dialogue < the supervisor

`fields` says what is compared, `patterns` what a wildcard or a regular expression matches, `words`
what the words of a text are, `schema` where an index has it, `grams` how addresses are found by a
piece. `quotes` knows queries of the old interface, `group_search` finds groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from ..groups import Group
from .nodes import QueryError, SearchError

__all__ = ["INDEXES", "CannotSearch", "ContactSearch", "QueryError", "SearchError"]

INDEXES = "search"  # the folder of all indexes, in the service's folder of data


class CannotSearch(SearchError):
    """There is no answer at the moment; the text says why."""


class ContactSearch(Protocol):
    """Finds contacts and groups by queries in Lucene's language. A search sees every write that was
    answered before it began.

    Every coroutine raises QueryError if the query is not valid or asks too much, CannotSearch if
    the index or the process is not available at the moment, and Unavailable if Redis does not
    answer.
    """

    async def keys_json(self, account: str, query: str, limit: int | None) -> msgspec.Raw:
        """The keys of the contacts that match, at most `limit`, oldest contacts first, as a JSON
        array.
        """

    async def page(self, account: str, query: str, after: int, limit: int) -> tuple[list[str], int]:
        """The keys of the first contacts that match after the number `after`, at most `limit`, and
        the number of the last, from which to continue.
        """

    async def count(self, account: str, query: str) -> int:
        """How many contacts match."""

    async def groups(self, account: str, query: str) -> Sequence[Group]:
        """The groups that match, by name."""
