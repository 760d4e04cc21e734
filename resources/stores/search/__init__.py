"""Lucene's classic query language over contacts: text to nodes (`lucene`), fields and analysis (`fields`), and the search itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..groups import Group
from .nodes import QueryError

__all__ = ["ContactSearch", "QueryError"]


class ContactSearch(Protocol):
    """Finds contacts and groups by queries in Lucene's language. Sees every write that was answered before it was asked.

    Every coroutine raises QueryError for a query that makes no sense or is too much, and Unavailable where the store, or the
    search itself, does not answer.
    """

    async def keys(self, account: str, query: str, limit: int | None) -> list[str]:
        """The keys of the contacts that match, `limit` at most, the oldest contacts first."""

    async def count(self, account: str, query: str) -> int:
        """How many contacts match."""

    async def among(self, groups: Sequence[Group], query: str) -> list[Group]:
        """Those of the groups that match, in their order."""
