"""Push triggers: who gets one, who does not, and what it says; and whose message an event counts
for.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from resources.contact_fields import new_contact
from resources.stores.identity import Sender
from resources.stores.optouts import OptOut
from supervisor.service import Service

from ..gateway_client import PATIENCE, connect
from ..service import ECHO, REPLY, Folder, eventually, running


async def push(
    service: Service, body: dict[str, Any], app: str = "phone"
) -> tuple[int, dict[str, Any]]:
    async with httpx2.AsyncClient(
        base_url=service.admin_url, trust_env=False, timeout=PATIENCE
    ) as admin:
        answer = await admin.post(f"/v1/apps/{app}/push", json=body)
        return answer.status_code, answer.json()


async def contact(service: Service, key: str, **fields: Any) -> None:
    await service.stores.contacts.create("acct", key, new_contact(fields), 1000)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    text = REPLY % "command.msg.helper_metadata.delivery_class"
    folder.app("phone", text)
    folder.app("chat", text, """config = { config = '{"delivery_class": "gtalk"}' }""")
    return folder


async def test_a_group_gets_each_address_once(folder: Folder) -> None:
    """Static members and those that the query finds, without duplicates, opted out or addressless
    ones.
    """
    async with running(folder) as service, connect(service.gateway_url) as client:
        group, _ = await service.stores.groups.find_or_create("acct", "g", "g1", "2014", 10)
        await service.stores.groups.update("acct", "g1", "g", "name:found")
        await contact(service, "a", msisdn="+271", groups=["g1"])
        await contact(service, "b", msisdn="+272", name="found")
        await contact(service, "c", msisdn="+271", name="found", groups=["g1"])
        await contact(service, "d", msisdn="unknown", gtalk_id="d@x", groups=["g1"])
        await contact(service, "e", msisdn="+275", groups=["g1"])
        await contact(service, "f", msisdn="+276")
        await service.stores.optouts.set("acct", "msisdn", "275", OptOut("m", "2014"), 10)
        assert await push(service, {"group": "g1"}) == (
            200,
            {"queued": 2, "opted_out": 1, "no_address": 1, "already": 0},
        )
        sent = [(await client.expect("outbound"))["msg"] for _ in range(2)]
        assert sorted((m["to_addr"], m["content"], m["session_event"]) for m in sent) == [
            ("+271", "sms", "new"),
            ("+272", "sms", "new"),
        ]
        assert group["key"] == "g1"
        # Pushes are no messages that came in, and what they made the app send counts.
        totals = (await service.stores.statistics.totals([Sender("acct", "phone")]))[0]
        assert (totals.received, totals.sent, totals.outbound_uniques) == (0, 2, 2)


async def test_a_person_is_pushed_to_once_however_the_number_is_spelt(folder: Folder) -> None:
    """In a static group, a smart one and a list; and not at all after an opt-out in any
    spelling.
    """
    folder.text += '[accounts.acct]\ncountry_code = "27"\n'
    numbers = ["27820000001", "+27820000001", "0820000001", "0027820000001"]
    out = ["+27820000002", "0820000002"]
    async with running(folder) as service, connect(service.gateway_url) as client:
        groups = service.stores.groups
        for key in ("listed", "smart", "both"):
            await groups.find_or_create("acct", key, key, "2014", 10)
        await groups.update("acct", "smart", "smart", "name:person")
        await groups.update("acct", "both", "both", "name:person")
        await service.stores.optouts.set("acct", "msisdn", "27820000002", OptOut("m", "2014"), 10)
        await service.stores.optouts.set("acct", "msisdn", "0820000003", OptOut("m", "2014"), 10)
        for n, number in enumerate([*numbers, *out, "+27820000003"]):
            await contact(
                service, f"k{n}", msisdn=number, name="person", groups=["listed", "both"][: n % 3]
            )
            await contact(service, f"l{n}", msisdn=number, groups=["listed"])
        for body in (
            {"group": "listed"},
            {"group": "smart"},
            {"group": "both"},
            {"addrs": [*numbers, *out, "+27820000003"]},
        ):
            status, answer = await push(service, body)
            assert (status, answer) == (
                200,
                {"queued": 1, "opted_out": 2, "no_address": 0, "already": 0},
            ), body
            assert (await client.expect("outbound"))["msg"]["to_addr"] in numbers


async def test_without_a_country_code_a_national_number_is_another(folder: Folder) -> None:
    """Only the plus is left aside, and a Jabber address's device."""
    async with running(folder) as service, connect(service.gateway_url):
        body = {"addrs": ["0820000001", "27820000001", "+27820000001", "+0820000001"]}
        assert (await push(service, body))[1]["queued"] == 2
        body = {"addrs": ["a@x/phone", "a@x", "b@x/desk", "a@x/desk"]}
        assert (await push(service, body, "chat"))[1]["queued"] == 2


async def test_the_class_of_the_app_chooses_the_address(folder: Folder) -> None:
    """As the app's own JSON config says; opt-outs are looked for under that class, whatever the
    device.
    """
    async with running(folder) as service, connect(service.gateway_url, channel="chat") as client:
        await service.stores.groups.find_or_create("acct", "g", "g1", "2014", 10)
        await contact(service, "a", msisdn="+271", groups=["g1"])
        await contact(service, "b", gtalk_id="b@x/phone", groups=["g1"])
        await contact(service, "c", gtalk_id="c@x", groups=["g1"])
        await service.stores.optouts.set("acct", "gtalk", "b@x", OptOut("m", "2014"), 10)
        assert await push(service, {"group": "g1"}, "chat") == (
            200,
            {"queued": 1, "opted_out": 1, "no_address": 1, "already": 0},
        )
        message = (await client.expect("outbound"))["msg"]
        assert (message["to_addr"], message["content"]) == ("c@x", "gtalk")


async def test_addresses_are_checked_and_pushed_once(folder: Folder) -> None:
    """Twice the same address is one push; invalid requests are refused before anything is
    sent.
    """
    async with running(folder) as service, connect(service.gateway_url):
        await service.stores.optouts.set("acct", "msisdn", "+272", OptOut("m", "2014"), 10)
        assert await push(service, {"addrs": ["+271", "272", "+271"]}) == (
            200,
            {"queued": 1, "opted_out": 1, "no_address": 0, "already": 0},
        )
        await service.stores.groups.find_or_create("acct", "bad", "bad", "2014", 10)
        await service.stores.groups.update("acct", "bad", "bad", "name:[")
        for body, status, text in (
            ({"group": "nothing"}, 404, "no group 'nothing'"),
            ({"group": "bad"}, 409, "Bad query at character 7"),
            ({"group": "g", "addrs": []}, 400, "expected"),
            ({"group": 5}, 400, "expected"),
            ({"addrs": ["+271"], "id": "x" * 101}, 400, "id: expected"),
            ({"addrs": ["+271"], "dry_run": 1}, 400, "dry_run: expected"),
            ({"addrs": ["+271"], "dryrun": True}, 400, "there is no key 'dryrun'"),
        ):
            code, answer = await push(service, body)
            assert (code, text in answer["error"]) == (status, True), answer


async def test_a_push_with_an_id_reaches_each_person_once(folder: Folder) -> None:
    """However often it is tried again; a dry run reaches nobody."""
    folder.text += '[accounts.acct]\ncountry_code = "27"\n'
    async with running(folder) as service, connect(service.gateway_url) as client:
        body = {"addrs": ["+27820000001", "+27820000002"], "id": "monday"}
        counts = {"queued": 2, "opted_out": 0, "no_address": 0, "already": 0}
        assert await push(service, body | {"dry_run": True}) == (200, counts)
        assert await push(service, body) == (200, counts)
        again = {"addrs": ["0820000002", "+27820000003"], "id": "monday"}
        assert await push(service, again) == (200, counts | {"queued": 1, "already": 1})
        other = {"addrs": ["+27820000001"], "id": "tuesday"}
        assert (await push(service, other))[1]["queued"] == 1
        sent = [(await client.expect("outbound"))["msg"]["to_addr"][-1] for _ in range(4)]
        assert sorted(sent) == ["1", "1", "2", "3"]


async def test_the_audience_of_a_group_comes_in_pages(folder: Folder) -> None:
    """Of contacts that list it and of those that its query finds; more than a page of each."""
    async with running(folder) as service:
        await service.stores.groups.find_or_create("acct", "g", "g1", "2014", 10)
        await service.stores.groups.update("acct", "g1", "g", "name:found")
        new = [
            (f"k{n}", new_contact({"msisdn": f"+27{n:06}", "name": "found", "groups": groups}))
            for n in range(1100)
            for groups in [["g1"] if n < 550 else []]
        ]
        assert not await service.stores.contacts.create_many("acct", new, 2000)
        none = new_contact({"name": "found"})
        await service.stores.contacts.create("acct", "none", none, 2000)
        addresses, cursor, without = list[str](), "0", 0
        async with httpx2.AsyncClient(
            base_url=service.admin_url, trust_env=False, timeout=PATIENCE
        ) as admin:
            while cursor is not None:
                asked = {"group": "g1", "cursor": cursor}
                page = (await admin.get("/v1/apps/phone/audience", params=asked)).json()
                addresses += [address for address, _ in page["addrs"]]
                without += page["no_address"]
                cursor = page["cursor"]
            missing = await admin.get("/v1/apps/phone/audience", params={"group": "g2"})
        assert (len(addresses), len(set(addresses)), without) == (1100, 1100, 1)
        assert missing.status_code == 404


async def test_an_event_counts_for_the_app_that_sent_the_message(folder: Folder) -> None:
    """Also over a channel that is another app's, or nobody's; one about an unknown message counts
    for nobody.
    """
    folder.app("one", ECHO, 'endpoints = { default = "bulk", other = "shared" }\nevents = "always"')
    folder.app(
        "two",
        (
            "api.request('outbound.send_to', {to_addr: '+1', content: 'x', endpoint: 'other'},"
            " function () { api.done(); });"
        ),
        'endpoints = { default = "two", other = "shared" }\nevents = "always"',
    )
    folder.app("three", ECHO, channel="shared")
    folder.text += "[channels.bulk]\n"
    async with (
        running(folder) as service,
        connect(service.gateway_url, channel="shared") as shared,
        connect(service.gateway_url, channel="two") as two,
        connect(service.gateway_url, channel="bulk") as bulk,
    ):
        await two.say("x")
        sent = (await shared.expect("outbound"))["msg"]["message_id"]

        async def report(client: Any, event_id: str, about: str) -> dict[str, Any]:
            body = {
                "event_id": event_id,
                "event_type": "ack",
                "user_message_id": about,
                "sent_message_id": "s",
            }
            await client.send({"type": "event", "id": event_id, "event": body})
            found: dict[str, Any] = await client.expect_that(
                lambda frame: frame.get("id") == event_id
            )
            return found

        assert (await report(shared, "e1", sent))["duplicate"] is False
        assert (await report(shared, "e1", sent))["duplicate"] is True
        assert (await report(shared, "e2", "f" * 32))["type"] == "accepted"
        assert (await report(bulk, "e3", sent))["code"] == "no_app"
        progress = {
            name: (await service.stores.statistics.progress(Sender("acct", name)))["ack"]
            for name in ("one", "two", "three")
        }
        assert progress == {"one": 0, "two": 1, "three": 0}


async def test_graphite_is_told_of_each_conversation(folder: Folder) -> None:
    """Totals, once a bucket, though the app fires nothing."""
    lines: list[str] = []

    async def take(stream: trio.SocketStream) -> None:
        async for piece in stream:
            lines.extend(piece.decode().splitlines())

    prefix = "go.campaigns.acct.conversations.phone."
    async with trio.open_nursery() as nursery:
        listener = (await nursery.start(partial(trio.serve_tcp, take, 0, host="127.0.0.1")))[0]
        port = listener.socket.getsockname()[1]
        folder.text += f'[defaults.metrics]\ngraphite = "127.0.0.1:{port}"\nbucket = "200ms"\n'
        async with running(folder) as service, connect(service.gateway_url) as client:
            await client.say("x")
            await eventually(
                lambda: any(f"{prefix}messages_sent.avg 1.0" in line for line in lines)
            )
        nursery.cancel_scope.cancel()
    last = {
        line.split()[0].removeprefix(prefix): float(line.split()[1])
        for line in lines
        if line.startswith(prefix)
    }
    assert last == {
        "messages_sent.avg": 1,
        "messages_received.avg": 1,
        "inbound_unique_addresses.avg": 1,
        "outbound_unique_addresses.avg": 1,
    }
