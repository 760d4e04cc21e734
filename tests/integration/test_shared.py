"""Several servers that share the work on one store."""

from __future__ import annotations

from functools import partial

import httpx2

from ..gateway_client import connect, inbound
from ..valkey_server import ValkeyServer
from .hosts import Make, direct

APP = """
    var user = command.msg.from_addr;
    api.request('kv.incr', {key: 'runs ' + user}, function () {
        api.request('outbound.reply_to', {content: 'you said ' + command.msg.content,
            in_reply_to: command.msg.message_id}, function () { api.done(); });
    });"""


async def test_two_servers_share_the_work(shared: ValkeyServer, hosts: Make) -> None:
    make = partial(hosts, mode="shared", app=APP)
    one, two = make("one"), make("two")
    (gateway, admin), (other, _) = one.ready(), two.ready()
    async with connect(gateway) as client, connect(other) as second:
        for n in range(200):
            await (client if n % 2 else second).send(inbound(f"m{n}", f"+{n % 40}"))
        for n in range(200):
            at = client if n % 2 else second
            await at.expect("accepted", message_id=f"m{n}")
            outcome = await at.expect("outcome", message_id=f"m{n}", seconds=20)
            assert outcome["outcome"] == "ok"
        for n in range(200):
            at = client if n % 2 else second
            reply = await at.expect("outbound")
            assert int(reply["msg"]["in_reply_to"][1:]) % 2 == n % 2
        assert not [f for f in client.frames + second.frames if f["type"] == "outbound"]
    with direct(shared) as store:
        assert {store.get(f"jsbox:{{acct}}:kv:runs +{n}") for n in range(40)} == {b"5"}
        owners = {store.get(f"jsbox:{{acct}}:owner:phone:{n}").split()[1] for n in range(16)}
        assert len(owners) == 2
    found = httpx2.get(f"{admin}/v1/hosts", trust_env=False).json()["hosts"]
    assert sorted(each["is_this"] for each in found) == [False, True]
    assert {each["state"] for each in found} == {"serving"}
    assert len({each["config"] for each in found}) == 2  # the apps' files have other paths
    ready = httpx2.get(f"{admin}/readyz", trust_env=False)
    assert ready.status_code == 200
    assert "servers run another config" in ready.text
