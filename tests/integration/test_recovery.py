"""What stands in the journals at a start, and a store that refuses or breaks off: all of it is run,
once, when the store is well.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
import redis
import trio

from resources.messages import complete_message
from resources.stores.journal import Entry
from supervisor.runs import recovery
from supervisor.service import Service

from ..gateway_client import Client, connect
from ..service import ECHO, Folder, eventually, running
from ..store_faults import cut, refuse
from ..store_proxy import StoreProxy, store_proxy
from ..valkey_server import valkey_server

JOURNAL = "jsbox:{acct}:in:phone"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def proxy(folder: Folder) -> Iterator[StoreProxy]:
    with valkey_server(folder.path) as server, store_proxy(server.url) as proxy:
        folder.text += f'[redis]\nurl = "{proxy.url}"\n'
        yield proxy


@pytest.fixture
def store(proxy: StoreProxy) -> Iterator[redis.Redis]:
    """The store itself, past the proxy."""
    with redis.Redis.from_url(proxy.upstream) as client:
        yield client


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "START_PATIENCE", 0.5)
    monkeypatch.setattr(recovery, "RETRY", (0.05, 0.2))


def entry(name: str, app: str = "phone") -> bytes:
    msg = {
        "message_id": name,
        "from_addr": "+1",
        "to_addr": "1",
        "content": name,
        "session_event": "new",
    }
    payload = complete_message(msg, transport_name=app, transport_type="ussd", endpoint="default")
    return msgspec.json.encode(Entry("message", "acct", app, app, payload))


def add(store: redis.Redis, text: bytes, app: str = "phone", begun: int = 0) -> None:
    place = store.xadd(f"jsbox:{{acct}}:in:{app}", {"e": text})
    if begun:
        store.hset(f"jsbox:{{acct}}:begun:{app}", place, begun)


def admin_of(service: Service) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=service.admin_url, trust_env=False, timeout=30)


async def send_until_accepted(client: Client, name: str) -> None:
    """As a gateway does when it hears that the store is away."""
    msg = {"message_id": name, "from_addr": f"+{name}", "content": name, "session_event": "new"}
    while True:
        await client.send({"type": "inbound", "id": name, "msg": msg})
        answer = await client.expect_that(lambda frame: frame.get("id") == name)
        if answer["type"] == "accepted":
            return
        assert answer["code"] == "unavailable"
        await trio.sleep(0.01)


@pytest.mark.parametrize(
    "code", ["READONLY", "OOM", "MISCONF", "NOREPLICAS", "NOPERM", "BUSY", "CLUSTERDOWN"]
)
async def test_refusals_are_tried_again_until_they_end(
    folder: Folder, proxy: StoreProxy, store: redis.Redis, code: str
) -> None:
    """Strikes, counts and dead letters that the store refuses keep nothing from being run, and are
    done when it is well.
    """
    folder.app("phone", ECHO, 'limits = { fallback_reply = "sorry" }')
    add(store, entry("before"))
    add(store, b"unreadable")
    add(store, entry("poison"), begun=3)
    add(store, entry("after"))
    rule = proxy.fault(
        refuse(code), "XDEL", "HDEL", "HINCRBY", "deadletter_put", "SADD", "SMEMBERS"
    )
    async with (
        running(folder) as service,
        connect(service.gateway_url) as client,
        admin_of(service) as admin,
    ):
        got = sorted([(await client.expect("outbound"))["msg"]["content"] for _ in range(3)])
        assert got == ["sorry", "you said after", "you said before"]
        outcome, _ = await client.say("new", "new", message_id="m1")
        assert outcome["outcome"] == "ok"
        await eventually(lambda: rule.hits > 30, 30)  # some rounds
        assert store.xlen(JOURNAL) == 5
        proxy.cure()
        await eventually(
            lambda: store.xlen(JOURNAL) == 0 and not service.dispatcher.recovery._owed, 30
        )
        letters = (await admin.get("/v1/deadletters")).json()["deadletters"]
        assert {one["message_id"] for one in letters} == {"poison", ""}
        assert store.hget("jsbox:{acct}:stats:phone", "out") == b"4"
        assert 'jsbox_missing_replies_total{app="phone"} 1.0' in (await service.metrics()).decode()
        await eventually(lambda: service.dispatcher.box.counts() == {"phone": 2})
        # Nothing was run or said twice meanwhile.
        assert [f["msg"]["content"] for f in client.frames if f["type"] == "outbound"] == [
            "you said new"
        ]
        assert store.hgetall("jsbox:{acct}:begun:phone") == {}


async def test_a_journal_that_cannot_be_read_keeps_no_other_app(
    folder: Folder, proxy: StoreProxy, store: redis.Redis
) -> None:
    """A key of ours with another type: the service starts, the neighbour is served, and the app too
    when the key is right.
    """
    folder.app("phone", ECHO)
    folder.app("other", ECHO)
    store.set(JOURNAL, "somebody's")
    add(store, entry("o1", "other"), "other")
    async with running(folder) as service, connect(service.gateway_url, channel="other") as other:
        assert (await other.expect("outbound"))["msg"]["content"] == "you said o1"
        # As one: if the journal is read in between, it is found in order, and not read again.
        with store.pipeline(transaction=True) as both:
            both.delete(JOURNAL).xadd(JOURNAL, {"e": entry("m1")})
            both.execute()
        async with connect(service.gateway_url) as client:
            assert (await client.expect("outbound"))["msg"]["content"] == "you said m1"
        await eventually(lambda: not service.dispatcher.recovery._due)


@pytest.mark.slow
async def test_a_start_waits_for_a_store_that_breaks_off(
    folder: Folder, proxy: StoreProxy, store: redis.Redis
) -> None:
    """The connection is cut each time that the journal is read, and while it is worked on: then it
    is read again.
    """
    folder.app("phone", ECHO)
    for number in range(250):
        add(store, entry(f"m{number}"))
    add(store, b"unreadable")
    proxy.fault(cut(), "XRANGE", times=3)
    proxy.fault(cut(after=True), "XRANGE", nth=5)
    proxy.fault(cut(after=True), "deadletter_put", times=1)
    async with (
        running(folder) as service,
        connect(service.gateway_url) as client,
        admin_of(service) as admin,
    ):
        for number in range(250):
            assert (await client.expect("outbound", 60))["msg"]["content"] == f"you said m{number}"
        await eventually(lambda: store.xlen(JOURNAL) == 0, 30)
        assert len((await admin.get("/v1/deadletters")).json()["deadletters"]) == 1
        await eventually(lambda: service.dispatcher.box.counts() == {"phone": 1})
        assert not [frame for frame in client.frames if frame["type"] == "outbound"]


async def test_a_strike_that_is_cut_off_runs_nothing_twice(
    folder: Folder, proxy: StoreProxy, store: redis.Redis
) -> None:
    """Carried out or not: the entry whose run has ended is struck, and found by nobody."""
    folder.app("phone", ECHO)
    async with running(folder) as service, connect(service.gateway_url) as client:
        for number, act in enumerate((cut(), cut(after=True)) * 10):
            proxy.fault(act, "XDEL", times=1)
            await send_until_accepted(client, f"m{number}")
            await client.expect("outcome", message_id=f"m{number}", outcome="ok")
        await eventually(lambda: store.xlen(JOURNAL) == 0, 30)
        await eventually(
            lambda: not service.dispatcher.recovery._due and not service.dispatcher.recovery._owed
        )
        assert len([frame for frame in client.frames if frame["type"] == "outbound"]) == 20


async def test_a_lost_connection_runs_nothing_again(
    folder: Folder, proxy: StoreProxy, store: redis.Redis
) -> None:
    """What waits and what is in progress: each is run once, however often the store is lost."""
    count = (
        "api.request('kv.incr', {key: command.msg.message_id}, function () {"
        " require('timers').setTimeout(api.done, 300); });"
    )
    folder.app("phone", count, 'modules = ["timers"]\npool = { max_processes = 2 }\n')
    names = [f"m{number}" for number in range(8)]
    async with running(folder) as service, connect(service.gateway_url) as client:
        for name in names:
            await send_until_accepted(client, name)
        ended = []
        for _ in range(4):
            reconnects = service.stores.redis.statistics().reconnects
            ended.append((await client.expect("outcome"))["message_id"])
            proxy.cut()
            await eventually(lambda n=reconnects: service.stores.redis.statistics().reconnects > n)
            await eventually(lambda: not service.dispatcher.recovery._due)
        await eventually(lambda: store.xlen(JOURNAL) == 0, 30)
        ended += [(await client.expect("outcome"))["message_id"] for _ in names[4:]]
        assert sorted(ended) == names
        assert not [frame for frame in client.frames if frame["type"] == "outcome"]
    # None: the connection was cut while it was counted.
    counts = store.mget([f"jsbox:{{acct}}:kv:{name}" for name in names])
    assert set(counts) <= {b"1", None}
    assert b"1" in counts


async def test_a_push_says_what_it_has_queued(
    folder: Folder, proxy: StoreProxy, store: redis.Redis
) -> None:
    """Refused in the middle: 503 with what is in line already, and all of that is run, and nothing
    else.
    """
    folder.app("phone", ECHO, 'endpoints = { default = "phone" }')
    async with (
        running(folder) as service,
        connect(service.gateway_url, window=1000) as client,
        admin_of(service) as admin,
    ):
        proxy.fault(refuse("OOM"), "journal_accept", nth=150)
        body = {"addrs": [f"+27{number:03}" for number in range(250)]}
        answer = await admin.post("/v1/apps/phone/push", json=body)
        told = answer.json()
        assert (answer.status_code, told["queued"], told["opted_out"]) == (503, 199, 0)
        assert "maxmemory" in told["error"]
        assert "199 were put in line before" in told["error"]
        sent = {(await client.expect("outbound", 60))["msg"]["to_addr"] for _ in range(199)}
        assert sent == {f"+27{number:03}" for number in range(200) if number != 149}
        await eventually(lambda: store.xlen(JOURNAL) == 0, 30)
        proxy.cure()
        proxy.fault(cut(after=True), "journal_accept", nth=1)  # carried out, and nobody knows
        answer = await admin.post("/v1/apps/phone/push", json={"addrs": ["+1", "+2"]})
        assert (answer.status_code, answer.json()["queued"]) == (503, 0)
        assert (await client.expect("outbound", 60))["msg"]["to_addr"] == "+1"


async def test_a_push_to_an_app_that_leaves_the_config_ends(
    folder: Folder, proxy: StoreProxy
) -> None:
    """It does not wait for room for ever."""
    others = folder.text
    hangs = "require('timers').setTimeout(api.done, 1e8);"
    more = (
        'modules = ["timers"]\nendpoints = { default = "phone" }\npool = { queue = 1,'
        ' max_processes = 1 }\nlimits = { wall = "1h" }'
    )
    folder.app("phone", hangs, more)
    async with running(folder) as service, admin_of(service) as admin:
        answers: list[Any] = []

        async def push() -> None:
            answers.append(
                await admin.post("/v1/apps/phone/push", json={"addrs": ["+1", "+2", "+3", "+4"]})
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push)
            await eventually(lambda: service.dispatcher.waiting("phone") == 1, 30)
            folder.text = others
            assert folder.config
            assert (await service.reload())["ok"]
        assert (answers[0].status_code, answers[0].json()["queued"]) == (409, 2)
