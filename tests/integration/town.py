"""A service whose store is a proxy that fails, a client of its channel, and what both have
to outlive.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
import trio
from attrs import define, field

from resources import fence
from resources.stores import reconnecting
from resources.stores import redis as client_module
from resources.stores.link import NodeLink
from supervisor.service import Service

from ..gateway_client import Client, connect
from ..service import Folder, running
from ..store_faults import REFUSALS, Act, refuse
from ..store_proxy import StoreProxy

SECONDS = 30.0  # that anything here may take on a busy machine
# Uses the store in every way that an app can, and says how each went.
APP = """
api.on_inbound_message = function (command) {
    var told = [];
    var steps = [
        ['kv.incr', {key: 'n', amount: 1}], ['kv.set', {key: 'k:' + command.msg.from_addr,
            value: {a: 1}, seconds: 60}],
        ['kv.get', {key: 'k:' + command.msg.from_addr}], ['log.info', {msg: 'a line'}],
        ['contacts.get_or_create', {delivery_class: 'sms', addr: command.msg.from_addr}],
        ['contacts.search', {query: 'msisdn:*'}], ['groups.list', {}], ['optout.status',
            {address_type: 'msisdn',
        address_value: command.msg.from_addr}], ['messagestore.progress_status', {}],
        ['metrics.fire', {metric: 'm', value: 1, agg: 'sum'}]];
    function next() {
        if (!steps.length) {
            var content = 'you said ' + command.msg.content + ': ' + told.join(' ');
            return api.request('outbound.reply_to', {content: content,
                in_reply_to: command.msg.message_id}, function () {
                api.done();
            });
        }
        var step = steps.shift();
        api.request(step[0], step[1], function (reply) {
            told.push(step[0] + (reply.success ? ' yes' : ' no (' + reply.reason + ')'));
            next();
        });
    }
    next();
};
api.on_inbound_event = function () { api.done(); };
"""


@define
class Town:
    """The service, its store and a client of its channel."""

    service: Service
    proxy: StoreProxy
    client: Client
    http: httpx2.AsyncClient
    accepted: list[str] = field(factory=list)  # message ids, of all faults

    async def send(
        self, message_id: str | None = None, user: int = 0
    ) -> tuple[str, dict[str, Any]]:
        """One message, and what the gateway answers it with."""
        message_id = message_id or uuid4().hex
        msg = {
            "message_id": message_id,
            "from_addr": f"+2783000{user:04}",
            "to_addr": "8181",
            "content": "hello",
        }
        await self.client.send(
            {"type": "inbound", "id": message_id, "msg": msg | {"session_event": "new"}}
        )
        answer = await self.client.expect_that(lambda frame: frame.get("id") == message_id, SECONDS)
        if answer["type"] == "accepted":
            self.accepted.append(message_id)
        else:
            assert answer["code"] == "unavailable", (answer["code"], answer["detail"])
            assert answer["retry_after"] > 0
        return message_id, answer

    async def send_until_accepted(self, message_id: str | None = None) -> str:
        """As a gateway does: again, with the same id, after `retry_after`."""
        with trio.fail_after(SECONDS):
            while True:
                message_id, answer = await self.send(message_id)
                if answer["type"] == "accepted":
                    return message_id
                await trio.sleep(min(answer["retry_after"], 0.1))

    async def reply_to(self, message_id: str) -> dict[str, Any]:
        """Its reply, whenever it comes or came."""
        frame = await self.client.expect_that(
            lambda frame: frame["type"] == "outbound" and frame["msg"]["in_reply_to"] == message_id,
            SECONDS,
        )
        return dict(frame["msg"])

    async def says(self) -> str:
        """What /readyz says."""
        return (await self.http.get("/readyz")).text

    async def is_well(self) -> None:
        """All is as if nothing had been: ready, everything accepted has ended and is out, and
        before long a new message is answered whole.
        """
        with trio.fail_after(SECONDS):
            while (await self.http.get("/readyz")).status_code != 200:
                await trio.sleep(0.05)
            # On a busy machine the store may be late once more.
            while " no " in (await self.reply_to(await self.send_until_accepted()))["content"]:
                await trio.sleep(0.05)
            await self.nothing_left()
        metrics = (await self.http.get("/metrics")).text
        assert "jsbox_store_up 1.0" in metrics

    async def nothing_left(self) -> None:
        redis = self.service.stores.redis
        while True:
            left = (
                await redis.execute("XLEN", "jsbox:{acct}:in:app"),
                await redis.execute("XLEN", "jsbox:{channel:app}:out"),
            )
            if left == (0, 0):
                return
            await trio.sleep(0.02)


@asynccontextmanager
async def town(
    proxy: StoreProxy, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Town]:
    """A service whose store is the proxy, and which gives a server that hangs less time than
    usual.
    """
    monkeypatch.setattr(client_module, "link_to", lambda url: NodeLink(url, 1.0))
    monkeypatch.setattr(client_module, "TICK", 0.1)
    monkeypatch.setattr(client_module, "PATIENCE", 1.0)
    monkeypatch.setattr(reconnecting, "AGAIN", (0.1, 0.5))
    made = Folder(folder)
    made.text += (
        f'[redis]\nurl = "{proxy.url}"\n[gateway]\nack_timeout ='
        f' "1s"\n[defaults.metrics]\nbucket ='
        f' "1s"\n[accounts.acct]\ncan_manage_optouts = true\n'
    )
    made.app("app", APP, 'record = true\nevents = "always"')
    async with running(made) as service, connect(service.gateway_url, channel="app") as client:
        async with httpx2.AsyncClient(base_url=service.admin_url, timeout=SECONDS) as http:
            found = Town(service, proxy, client, http)
            await found.is_well()
            yield found


async def meets_refusal(found: Town, code: str, *names: str) -> None:
    """While the store refuses (all, or these commands): whatever is asked of the service has an
    answer; then it is cured.
    """
    first = await found.send_until_accepted()  # in progress when it begins
    rule = found.proxy.fault(refuse(code), *names)
    second, answer = await found.send()
    if not names:
        assert answer["type"] == "rejected", answer
        said = await found.says()
        assert said.startswith("not ready:"), said
        assert REFUSALS[code].split()[0] in said, said
        assert "jsbox_store_up 0.0" in (await found.http.get("/metrics")).text
    for path in (
        "/v1/apps",
        "/v1/apps/app/logs",
        "/v1/accounts/acct/contacts",
        "/v1/sandboxes",
        "/v1/traces",
    ):
        assert (await found.http.get(path)).status_code in (200, 503), path
    pushed = await found.http.post("/v1/apps/app/push", json={"addrs": ["+27831234567"]})
    assert pushed.status_code in (200, 202, 503), pushed.text
    event = {
        "event_type": "ack",
        "user_message_id": "x",
        "sent_message_id": "y",
        "event_id": uuid4().hex,
    }
    await found.client.send({"type": "event", "id": event["event_id"], "event": event})
    await found.client.expect_that(lambda frame: frame.get("id") == event["event_id"], SECONDS)
    rule.lift()
    found.proxy.cure()
    await found.client.expect("outcome", SECONDS, message_id=first)
    await found.send_until_accepted(second)
    if second not in found.accepted[:-1]:
        await found.client.expect("outcome", SECONDS, message_id=second)


async def meets(found: Town, act: Act, *names: str, times: int | None = None) -> None:
    """As a cut or garbage: some messages while it lasts, accepted or not; then it is cured."""
    rule = found.proxy.fault(act, *names, times=times)
    sent = [(await found.send())[0] for _ in range(2)]
    await found.says()
    rule.lift()
    found.proxy.cure()
    for message_id in sent:
        await found.send_until_accepted(message_id)
        await found.client.expect("outcome", SECONDS, message_id=message_id)


async def after_all(found: Town, before: dict[str, int]) -> None:
    await found.is_well()
    more = {
        where: count - before.get(where, 0)
        for where, count in fence.tally.items()
        if count != before.get(where, 0)
    }
    assert not more, "an error that somebody should have expected"
