"""Several servers that share the work on one store."""

from __future__ import annotations

from functools import partial

import httpx2

from ..gateway_client import Client, Frame, connect, inbound
from ..valkey_server import ValkeyServer
from .hosts import Make, direct

# A message "held" waits for the key `go`.
APP = """
    var user = command.msg.from_addr;
    if (command.msg.content === 'held') {
        return (function look() {
            api.request('kv.get', {key: 'go'}, function (found) {
                if (found.value) { return api.done(); }
                require('timers').setTimeout(look, 20);
            });
        })();
    }
    api.request('kv.incr', {key: 'runs ' + user}, function () {
        api.request('outbound.reply_to', {content: 'you said ' + command.msg.content,
            in_reply_to: command.msg.message_id}, function () { api.done(); });
    });"""


async def _again(client: Client, name: str) -> Frame:
    """Send a message again that was accepted; how its run ended."""
    await client.send(inbound(name))
    assert (await client.expect("accepted", message_id=name))["duplicate"]
    return await client.expect("outcome", message_id=name)


async def test_two_servers_share_the_work(shared: ValkeyServer, hosts: Make) -> None:
    make = partial(hosts, mode="shared", app=APP, more='modules = ["timers"]')
    one, two = make("one"), make("two")
    (gateway, admin), (other, _) = one.ready(), two.ready()
    outcomes: list[Frame] = []
    async with connect(gateway) as client, connect(other) as second:
        for n in range(200):
            await (client if n % 2 else second).send(inbound(f"m{n}", f"+{n % 40}"))
        for n in range(200):
            at = client if n % 2 else second
            await at.expect("accepted", message_id=f"m{n}")
            outcomes.append(await at.expect("outcome", message_id=f"m{n}", seconds=20))
            assert outcomes[n]["outcome"] == "ok"
        for n in range(200):
            at = client if n % 2 else second
            reply = await at.expect("outbound")
            assert int(reply["msg"]["in_reply_to"][1:]) % 2 == n % 2
        assert not [f for f in client.frames + second.frames if f["type"] == "outbound"]
        await _told_by_any(client, second, outcomes, shared)
        for has_gateway in (True, False):
            if not has_gateway:
                await client.socket.aclose()
            async with connect(gateway, only_own=True) as phone:
                await _talks(phone, f"has {has_gateway}")
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


async def _talks(phone: Client, name: str) -> None:
    """A tester's phone has its replies, and then the outcomes, whichever server runs what it says;
    nobody else has them.
    """
    for n in range(12):
        await phone.send(inbound(f"{name} {n}", f"+phone{n}"))
        await phone.expect("outcome", message_id=f"{name} {n}", outcome="ok")
        replies = [f for f in phone.frames if f["type"] == "outbound"]
        assert [f["msg"]["in_reply_to"] for f in replies] == [f"{name} {n}"]
        await phone.expect("outbound")


async def _told_by_any(
    client: Client, second: Client, outcomes: list[Frame], shared: ValkeyServer
) -> None:
    """A message that is sent again, whether its run has ended or not, has its outcome from any
    server.
    """
    for n in range(8):
        assert await _again(client, f"m{n}") == await _again(second, f"m{n}") == outcomes[n]
    held = [f"held{n}" for n in range(8)]
    for name in held:
        await client.send(inbound(name, f"+{name}", content="held"))
        await client.expect("accepted", message_id=name, duplicate=False)
        await second.send(inbound(name, f"+{name}", content="held"))
        await second.expect("accepted", message_id=name, duplicate=True)
    with direct(shared) as store:
        store.set("jsbox:{acct}:kv:go", "1")
    for name in held:
        outcome = await client.expect("outcome", message_id=name)
        assert outcome == await second.expect("outcome", message_id=name)
    assert not [f for f in client.frames + second.frames if f["type"] == "outcome"]
