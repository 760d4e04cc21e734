"""Contacts that change, as an index sees them in Redis: without Redis, so that tests are quick and
in order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from attrs import define, field

from resources.stores.search.changes import Changed, Page


@define
class ContactsThatChange:
    """What `Changes` reads; each write gets the next change number."""

    epoch: str = "e1"
    latest: int = 0
    # key: when it changed, and the contact
    rows: dict[str, tuple[int, Changed]] = field(factory=dict)
    asked: int = 0  # how often for what has changed

    def write(self, contact: dict[str, Any]) -> None:
        """Make or replace a contact."""
        key = contact["key"]
        seq = self.rows[key][1].seq if key in self.rows else len(self.rows) + 1
        size = len(json.dumps(contact))
        self.latest += 1
        self.rows[key] = (self.latest, Changed(key, seq, contact, size))

    def after(self, account: str, number: int, limit: int) -> Page:
        self.asked += 1
        later = sorted(
            (row for row in self.rows.values() if row[0] > number), key=lambda row: row[0]
        )
        some = later[:limit]
        return Page(
            self.epoch,
            self.latest,
            len(later),
            some[-1][0] if some else number,
            [changed for _, changed in some],
        )

    def state(self, account: str) -> tuple[str, int]:
        self.asked += 1
        return self.epoch, self.latest

    def newest(self, accounts: Sequence[str]) -> list[int]:
        return [self.latest for _ in accounts]

    def contacts(self, account: str, keys: Sequence[str]) -> list[dict[str, Any]]:
        return [self.rows[key][1].contact for key in keys if key in self.rows]

    def all(self) -> list[dict[str, Any]]:
        """Every contact as it is now, in the order in which they were made."""
        return [
            changed.contact for _, changed in sorted(self.rows.values(), key=lambda row: row[1].seq)
        ]
