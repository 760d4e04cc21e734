"""A service in trouble, for tests of the console: apps that fail, what nobody takes, and texts that
would play tricks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from unittest.mock import patch

import httpx2 as httpx
import redis

from supervisor.service import Service

from ..gateway_client import Client, connect
from ..hostile.granted import granted_harness
from ..service import Folder, eventually, running
from .dead_letters import admin_of, entry, journal

TRICKS = (
    "<b id=evil>x</b> \u202egnp.exe \u0007 \u0645\u0631\u062d\u0628\u0627\n2026-11-26 ERROR forged"
)
GOOD = """
api.on_inbound_message = function (command) {
  var user = 'users.good.' + command.msg.from_addr;
  api.log_info(%r + ' ' + command.msg.content, function () {
    api.request('kv.set', {key: user, value: {state: {name: 'states:menu'}, lang: 'en',
                                              answers: {name: 'Thabo'}}}, function () {
      api.request('kv.get', {key: user}, function () {
        api.request('outbound.reply_to', {content: 'Welcome\\n1. Yes\\n2. No',
                    in_reply_to: command.msg.message_id}, function () { api.done(); });
      });
    });
  });
};
"""
THROWS = "throw new Error('the database is <i>away</i> \u202e');"
ENDS = "__test_host.process.exit(3);"  # see `granted_harness`
SLOW = (
    "var end = Date.now() + 300; while (Date.now() < end) {}"
    " api.request('outbound.reply_to', {content: 'late', in_reply_to: command.msg.message_id},"
    " function () { api.done(); });"
)
# nobody is connected to its channel
SENDS = (
    "api.request('outbound.send_to_endpoint', {endpoint: 'sms', to_addr: '+2782',"
    " content: 'hello ' + command.msg.content}, function () { api.done(); });"
)
CONTACTS = [
    {
        "msisdn": f"+2782000{number:04}", "name": "Thabo\u202e <b>" if number == 0 else "Lerato",
        "surname": str(number), "extra": {"city": "Durban", "\u0645": "\u0645\u0631"},
    }
    for number in range(60)
]  # fmt: skip


def write_apps(folder: Folder) -> None:
    """The apps of a service in trouble, and one that is well."""
    folder.app("good", GOOD % TRICKS, "log = { kept = 10000 }")
    folder.app("throws", THROWS, "failing = { runs = 3, percent = 20 }")
    folder.app("ends", ENDS, "pool = { trip_after = 3 }")
    folder.app("slow", SLOW)
    folder.app("sends", SENDS, 'endpoints = { sms = "unread" }')
    folder.text += '[channels.unread]\napp = "sends"\ntransport_type = "sms"\n'


async def ask_all(service: Service, channel: str, count: int) -> None:
    """Have an app handle messages, one after the other."""
    async with connect(service.gateway_url, channel) as client:
        for number in range(count):
            await _say(client, number)


async def _say(client: Client, number: int) -> None:
    name = f"m{number}-{id(client):x}"
    msg = {
        "message_id": name, "from_addr": f"+2782{number % 3:07}", "to_addr": "*120#",
        "content": f"hello {number}", "session_event": "new",
    }  # fmt: skip
    await client.send({"type": "inbound", "id": name, "msg": msg})
    await client.expect_that(lambda frame: frame.get("id") == name)
    await client.expect("outcome", message_id=name)


@asynccontextmanager
async def troubled(
    folder: Folder, store: redis.Redis
) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """A service whose apps have failed, tripped, and sent what nobody takes; with dead letters, and
    a config file that would be refused.
    """
    write_apps(folder)
    for name in ("d1", "d2"):
        journal(store, entry(name, app="good"), app="good", begun=3)
    with granted_harness() as harness, patch("supervisor.service.HARNESS", harness):
        async with _running(folder) as found:
            yield found


@asynccontextmanager
async def _running(folder: Folder) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    async with running(folder) as service, admin_of(service) as admin:
        for channel, count in (("good", 70), ("throws", 5), ("slow", 2), ("sends", 3)):
            await ask_all(service, channel, count)
        async with connect(service.gateway_url, "ends") as client:
            for number in range(3):
                await _say(client, number)
        answer = await admin.post("/v1/accounts/acct/contacts", json={"contacts": CONTACTS})
        assert answer.json()["errors"] == {}
        await eventually(lambda: service.outboxes.found["unread"].count == 3)
        yield service, admin
