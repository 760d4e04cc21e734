"""A store that goes back in time, as one does at a failover: not all had come to the new master."""

from __future__ import annotations

import msgspec
import pytest
import redis

from resources.stores.lease import Holder
from resources.stores.partitions import Ownership, Part, first_of, host_of, parts_of
from resources.stores.peers import Peers
from resources.stores.redis import Redis
from supervisor.runs.holdings import Holdings

from ...gateway_client import connect, inbound
from ...integration.dead_letters import entry
from ...service import Folder, eventually, running
from .test_odd_values import PATIENCE, folder, run, store, user

__all__ = ["folder", "store"]


async def test_what_it_has_again_is_run_and_what_it_forgot_is_said(
    folder: Folder, store: redis.Redis
) -> None:
    """An entry older than what was read last; who we are, and what we are connected to."""
    async with running(folder) as service, connect(service.gateway_url) as client:
        sharing = service.sharing
        assert sharing is not None
        await run(client, "m1", 1)
        place = store.get("jsbox:{acct}:seen:phone:message:m1").split()[0]
        store.delete("jsbox:{acct}:in:phone:1")
        older = f"{int(place.split(b'-')[0]) - 5000}-0"
        text = msgspec.json.encode(entry("m0", from_addr=user(1)))
        store.xadd("jsbox:{acct}:in:phone:1", {"e": text}, id=older)
        store.client_kill_filter(_type="normal", skipme=True)
        reply = await client.expect("outbound", PATIENCE)
        assert reply["msg"]["in_reply_to"] == "m0"
        await eventually(lambda: store.xlen("jsbox:{acct}:in:phone:1") == 0)
        store.delete("jsbox:hosts", "jsbox:{channel:phone}:takers")
        store.client_kill_filter(_type="normal", skipme=True)
        await eventually(lambda: store.hexists("jsbox:hosts", sharing.host))
        await eventually(lambda: store.hget("jsbox:{channel:phone}:takers", sharing.host) == b"g")
        await run(client, "m2", 2)


TWO_STEPS = """
var Q = require('q');
api.on_inbound_message = function (command) {
    var msg = command.msg;
    if (msg.content === 'go') return api.request('kv.set', {key: 'go', value: 1}, api.done);
    function look() {
        api.request('kv.get', {key: 'go'}, function (reply) {
            if (reply.value) api.done(); else Q.delay(20).then(look);
        });
    }
    api.request('outbound.reply_to', {in_reply_to: msg.message_id, content: 'said'}, look);
};"""


@pytest.mark.parametrize("mode", ["shared", "single"])
async def test_a_reply_that_a_master_took_along_is_posted_again(
    folder: Folder, store: redis.Redis, mode: str
) -> None:
    """The run began before the failover, and ended after it: its entry is struck, with the reply in
    the store, under the same id.
    """
    if mode == "single":
        folder.text = folder.text.replace('mode = "shared"', "").replace("partitions = 4\n", "")
    folder.app("slow", TWO_STEPS, "pool = { max_processes = 2 }")
    async with running(folder) as service, connect(service.gateway_url, channel="slow") as client:
        await client.send(inbound("m1", "+1"))
        said = await client.expect("outbound", PATIENCE)
        for key in store.keys("jsbox:{channel:slow}:had*"):
            store.delete(key)
        reconnects = service.stores.redis.statistics().reconnects
        store.client_kill_filter(_type="normal", skipme=True)
        await eventually(lambda: service.stores.redis.statistics().reconnects > reconnects)
        await client.send(inbound("m2", "+2", content="go"))
        await client.expect("outcome", PATIENCE, message_id="m1", outcome="ok")
        again = await client.expect("outbound", PATIENCE)
        assert again["msg"]["message_id"] == said["msg"]["message_id"]
        await eventually(lambda: not any(map(store.xlen, store.keys("jsbox:{acct}:in:slow*"))))


class Quiet:
    """A line that nothing waits in."""

    def drop_waiting(self, *_: object) -> None:
        raise AssertionError("nothing is to be given back with its runs")


async def test_what_we_are_said_to_own_again_is_given_back(redis: Redis) -> None:
    """Else nobody would: it falls to another, who sees that we live."""
    peers = Peers(redis, Holder(id="two", nonce="b"))
    ownership = Ownership(redis, "two b")
    ours = Holdings(peers, ownership, Quiet(), "two", 8, lambda: None)
    ours.hosts = ["one", "two"]
    await ours.settle([("acct", "phone")])
    theirs = [
        one for one in parts_of("acct", "phone", 8) if first_of(ours.hosts, str(one)) == "one"
    ]
    assert theirs
    assert not set(theirs) & set(ours.all)
    again, other = theirs[:2]
    await redis.execute("MSET", again.owner_key, "5 two b", other.owner_key, "7 two a")
    await ours.settle([("acct", "phone")])
    assert await _owner(redis, again) == ("two", "b")
    ours.is_doubtful = True
    await ours.settle([("acct", "phone")])
    assert await redis.execute("GET", again.owner_key) == b"5"
    assert await _owner(redis, other) == ("two", "a")


async def _owner(redis: Redis, part: Part) -> tuple[str, str]:
    return host_of(await redis.execute("GET", part.owner_key))
