"""Contacts and groups that another program has overwritten: each is named, the rest is shown."""

from __future__ import annotations

import json
from pathlib import Path

from ...gateway_client import connect
from ..cli.operator import operating
from .admin_client import ask

APP = """
    var words = command.msg.content.split(' ');
    api.request(words[0], JSON.parse(words[1]), function (reply) {
        api.request('outbound.reply_to', {content: String(reply.success) + ': ' + reply.reason,
            in_reply_to: command.msg.message_id}, function () { api.done(); });
    });"""
ACCOUNT = "/v1/accounts/acct"
NAMES = ("well", "bytes", "type", "list")


async def test_each_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    """By the admin port, the commands, the search, and to apps."""
    async with operating(tmp_path, app=APP) as jsbox:
        service, redis = jsbox.service, jsbox.service.stores.redis
        contacts = [{"key": f"c-{name}", "name": name, "msisdn": "+27"} for name in NAMES]
        body = json.dumps({"contacts": contacts}).encode()
        assert (await ask(service, "POST", f"{ACCOUNT}/contacts", body))[1]["written"] == 4
        groups = [{"key": f"g-{name}", "name": f"n-{name}"} for name in (*NAMES, "members")]
        body = json.dumps({"groups": groups}).encode()
        assert (await ask(service, "POST", f"{ACCOUNT}/groups", body))[1]["written"] == 5
        for kind in ("contact:c", "group:g"):
            await redis.execute("HSET", f"jsbox:{{acct}}:{kind}-bytes", "name", b"\xff")
            await redis.execute("DEL", f"jsbox:{{acct}}:{kind}-type")
            await redis.execute("SET", f"jsbox:{{acct}}:{kind}-type", "x")
        await redis.execute("HSET", "jsbox:{acct}:contact:c-list", "groups", '{"a": 1}')
        await redis.execute("HDEL", "jsbox:{acct}:group:g-list", "created_at")
        await redis.execute("SET", "jsbox:{acct}:members:g-members", "x")

        for name in NAMES[1:]:
            code, body = await ask(service, "GET", f"{ACCOUNT}/contacts/c-{name}")
            said = f"contact 'c-{name}' of account acct cannot be read: "
            assert (code, body["error"].startswith(said)) == (409, True), body
        _, found = await ask(service, "GET", f"{ACCOUNT}/contacts")
        assert (found["keys"], set(found["unreadable"])) == (
            ["c-well"], {f"c-{name}" for name in NAMES[1:]},
        )  # fmt: skip
        _, found = await ask(service, "GET", f"{ACCOUNT}/contacts?query=msisdn:*")
        assert found["keys"] == ["c-well"]
        _, found = await ask(service, "GET", f"{ACCOUNT}/groups")
        assert [one["key"] for one in found["groups"]] == ["g-well"]
        lost = found["unreadable"]
        assert set(lost) == {"g-bytes", "g-type", "g-list", "g-members"}
        assert (
            lost["g-list"] == "group 'g-list' of account acct cannot be read: it has no created_at"
        )
        assert "members of group 'g-members'" in lost["g-members"]
        assert "WRONGTYPE" in lost["g-type"]

        for what, most in (("contacts", 1), ("groups", 1)):
            export = await jsbox(what, "export", "acct")
            assert export.exit_code == 1
            assert len(export.stdout.splitlines()) == most
            assert "'c-type' of" in export.stderr or "'g-type' of" in export.stderr
            assert "the export is not complete: " in export.stderr

        async with connect(service.gateway_url) as client:
            for command, given, key in (
                ("contacts.get_by_key", {"key": "c-bytes"}, "contact 'c-bytes'"),
                ("groups.get", {"key": "g-type"}, "group 'g-type'"),
                ("groups.get_by_name", {"name": "n-type"}, "group 'n-type'"),
            ):
                text = f"{command} {json.dumps(given, separators=(',', ':'))}"
                _, (reply,) = await client.say(text)
                said = f"false: {key} of account acct cannot be read: "
                assert reply["content"].startswith(said)
