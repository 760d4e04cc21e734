"""Dead letters: what an operator sees of them and does with them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import msgspec
import pytest
import redis
import trio

from resources.stores import deadletters
from supervisor.service import Service

from ..gateway_client import connect, inbound
from ..programs import jsbox
from ..service import ECHO, Folder, eventually, running
from .dead_letters import admin_of, an_event, entry, journal, listed


async def test_an_event_is_set_aside_too(folder: Folder, store: redis.Redis) -> None:
    """Nobody is answered for one; it can be run again like a message."""
    folder.app(
        "phone",
        (
            "api.on_inbound_event = function (c) { api.log_info('event ' + c.msg.event_id,"
            " api.done); };"
        ),
        'events = "always"\nlimits = { fallback_reply = "sorry" }',
    )
    journal(store, an_event("e1"), begun=3)
    async with (
        running(folder) as service,
        connect(service.gateway_url) as client,
        admin_of(service) as admin,
    ):
        (one,) = await listed(admin)
        assert (one["kind"], one["message_id"]) == ("event", "e1")
        assert (await admin.post(f"/v1/deadletters/{one['id']}/retry")).status_code == 200
        await client.expect("outcome", message_id="e1", outcome="dead_letter")
        await client.expect("outcome", message_id="e1", outcome="ok")
        assert not [frame for frame in client.frames if frame["type"] == "outbound"]


async def test_letters_of_an_app_that_is_gone(folder: Folder, store: redis.Redis) -> None:
    """They are listed, shown and dropped, not retried; when the app is back they can be."""
    folder.app("phone", ECHO)
    whole = folder.text
    journal(store, entry("m1"), entry("m2"), begun=7)
    async with running(folder) as service, admin_of(service) as admin:
        assert [one["message_id"] for one in await listed(admin)] == ["m2", "m1"]
        folder.text = whole.replace("phone", "other").replace("acct", "another")
        (folder.path / "other.js").write_text("api.on_inbound_message = api.done;")
        assert folder.config
        assert (await admin.post("/v1/reload")).json()["ok"]
        second, first = await listed(admin, app="phone")
        for name in ("list", "drop"):
            arguments = (name, first["id"]) if name == "drop" else (name, "--app", "phone")
            arguments += ("-c", str(_at(service, folder)))
            done = await trio.to_thread.run_sync(partial(jsbox, "deadletters", *arguments))
            assert done.returncode == 0, done.stderr
        refused = await admin.post(f"/v1/deadletters/{second['id']}/retry")
        assert refused.status_code == 409
        assert "is not in the config" in refused.json()["error"]
        assert "app phone: dead letters: 1" in (await admin.get("/readyz?verbose")).text
        folder.text = whole
        assert folder.config
        assert (await admin.post("/v1/reload")).json()["ok"]
        async with connect(service.gateway_url) as client:
            assert (await admin.post(f"/v1/deadletters/{second['id']}/retry")).status_code == 200
            assert (await client.expect("outbound"))["msg"]["content"] == "you said m2"
        assert await listed(admin) == []


def _at(service: Service, folder: Folder) -> Path:
    """A config by which a command reaches this server."""
    file = folder.path / "client.toml"
    file.write_text(
        f'version = 1\n[listen]\nadmin = "{service.admin_url.removeprefix("http://")}"\n'
    )
    return file


async def test_the_command_shows_retries_and_drops(folder: Folder, store: redis.Redis) -> None:
    """For people and as JSON; what fails is said, with exit code 1."""
    folder.app("phone", ECHO)
    journal(store, entry("m1"), entry("m2"), entry("m3"), begun=3)
    journal(store, b"\x1b[31mred")
    async with running(folder) as service, connect(service.gateway_url) as client:
        file = _at(service, folder)

        async def command(*arguments: str) -> tuple[int, str, str]:
            done = await trio.to_thread.run_sync(
                lambda: jsbox("deadletters", *arguments, "-c", str(file))
            )
            return done.returncode, done.stdout, done.stderr

        code, out, _ = await command()
        assert (code, out.count("in progress when the server died, 3 times")) == (0, 3)
        code, out, _ = await command("list", "--json")
        broken, third, second, first = json.loads(out)["deadletters"]
        assert [one["message_id"] for one in (broken, third, second, first)] == [
            "",
            "m3",
            "m2",
            "m1",
        ]
        code, out, _ = await command("show", first["id"])
        assert "content: m1" in out
        code, out, _ = await command("show", broken["id"])
        assert (code, "raw: \\x1b[31mred" in out, "\x1b" in out) == (0, True, False)
        code, out, errors = await command("retry", broken["id"])
        assert (code, "cannot be run" in errors) == (1, True)
        code, out, errors = await command("retry", first["id"], "nonsense/../x", "1-1-acct")
        assert (code, out, errors.count("there is no dead letter")) == (1, "1 retried\n", 2)
        assert (await client.expect("outbound"))["msg"]["in_reply_to"] == "m1"
        code, out, _ = await command("drop", second["id"], "--json")
        assert json.loads(out) == {"dropped": [second["id"]], "errors": {}}
        code, out, errors = await command("retry", "--app", "phone", "--json")
        assert json.loads(out)["retried"] == [third["id"]]
        assert (await client.expect("outbound"))["msg"]["in_reply_to"] == "m3"
        assert (await command("drop"))[0] == 2


async def test_a_list_goes_on_at_its_cursor(folder: Folder, store: redis.Redis) -> None:
    """All letters of all apps and accounts once each, newest first, over pages of any size;
    nonsense is refused.
    """
    for name, account in (("phone", "acct"), ("sms", "acct"), ("web", "other")):
        folder.app(name, ECHO, account=account)
    for number in range(30):
        name, account = (("phone", "acct"), ("sms", "acct"), ("web", "other"))[number % 3]
        store.xadd(f"jsbox:{{{account}}}:in:{name}", {"e": f"bad {number}"})
    async with running(folder) as service, admin_of(service) as admin:
        everything = [one["id"] for one in await listed(admin)]
        assert len(everything) == 30
        for limit in ("1", "7", "30"):
            got, cursor = [], None
            while True:
                query = {"limit": limit} | ({"cursor": cursor} if cursor else {})
                page = (await admin.get("/v1/deadletters", params=query)).json()
                got += [one["id"] for one in page["deadletters"]]
                cursor = page["cursor"]
                if cursor is None:
                    break
            assert got == everything
        assert {one["app"] for one in await listed(admin, app="sms")} == {"sms"}
        assert await listed(admin, app="\x00☃") == []
        for query in (
            {"limit": "0"},
            {"limit": "1001"},
            {"limit": "9" * 5000},
            {"limit": "²"},
            {"cursor": "x"},
        ):
            assert (await admin.get("/v1/deadletters", params=query)).status_code == 400
        for name in (
            "0",
            "1-1",
            "99999999999999999999-1-acct",
            "%00",
            "1-1-%C3%A9",
            "x" * 2000,
            "1-1-acct%0a",
        ):
            assert (await admin.get(f"/v1/deadletters/{name}")).status_code == 404
            assert (await admin.delete(f"/v1/deadletters/{name}")).status_code == 404
            assert (await admin.post(f"/v1/deadletters/{name}/retry")).status_code == 404


async def test_the_oldest_make_room_and_the_log_says_so(
    folder: Folder,
    store: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Bounded in number and in bytes for each account; the newest stays, whatever its size."""
    monkeypatch.setattr(deadletters, "LETTERS_MAX", 4)
    monkeypatch.setattr(deadletters, "BYTES_MAX", 1000)
    folder.app("phone", ECHO)
    journal(store, *(entry(f"m{number}") for number in range(2)), begun=3)
    journal(store, *(b"short %d" % number for number in range(5)))
    async with running(folder) as service, admin_of(service) as admin:
        assert [one["size"] for one in await listed(admin)] == [7] * 4
        assert service.dispatcher.box.counts() == {"phone": 4}
        journal(store, b"x" * 5000)
        service.dispatcher.settle_soon()
        await eventually(lambda: store.xlen("jsbox:{acct}:in:phone") == 0)
        assert [one["size"] for one in await listed(admin)] == [5000]
        await eventually(lambda: service.dispatcher.box.counts() == {"phone": 1})
    dropped = [line for line in caplog.messages if "has too many dead letters" in line]
    assert len(dropped) == 7
    assert "message m0 of app phone" in dropped[0]


async def test_what_is_in_progress_at_the_start_of_a_retry_is_not_sent_twice(
    folder: Folder, store: redis.Redis
) -> None:
    """A letter's runs keep the ids of its first place in the journal: a reply that an earlier run
    gave is not given again.
    """
    folder.app("phone", ECHO, 'limits = { fallback_reply = "sorry" }')
    (place,) = journal(store, entry("m1"))
    async with running(folder) as service, connect(service.gateway_url) as client:
        assert (await client.expect("outbound"))["msg"]["content"] == "you said m1"
        await client.expect("outcome", message_id="m1")
    # The same entry at the same place, as after a kill in which its reply was posted; three times
    # over.
    store.xadd("jsbox:{acct}:in:phone", {"e": msgspec.json.encode(entry("last"))})
    store.delete("jsbox:{acct}:in:phone")
    store.xadd("jsbox:{acct}:in:phone", {"e": msgspec.json.encode(entry("m1"))}, id=place)
    store.hset("jsbox:{acct}:begun:phone", place, 3)
    async with (
        running(folder) as service,
        connect(service.gateway_url) as client,
        admin_of(service) as admin,
    ):
        (one,) = await listed(admin)
        assert (await admin.post(f"/v1/deadletters/{one['id']}/retry")).status_code == 200
        await client.expect("outcome", message_id="m1", outcome="dead_letter")
        await client.expect("outcome", message_id="m1", outcome="ok")
        await client.say("next", message_id="m2")
        said = [frame["msg"]["content"] for frame in client.frames if frame["type"] == "outbound"]
        # neither the fallback, since the app has replied, nor its reply once more
        assert said == ["you said next"]
        assert int(store.hget("jsbox:{acct}:stats:phone", "out") or 0) == 2


async def test_a_retry_respects_the_queue(folder: Folder, store: redis.Redis) -> None:
    """No room in line: 409, and the letter stays."""
    app = "require('timers').setTimeout(function () { api.done(); }, 60000);"
    folder.app("phone", app, 'modules = ["timers"]\npool = { queue = 1, max_processes = 1 }')
    journal(store, entry("m1"), begun=3)
    journal(store, entry("m2"), entry("m3"))
    async with running(folder) as service, admin_of(service) as admin:
        (one,) = await listed(admin)
        refused = await admin.post(f"/v1/deadletters/{one['id']}/retry")
        assert (refused.status_code, "pool.queue" in refused.json()["error"]) == (409, True)
        assert [letter["id"] for letter in await listed(admin)] == [one["id"]]


def test_ids_are_parsed_exactly() -> None:
    """An id names an account and a place, whatever dashes the account has; nothing else is one."""
    assert deadletters.parse_id("5-1-a-b.c_d") == ("a-b.c_d", "5-1")
    for text in (
        "",
        "5-1",
        "5-1-",
        "5--a",
        "-1-a",
        "5-1-a/b",
        "5-1-a\n",
        "٥-1-a",
        "18446744073709551616-0-a",
        "5-1-é",
    ):
        assert deadletters.parse_id(text) is None


async def test_its_outcome_is_kept_with_its_id(folder: Folder, store: redis.Redis) -> None:
    """As any other is: the gateway that sends it again is told, also after it was run again."""
    folder.app("phone", ECHO)
    (place,) = journal(store, entry("m1"), begun=3)
    store.set("jsbox:{acct}:seen:phone:message:m1", place, ex=1000)
    async with (
        running(folder) as service,
        connect(service.gateway_url) as client,
        admin_of(service) as admin,
    ):
        await client.expect("outcome", message_id="m1")
        for outcome in ("dead_letter", "ok"):
            await client.send(inbound("m1"))
            await client.expect("accepted", message_id="m1", duplicate=True)
            await client.expect("outcome", message_id="m1", outcome=outcome)
            for one in await listed(admin):
                await admin.post(f"/v1/deadletters/{one['id']}/retry")
                await client.expect("outcome", message_id="m1", outcome="ok")
    assert 0 < store.ttl("jsbox:{acct}:seen:phone:message:m1") <= 1000
