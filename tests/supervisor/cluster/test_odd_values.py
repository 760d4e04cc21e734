"""Servers that share the work on a store in which somebody has written what no server would, and
errors of our own: neither ends the service, or keeps it from anything but what it befell.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
import trio

from resources import fence
from resources.stores.journal import Entry, Journal
from resources.stores.lease import LeaseLost
from resources.stores.partitions import partition_of
from resources.stores.peers import channel_of
from supervisor.errors import CannotStart

from ...gateway_client import Client, connect, inbound
from ...integration.dead_letters import entry
from ...service import ECHO, Folder, eventually, running
from ...valkey_server import valkey_server

COUNT = 4
PATIENCE = 30.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[redis.Redis]:
    with valkey_server(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path, store: redis.Redis) -> Folder:
    """Two apps of two accounts, each with a channel."""
    found = Folder(tmp_path)
    url = f"unix://{store.connection_pool.connection_kwargs['path']}"
    found.text += f'[redis]\nurl = "{url}"\n[cluster]\nmode = "shared"\nlease = "2s"\n'
    found.text += f"partitions = {COUNT}\n"
    found.app("phone", ECHO)
    found.app("other", ECHO, account="neighbour")
    return found


def user(part: int, channel: str = "phone") -> str:
    """A user whose messages are in this partition."""
    names = (f"+{number}" for number in range(1000))
    made = (Entry("message", "acct", channel, channel, {"from_addr": name}) for name in names)
    return next(
        each.payload["from_addr"] for each in made if partition_of(each, COUNT) == str(part)
    )


async def run(client: Client, name: str, part: int, channel: str = "phone") -> None:
    """Send a message of a partition; it has its reply and its outcome."""
    await client.send(inbound(name, user(part, channel)))
    await client.expect("accepted", PATIENCE, message_id=name)
    await client.expect("outcome", PATIENCE, message_id=name, outcome="ok")
    reply = await client.expect("outbound", PATIENCE)
    assert reply["msg"]["in_reply_to"] == name


def spoil(store: redis.Redis) -> None:
    """Whatever concerns partition 0 of phone, other servers, the dead letters and one channel."""
    deep = "[" * 5000
    record = {"id": "deadhost", "process": "p", "name": "\x1b[31m"}
    store.hset("jsbox:hosts", mapping={
        b"\xff\xfe": "x", "x y}": "{}", "deadhost": json.dumps(record), "deep": deep,
        "wrong": json.dumps(record), "": "", "number": "7",
    })  # fmt: skip
    store.lpush("jsbox:host:wrong", "x")
    store.set("jsbox:host:number", deep)
    owner = "jsbox:{acct}:owner:phone"
    store.lpush(f"{owner}:0", "x")
    store.mset({f"{owner}:1": "abc", f"{owner}:2": "5 \xff p", f"{owner}:3": "7 deadhost p"})
    store.hset("jsbox:{channel:phone}:takers", mapping={b"\xff": "g", "deadhost": "g", "": "o"})
    store.set("jsbox:{channel:other}:epoch", "x")
    store.set("jsbox:deadletters", "x")
    store.zadd("jsbox:{metrics}:due", {b"\xff": 1, "jsbox:{metrics}:1:1:1:x": 1})
    store.set("jsbox:{metrics}:1:1:1:x", "x")


async def test_a_spoiled_store(folder: Folder, store: redis.Redis) -> None:
    """A start and a take-over pass over what is spoiled, and take it once it is repaired."""
    spoil(store)
    tally = fence.tally.total()
    async with running(folder) as service, connect(service.gateway_url) as client:
        for part in range(1, COUNT):
            await run(client, f"m{part}", part)
        await client.send(inbound("m0", user(0)))
        refused = await client.expect("rejected", PATIENCE, id="m0")
        assert refused["code"] == "unavailable"
        sharing = service.sharing
        assert sharing is not None
        for text in ("{", "[" * 5000, '["out","phone","x"]', '["ended",1]', '["out","no",5]', "7"):
            store.publish(channel_of(sharing.host), text)
        store.delete("jsbox:{acct}:owner:phone:0")
        await run(client, "m0", 0)
        await eventually(lambda: store.hget("jsbox:hosts", "deadhost") is None)
        assert set(sharing.alive) == {sharing.host}
    assert fence.tally.total() == tally


@pytest.mark.slow
async def test_a_partition_that_cannot_be_read(folder: Folder, store: redis.Redis) -> None:
    """Others are read meanwhile, and it is once it is repaired. The same with an entry that cannot
    be set aside.
    """
    stream = "jsbox:{acct}:in:phone"
    store.set(f"{stream}:0", "x")
    store.xadd(f"{stream}:1", {"e": "no entry"})
    store.xadd(f"{stream}:1", {"e": msgspec.json.encode(entry("m1", from_addr=user(1)))})
    store.set("jsbox:{acct}:dead", "x")
    async with running(folder) as service, connect(service.gateway_url) as client:
        reply = await client.expect("outbound", PATIENCE)  # of what comes after that entry
        assert reply["msg"]["in_reply_to"] == "m1"
        await run(client, "m2", 2)
        async with connect(service.gateway_url, "other") as neighbour:
            await run(neighbour, "n0", 0, "other")
        assert store.xlen(f"{stream}:1") == 1
        store.delete("jsbox:{acct}:dead", f"{stream}:0")
        await run(client, "m0", 0)
        await eventually(lambda: store.xlen("jsbox:{acct}:dead") == 1)
        assert service.dispatcher.box.counts() == {"phone": 1}


async def test_the_end_of_a_run_that_cannot_be_recorded(
    folder: Folder, store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For an error of ours: it is recorded at another try; if not, it is told, and others go on."""
    real, calls = Journal.end, list[str]()

    async def fails(self: Journal, one: Entry, *args: Any) -> bool:
        calls.append(one.id)
        if one.id == "never" or (one.id == "once" and calls.count("once") == 1):
            raise RuntimeError("a bug")
        return await real(self, one, *args)

    monkeypatch.setattr(Journal, "end", fails)
    async with running(folder) as service, connect(service.gateway_url) as client:
        for name in ("once", "never", "good"):
            await run(client, name, 1)
        assert (calls.count("once"), calls.count("good")) == (2, 1)
        assert [raw for _, raw in store.xrange("jsbox:{acct}:in:phone:1") if b"never" in raw[b"e"]]
        assert store.xlen("jsbox:{acct}:in:phone:1") == 1
        assert not service.dispatcher._known
        assert not service.dispatcher._ending


@pytest.mark.slow
async def test_a_server_that_divides_the_journals_in_another_way(
    folder: Folder, store: redis.Redis
) -> None:
    """It does not start; one that runs when the store is emptied does not go on beside it."""
    store.set("jsbox:partitions", "7\x1b")
    with pytest.raises(BaseExceptionGroup) as caught:
        async with running(folder):
            pass
    (error,) = fence.leaves(caught.value)
    assert isinstance(error, CannotStart)
    assert r"journals of 7\x1b partitions, not of 4" in str(error)
    store.delete("jsbox:partitions")
    async with running(folder) as service, connect(service.gateway_url) as client:
        await run(client, "m1", 1)
        store.delete("jsbox:partitions")
        await eventually(lambda: store.get("jsbox:partitions") == b"4")
        store.lpush("jsbox:{acct}:seen:phone:message:m2", "x")
        await client.send(inbound("m2", user(2)))
        await client.expect("rejected", PATIENCE, id="m2", code="unavailable")
    with pytest.raises(BaseExceptionGroup) as caught:
        async with running(folder):
            store.set("jsbox:partitions", "8")
            await trio.sleep_forever()
    (error,) = fence.leaves(caught.value)
    assert isinstance(error, LeaseLost)
    assert "journals of 8 partitions now, not of 4" in str(error)
