"""2,000 contacts, 744 queries, and what Apache Lucene 8.7 found for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
QUERIES: list[dict[str, Any]] = json.loads((HERE / "queries.json").read_text("utf-8"))["queries"]
BY_KIND: dict[str, dict[str, list[int] | None]] = json.loads(
    (HERE / "queries_by_kind.json").read_text("utf-8")
)
"""More queries, by kind: the places of the contacts found, or null for an error."""


def contacts() -> list[dict[str, Any]]:
    """The contacts in their JSON shape: extras and subscriptions as fields of their own."""
    found = []
    for line in (HERE / "contacts.jsonl").read_text("utf-8").splitlines():
        contact = json.loads(line)
        for prefix, part in (("extras-", "extra"), ("subscription-", "subscription")):
            contact |= {prefix + name: value for name, value in contact.pop(part).items()}
        found.append(contact)
    return found
