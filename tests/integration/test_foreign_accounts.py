"""Nothing of one account can be read, changed or counted by the apps of another, whatever they put
into whatever command.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from resources.contact_fields import new_contact
from resources.stores.keyspace import Quota
from resources.stores.optouts import OptOut
from supervisor.service import Service

from ..gateway_client import Client, connect
from ..service import ECHO, REPLY, Folder, running

DRIVER = """
var asked = JSON.parse(command.msg.content), answers = [];
function next() {
    if (answers.length === asked.length) { %s return; }
    var one = asked[answers.length];
    api.request(one[0], one[1], function (reply) { answers.push(reply); next(); });
}
next();
""" % (REPLY % "JSON.stringify(answers)")
SECRET = "hidden7f3a"  # in every value of the victim's; never in what the attacker sends


@define
class Attack:
    service: Service
    client: Client
    names: dict[str, str]

    async def ask(self, command: str, fields: dict[str, Any]) -> dict[str, Any]:
        return (await self.ask_all([(command, fields)]))[0]

    async def ask_all(self, asked: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
        """Ask for one after the other in one run; return the answers in their order."""
        outcome, replies = await self.client.say(json.dumps(asked), "new")
        assert outcome["outcome"] == "ok", outcome
        answers: list[dict[str, Any]] = json.loads(replies[-1]["content"])
        assert len(answers) == len(asked)
        return answers


@pytest.fixture
async def attack(tmp_path: Path) -> AsyncIterator[Attack]:
    """A victim with one of everything, whose keys the attacker has got to know."""
    folder = Folder(tmp_path)
    folder.text += (
        "[accounts.victim]\ncan_manage_optouts ="
        " true\n[accounts.attacker]\ncan_manage_optouts = true\n"
    )
    folder.app(
        "prey",
        ECHO,
        'endpoints = { default = "prey", "pool:tag" = "prey" }\nconfig = { key = "'
        + SECRET
        + '" }',
        account="victim",
    )
    folder.app("hunter", DRIVER, account="attacker")
    async with running(folder) as service, connect(service.gateway_url, channel="hunter") as client:
        async with connect(service.gateway_url, channel="prey") as prey:
            await prey.say("hello", from_addr="+27999999999")
        stores = service.stores
        fields = {
            "name": SECRET,
            "msisdn": "+27999999999",
            "groups": ["g-victim"],
            "extra": {"pin": SECRET},
        }
        await stores.contacts.create("victim", "c-victim", new_contact(fields), 10)
        await stores.groups.find_or_create(
            "victim", "their group", "g-victim", f"2014 {SECRET}", 10
        )
        await stores.groups.find_or_create("victim", SECRET, "g-secret", "2014", 10)
        await stores.optouts.set("victim", "msisdn", "+27999999999", OptOut(SECRET, "2014"), 10)
        await service_kv(service, "k-victim", json.dumps(SECRET).encode())
        yield Attack(service, client, {})


async def service_kv(service: Service, key: str, value: bytes) -> None:
    from resources.stores.keyspace import Keyspace

    await Keyspace(service.stores.redis).set("victim", key, value, None, Quota(10, 10))


async def everything_of_the_victim(service: Service) -> dict[bytes, bytes]:
    redis = service.stores.redis
    found = [
        *await redis.execute("KEYS", "jsbox:{victim}:*"),
        *await redis.execute("KEYS", "jsbox:{channel:prey}:*"),
    ]
    return {key: await redis.execute("DUMP", key) for key in sorted(found)}


FOREIGN = [
    "c-victim",
    "g-victim",
    "g-secret",
    "k-victim",
    "prey",
    "victim",
    "+27999999999",
    "their group",
    "pool",
    "tag",
    "jsbox:{victim}:kv:k-victim",
    "{victim}:k-victim",
    "../victim",
    "}:{victim}:kv:k-victim",
    "victim:contact:c-victim",
    "contact:c-victim",
    "*:*",
    "user_account:victim",
    "key:c-victim",
    "groups:g-victim",
    "name:*",
]
NAMES = (
    "key",
    "name",
    "query",
    "conversation_key",
    "addr",
    "address_value",
    "endpoint",
    "metric",
    "store",
    "tag",
    "to_addr",
)


COMMANDS = """
    config.get log.info metrics.fire http.get
    kv.get kv.set kv.incr kv.delete
    outbound.reply_to outbound.reply_to_group
    outbound.send_to outbound.send_to_endpoint outbound.send_to_tag
    contacts.get contacts.get_by_key contacts.get_or_create
    contacts.new contacts.save contacts.update contacts.search
    groups.get groups.get_by_name groups.get_or_create_by_name
    groups.update groups.count_members groups.list groups.search
    messagestore.progress_status messagestore.count_replies messagestore.count_sent_messages
    messagestore.count_inbound_uniques messagestore.count_outbound_uniques
    messagestore.inbound_throughput messagestore.outbound_throughput
    optout.status optout.optout optout.count optout.cancel_optout
"""


def attempts(value: str) -> list[tuple[str, dict[str, Any]]]:
    """Every command with a foreign value in every field that takes one."""
    fields: dict[str, Any] = dict.fromkeys(NAMES, value) | {
        "delivery_class": "sms",
        "address_type": "msisdn",
        "message_id": "m",
        "tagpool": value,
        "content": "x",
        "value": 1,
        "agg": "sum",
        "msg": "x",
        "in_reply_to": value,
        "fields": {"name": "stolen", "groups": [value]},
        "amount": 1,
        "contact": {"key": value, "name": "stolen", "user_account": "victim", "groups": [value]},
        "user_account": "victim",
        "account": "victim",
        "url": "http://127.0.0.1:1/",
    }
    strings = {**fields, "fields": {"name": "stolen"}}
    tried = [(command, fields) for command in COMMANDS.split()]
    return [*tried, ("contacts.update_extras", strings), ("contacts.update_subscriptions", strings)]


def test_every_command_is_tried() -> None:
    """The list above is that of the resources; of log and http one stands for all."""
    from .test_docs import RESOURCES

    known = {name for resource in RESOURCES for name in resource.COMMANDS}
    alike = {name for name in known if name.startswith(("log.", "http."))} - {
        "log.info",
        "http.get",
    }
    assert {command for command, _ in attempts("x")} == known - alike


async def test_no_command_reaches_another_account(attack: Attack) -> None:
    """With the victim's keys, names, addresses and queries in every field: no secret comes back,
    and nothing of it changes.
    """
    before = await everything_of_the_victim(attack.service)
    assert len(before) > 8
    for value in FOREIGN:
        asked = list(attempts(value))
        for (command, _), answer in zip(asked, await attack.ask_all(asked), strict=True):
            assert SECRET not in json.dumps(answer), (command, value, answer)
    after = await everything_of_the_victim(attack.service)
    assert after.keys() == before.keys()
    assert [key for key, text in before.items() if after[key] != text] == []


async def test_nothing_of_another_account_is_counted_or_found(attack: Attack) -> None:
    """An account that has nothing has nothing, though another has."""
    ask = attack.ask
    assert (await ask("groups.list", {}))["groups"] == []
    assert (await ask("contacts.search", {"query": "*:*"}))["keys"] == []
    assert (await ask("groups.search", {"query": "*:*"}))["groups"] == []
    assert (await ask("optout.count", {}))["count"] == 0
    address = {"address_type": "msisdn", "address_value": "+27999999999"}
    assert (await ask("optout.status", address))["opted_out"] is False
    assert (await ask("kv.get", {"key": "k-victim"}))["value"] is None
    assert (await ask("kv.delete", {"key": "k-victim"}))["existed"] is False
    assert (await ask("config.get", {"key": "key"}))["value"] is None
    assert (await ask("groups.count_members", {"key": "g-victim"}))["reason"] == "Group not found"
    assert (await ask("contacts.get", {"addr": "+27999999999", "delivery_class": "sms"}))[
        "success"
    ] is False
    for command in (
        "progress_status",
        "count_replies",
        "count_inbound_uniques",
        "inbound_throughput",
    ):
        reply = await ask(f"messagestore.{command}", {"conversation_key": "prey"})
        assert reply["reason"] == "Invalid conversation_key"


async def test_a_contact_may_name_a_foreign_group_and_is_not_in_it(attack: Attack) -> None:
    """Keys of groups are not checked, and mean groups of one's own account only."""
    made = await attack.ask("contacts.new", {"contact": {"groups": ["g-victim"]}})
    assert made["contact"]["groups"] == ["g-victim"]
    assert await attack.service.stores.contacts.members("victim", "g-victim") == ["c-victim"]
