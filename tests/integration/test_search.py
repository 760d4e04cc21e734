"""Contact search as an app sees it: through a real sandbox, every query that Apache Lucene was
asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
import trio

from resources.stores.contacts import DATES, TEXTS, Change
from supervisor.service import Service

from ..gateway_client import PATIENCE, Client, connect
from ..programs import jsbox
from ..resources.search.oracle import QUERIES, contacts
from ..service import Folder, running

ASK_ALL = """
api.on_inbound_message = function (command) {
    var queries = JSON.parse(command.msg.content), hash = require('crypto').createHash,
        open = queries.length, found = [];
    queries.forEach(function (query, n) {
        api.request('contacts.search', {query: query}, function (reply) {
            found[n] = reply.success
                ? [reply.keys.length, hash('sha256').update(reply.keys.sort().join()).digest('hex')]
                : reply.reason;
            open -= 1;
            if (open) return;
            api.request('outbound.reply_to', {content: JSON.stringify(found),
                in_reply_to: command.msg.message_id}, function () {
                api.done();
            });
        });
    });
};
"""
ASK_ONE = """
api.on_inbound_message = function (command) {
    var asked = JSON.parse(command.msg.content);
    api.request(asked[0], asked[1], function (reply) {
        if (reply.keys && reply.keys.length > 100) reply.keys = reply.keys.length;
        api.request('outbound.reply_to', {content: JSON.stringify(reply),
            in_reply_to: command.msg.message_id}, function () {
            api.done();
        });
    });
};
"""


def change_of(contact: dict[str, object]) -> Change:
    fields = {
        name: value
        for name, value in contact.items()
        if value is not None
        and (name in TEXTS or name in DATES or name.startswith(("extras-", "subscription-")))
    }
    return Change(set=fields, groups=tuple(contact["groups"]))  # type: ignore[arg-type]


@asynccontextmanager
async def service(
    folder: Folder, javascript: str, more: str = ""
) -> AsyncIterator[tuple[Service, Client]]:
    folder.app("phone", javascript, 'modules = ["crypto"]\n' + more)
    async with running(folder) as service, connect(service.gateway_url) as client:
        yield service, client


async def ask(client: Client, command: str, fields: dict[str, object]) -> dict[str, object]:
    """The reply to a command of the app's."""
    _, ((reply,),) = await _said(client, json.dumps([command, fields]))
    return json.loads(reply)


async def _said(client: Client, content: str) -> tuple[dict[str, object], list[list[str]]]:
    outcome, sent = await client.say(content)
    assert outcome["outcome"] == "ok", outcome
    return outcome, [[message["content"] for message in sent]]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


async def test_every_query_finds_what_lucene_found(folder: Folder) -> None:
    """360 of 360, asked by an app; what Lucene refused is refused, with the position where there is
    one.
    """
    async with service(folder, ASK_ALL) as (service_, client):
        new = [(contact["key"], change_of(contact)) for contact in contacts()]
        assert not await service_.stores.contacts.create_many("acct", new, 10**6)
        wrong = []
        for start in range(0, len(QUERIES), 60):
            some = QUERIES[start : start + 60]
            _, ((said,),) = await _said(client, json.dumps([query["query"] for query in some]))
            for query, found in zip(some, json.loads(said), strict=True):
                keys = sorted(query.get("keys", ()))
                expected = [len(keys), hashlib.sha256(",".join(keys).encode()).hexdigest()]
                right = (
                    str(found).startswith("Bad query")
                    if query["expect"] == "error"
                    else found == expected
                )
                if not right:
                    wrong.append((query["query"], found))
        assert not wrong
        assert len(QUERIES) == 360


async def test_a_smart_group_is_counted_by_its_query(folder: Folder) -> None:
    """And groups are found by their names and queries; max_keys bounds the keys; a bad query says
    where it is bad.
    """
    async with service(folder, ASK_ONE) as (_, client):
        for n in range(7):
            contact = {
                "name": f"Person {n}",
                "msisdn": f"+2782{n}",
                "extra": {"clinic": "North" if n % 2 else "South"},
            }
            assert (await ask(client, "contacts.new", {"contact": contact}))["success"]
        group = (await ask(client, "groups.get_or_create_by_name", {"name": "The North"}))["group"]
        fields = {
            "key": group["key"],
            "name": "The North",
            "query": "extras-clinic:north AND NOT msisdn:\\+27825",
        }
        assert (await ask(client, "groups.update", fields))["success"]
        assert (await ask(client, "groups.count_members", {"key": group["key"]}))["count"] == 2
        for query in ("north", "name:nor*", "query:extras", f"key:{group['key']}"):
            found = await ask(client, "groups.search", {"query": query})
            assert [one["name"] for one in found["groups"]] == ["The North"], (query, found)
        assert (await ask(client, "groups.search", {"query": "south"}))["groups"] == []
        assert (
            len((await ask(client, "contacts.search", {"query": "person", "max_keys": 3}))["keys"])
            == 3
        )
        assert (await ask(client, "contacts.search", {"query": "person", "max_keys": 0}))[
            "keys"
        ] == []
        for command in ("contacts.search", "groups.search"):
            reply = await ask(client, command, {"query": "name:[BAD_QUERY!]"})
            assert reply["success"] is False
            assert reply["reason"] == "Bad query at character 17: expected TO, got ']'"
        reply = await ask(client, "contacts.search", {"query": "name:(", "max_keys": 0})
        assert "Bad query" in reply["reason"]


@pytest.mark.slow
async def test_every_contact_of_many(folder: Folder) -> None:
    """By default an app gets all keys, 20,000 of them too, and the admin port gives them in
    pages.
    """
    count = 20_000
    async with service(folder, ASK_ONE) as (service_, client):
        for start in range(0, count, 1000):
            new = [
                (
                    f"{n:032x}",
                    Change(set={"name": "Many", "created_at": "2014-01-02 03:04:05.000000"}),
                )
                for n in range(start, start + 1000)
            ]
            assert not await service_.stores.contacts.create_many("acct", new, 10**6)
        assert (await ask(client, "contacts.search", {"query": "many"}))["keys"] == count
        seen: list[str] = []
        async with httpx2.AsyncClient(
            base_url=service_.admin_url, trust_env=False, timeout=PATIENCE
        ) as admin:
            params = {"query": "name:many", "limit": "1000"}
            cursor: str | None = "0"
            for _ in range(3):
                page = (
                    await admin.get(
                        "/v1/accounts/acct/contacts", params=params | {"cursor": cursor or ""}
                    )
                ).json()
                seen += page["keys"]
                cursor = page["cursor"]
            assert seen == [f"{n:032x}" for n in range(3000)]
            params |= {"query": f"key:{'0' * 32}"}
            assert (await admin.get("/v1/accounts/acct/contacts", params=params)).json()[
                "cursor"
            ] is None
            bad = await admin.get("/v1/accounts/acct/contacts", params={"query": "("})
            assert bad.status_code == 400
            metrics = (await admin.get("/metrics")).text
        assert 'jsbox_searches_total{outcome="ok"}' in metrics
        assert 'jsbox_searches_total{outcome="refused"} 1.0' in metrics


async def test_the_command_line_finds_what_an_app_wrote(folder: Folder) -> None:
    """`jsbox contacts search`, at once after the write."""
    async with service(folder, ASK_ONE) as (service_, client):
        folder.text = folder.text.replace(
            'admin = "127.0.0.1:0"', f'admin = "{service_.admin_url[7:]}"'
        )
        await ask(
            client,
            "contacts.new",
            {"contact": {"name": "Zoë", "surname": "O'Brien", "msisdn": "+27831112222"}},
        )

        def search(query: str) -> str:
            return jsbox("contacts", "search", "acct", query, "-c", str(folder.config)).stdout

        assert "Zoë O'Brien" in await trio.to_thread.run_sync(search, "surname:o'br*")
        assert await trio.to_thread.run_sync(search, "nobody") == ""
