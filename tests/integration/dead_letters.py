"""Journals with dead letters, as a server before us left them, and how they are listed."""

from __future__ import annotations

from typing import Any

import httpx2
import msgspec
import redis

from resources.messages import complete_event, complete_message
from resources.stores.journal import Entry
from supervisor.service import Service


def entry(name: str, app: str = "phone", **fields: Any) -> Entry:
    msg = {
        "message_id": name,
        "from_addr": "+1",
        "to_addr": "1",
        "content": name,
        "session_event": "new",
    } | fields
    payload = complete_message(
        msg, transport_name="phone", transport_type="ussd", endpoint="default"
    )
    return Entry("message", "acct", app, "phone", payload)


def an_event(name: str) -> Entry:
    event = {"event_id": name, "event_type": "ack", "user_message_id": "x", "sent_message_id": "y"}
    return Entry(
        "event",
        "acct",
        "phone",
        "phone",
        complete_event(event, transport_name="phone", transport_type="ussd"),
    )


def journal(
    store: redis.Redis, *texts: bytes | Entry, app: str = "phone", begun: int = 0
) -> list[str]:
    """Write entries as a server before us did; `begun`: how often a run of each was begun."""
    places = []
    for text in texts:
        raw = text if isinstance(text, bytes) else msgspec.json.encode(text)
        places.append(store.xadd(f"jsbox:{{acct}}:in:{app}", {"e": raw}).decode())
        if begun:
            store.hset(f"jsbox:{{acct}}:begun:{app}", places[-1], begun)
    return places


def admin_of(service: Service) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=service.admin_url, trust_env=False, timeout=30)


async def listed(admin: httpx2.AsyncClient, **query: str) -> list[dict[str, Any]]:
    answer = await admin.get("/v1/deadletters", params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["deadletters"])
