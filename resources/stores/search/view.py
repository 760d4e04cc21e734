"""A snapshot of an account's contacts, to search in: an index, and what has changed since."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import tantivy
from attrs import frozen

from .budget import Budget
from .dictionary import Dictionary
from .evaluate import matches
from .fields import Document
from .key_table import KeyTable
from .nodes import NOTHING, Node
from .schema import SCHEMA, SEQ
from .translate import Translation


@frozen
class Entry:
    """A contact that changed after the index was written."""

    key: str
    document: Document
    size: int  # of its values in the store, in bytes


@frozen
class View:
    """A snapshot of an account's contacts, to search in. Its `keys` are the index's own, which may
    grow meanwhile.
    """

    index: tantivy.Index | None
    searcher: tantivy.Searcher | None
    overlay: Sequence[tuple[int, Entry]]
    keys: KeyTable
    documents: Callable[[Sequence[int]], Iterable[tuple[int, Document]]]
    dictionary: Dictionary | None = None

    def find(
        self, node: Node, after: int = 0, limit: int | None = None, budget: Budget | None = None
    ) -> list[int]:
        """The numbers of the contacts that a node finds, ascending, after the number `after`."""
        if limit == 0 or node == NOTHING:
            return []
        hidden = {seq for seq, _ in self.overlay}
        budget = budget or Budget()
        more = sorted(
            seq
            for seq, entry in self.overlay
            if seq > after and matches(node, entry.document, budget)
        )
        found = self._search(node, after, limit, hidden, budget)
        if more:
            found = sorted(found + more)
        return found if limit is None else found[:limit]

    def _search(
        self, node: Node, after: int, limit: int | None, hidden: set[int], budget: Budget
    ) -> list[int]:
        if self.searcher is None or not (most := self.searcher.num_docs):
            return []
        query = self._query(node, budget)
        if after:
            later = tantivy.Query.range_query(
                SCHEMA, SEQ, tantivy.FieldType.Unsigned, after, None, include_lower=False
            )
            query = tantivy.Query.boolean_query(
                [(tantivy.Occur.Must, query), (tantivy.Occur.Must, later)]
            )
        if limit is not None:
            most = min(most, limit + len(hidden))
        hits = self.searcher.search(
            query, limit=most, count=False, order_by_field=SEQ, order=tantivy.Order.Asc
        ).hits
        if hidden:
            return [seq for seq, _ in hits if seq not in hidden]
        return [seq for seq, _ in hits]

    def count(self, node: Node, budget: Budget | None = None) -> int:
        """How many contacts a node finds."""
        if node == NOTHING:
            return 0
        budget = budget or Budget()
        count = sum(matches(node, entry.document, budget) for _, entry in self.overlay)
        if self.searcher is not None and self.searcher.num_docs:
            query = self._query(node, budget)
            count += self._count(query)
            if self.overlay:
                hidden = tantivy.Query.term_set_query(SCHEMA, SEQ, [seq for seq, _ in self.overlay])
                both = [(tantivy.Occur.Must, query), (tantivy.Occur.Must, hidden)]
                count -= self._count(tantivy.Query.boolean_query(both))
        return count

    def _count(self, query: tantivy.Query) -> int:
        assert self.searcher is not None
        # the stub lacks it
        return int(self.searcher.search(query, limit=1).count)  # type: ignore[attr-defined]

    def _query(self, node: Node, budget: Budget) -> tantivy.Query:
        assert self.index is not None
        assert self.searcher is not None
        assert self.dictionary is not None
        return Translation(
            self.index, self.searcher, self.documents, budget, self.dictionary
        ).query(node)
