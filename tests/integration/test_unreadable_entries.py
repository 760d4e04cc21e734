"""Journal entries that cannot be read: they stop nothing."""

from __future__ import annotations

import re

import msgspec
import redis

from resources.stores.journal import Entry

from ..gateway_client import connect
from ..service import ECHO, Folder, running
from .dead_letters import admin_of, an_event, entry, journal, listed

URL_SAFE = re.compile(r"[A-Za-z0-9_.~-]+")


def without(one: Entry, *names: str) -> bytes:
    payload = {key: value for key, value in one.payload.items() if key not in names}
    return msgspec.json.encode(msgspec.structs.replace(one, payload=payload))


def nested(levels: int) -> bytes:
    return msgspec.json.encode(entry("deep")).replace(
        b'"content":"deep"', b'"content":' + b"[" * levels + b"]" * levels
    )


UNREADABLE = [
    b"",
    b"no JSON",
    b"\xff\xfe{",
    b"null",
    b"[]",
    b'"text"',
    b"{}",
    b"1e999",
    b"7" * 5000,
    b'{"kind":"letter","account":"acct","app":"phone","channel":"phone","payload":{}}',
    b'{"kind":"message","account":"acct","app":"phone","channel":"phone"}',
    b'{"kind":"message","account":"acct","app":"phone","channel":"phone","payload":{}}',
    b'{"kind":"event","account":"acct","app":"phone","channel":"phone","payload":{}}',
    b'{"kind":"event","account":"acct","app":"phone","channel":["phone"],"payload":{}}',
    msgspec.json.encode(entry("foreign", app="other")),
    msgspec.json.encode(entry("a")).replace(b'"from_addr":"+1"', b'"from_addr":["+1"]'),
    msgspec.json.encode(entry("b")).replace(b'"message_id":"b"', b'"message_id":{"b":[1]}'),
    without(entry("c"), "helper_metadata"),
    without(entry("d"), "message_id", "group"),
    without(an_event("e"), "user_message_id"),
    msgspec.json.encode(entry("half")).replace(b'"content":"half"', rb'"content":"\ud83d"'),
    nested(300),
    nested(976),
    b"[" * 300_000,
    b'{"a":' * 100_000,
]


async def test_what_cannot_be_read_stops_nothing(folder: Folder, store: redis.Redis) -> None:
    """Each entry that is none is set aside, with its text; those round it are run, in order; only
    dropping helps.
    """
    folder.app("phone", ECHO)
    for number, text in enumerate(UNREADABLE):
        journal(store, entry(f"m{number}"), text)
    store.xadd("jsbox:{acct}:in:phone", {"other": "fields", "of": "somebody"})
    async with (
        running(folder) as service,
        connect(service.gateway_url) as client,
        admin_of(service) as admin,
    ):
        for number in range(len(UNREADABLE)):
            assert (await client.expect("outbound"))["msg"]["content"] == f"you said m{number}"
        found = await listed(admin)
        assert len(found) == len(UNREADABLE) + 1
        assert [one["size"] for one in reversed(found)][:-1] == [len(text) for text in UNREADABLE]
        for one in found:
            assert URL_SAFE.fullmatch(one["id"])
            assert (one["app"], one["account"], one["attempts"], one["can_retry"]) == (
                "phone",
                "acct",
                0,
                False,
            )
            assert one["reason"]
            whole = (await admin.get(f"/v1/deadletters/{one['id']}")).json()
            assert len(whole["raw"].encode("utf-8", "replace")) >= min(one["size"], 1)
            refused = await admin.post(f"/v1/deadletters/{one['id']}/retry")
            assert (refused.status_code, bool(refused.json()["error"])) == (409, True)
            assert (await admin.delete(f"/v1/deadletters/{one['id']}")).status_code == 200
            for gone in (admin.delete, admin.get):
                assert (await gone(f"/v1/deadletters/{one['id']}")).status_code == 404
        assert await listed(admin) == []
        assert 'jsbox_dead_letters{app="phone"} 0.0' in (await admin.get("/metrics")).text
        assert store.hgetall("jsbox:{acct}:dead:counts") == {b"": b"0"}
        assert (store.exists("jsbox:{acct}:dead:texts"), store.xlen("jsbox:{acct}:in:phone")) == (
            0,
            0,
        )
