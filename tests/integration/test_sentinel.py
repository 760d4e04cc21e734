"""A store that Sentinel watches, and replicas that are waited for: in a failover in traffic."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from redis import Redis as StoreClient
from redis import ResponseError

from resources.stores import redis as client_module
from resources.stores.redis import Redis, Unavailable, open_redis
from supervisor.config.urls import redis_problem
from supervisor.operating import health_of

from ..cluster import until
from ..gateway_client import Client, connect, inbound
from ..sentinels import Sentinels, valkey_sentinels
from ..service import Folder, eventually, running

ENDED, FAILED = "no_reply", "app_error"  # outcomes
JOURNAL = "jsbox:{acct}:in:phone"
COUNT = "api.request('kv.incr', {key: command.msg.message_id}, api.done);"
# Waits while there is the key `wait`; then counts, and is not content with less.
COUNT_LATER = """
    (function look() {
        api.request('kv.get', {key: 'wait'}, function (found) {
            if (found.value) { return require('timers').setTimeout(look, 20); }
            api.request('kv.incr', {key: command.msg.message_id}, function (reply) {
                if (!reply.success) { throw new Error(reply.reason); }
                api.done();
            });
        });
    })();"""


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    folder = tmp_path / "stores"
    folder.mkdir()
    with valkey_sentinels(folder, replicas=2, password="p%rt") as made:
        yield made


async def accept(client: Client, name: str) -> None:
    """As a gateway does: again with the same id until it is accepted."""
    while True:
        await client.send(inbound(name, f"+{name}"))
        answer = await client.expect_that(lambda frame: frame.get("id") == name)
        if answer["type"] == "accepted":
            return
        assert answer["code"] == "unavailable", answer
        await trio.sleep(0.05)


@pytest.mark.slow
async def test_a_failover_in_traffic(tmp_path: Path, sentinels: Sentinels) -> None:
    """What was accepted, and is in a replica (redis.replicas), is run once; the service goes on on
    the new master, also when a Sentinel is dead.
    """
    folder = Folder(tmp_path)
    folder.text += f'[redis]\nurl = "{sentinels.url}"\nreplicas = 1\n[cluster]\nlease = "2s"\n'
    folder.app("phone", COUNT)
    names = [f"m{number}" for number in range(120)]
    async with running(folder) as service, connect(service.gateway_url, window=1000) as client:
        ended: list[str] = []
        for name in names:
            if name == "m40":
                sentinels.stop(sentinels.watching[0])
                sentinels.kill(0)
            await accept(client, name)
        while len(ended) < len(names):
            ended.append((await client.expect("outcome"))["message_id"])
        assert sorted(ended) == sorted(names)
        new = sentinels.master()
        assert new in (1, 2)
        store = sentinels.nodes[new]
        await eventually(lambda: store.xlen(JOURNAL) == 0)
        counts = store.mget([f"jsbox:{{acct}}:kv:{name}" for name in names])
        # None: its command was lost with the master.
        assert set(counts) <= {b"1", None}
        assert counts.count(None) <= 8
        # The old one comes back as a replica.
        sentinels.start(0)
        await trio.to_thread.run_sync(
            until, lambda: sentinels.nodes[0].info("replication")["role"] == "slave"
        )
        await accept(client, "more")
        await client.expect("outcome", message_id="more")


async def test_too_few_replicas(tmp_path: Path, sentinels: Sentinels) -> None:
    """What no replica has is not accepted: the gateway sends it again. When the replica is back it
    is, once; and what does not ask for replicas is not held up by that.
    """
    folder = Folder(tmp_path)
    folder.text += f'[redis]\nurl = "{sentinels.url}"\nreplicas = 2\n'
    folder.app("phone", COUNT)
    store = sentinels.nodes[0]
    async with running(folder) as service, connect(service.gateway_url, window=1000) as client:
        await accept(client, "first")
        sentinels.kill(2)
        await client.send(inbound("m1"))
        refused = await client.expect("rejected", id="m1")
        assert refused["code"] == "unavailable"
        assert "too few replicas have it (redis.replicas): 1 of 2" in refused["detail"]
        assert refused["retry_after"] > 0
        (check,) = [one for one in await health_of(service).checks() if one.name == "redis"]
        assert "too few replicas" in check.problem
        sentinels.start(2)
        await accept(client, "m1")
        await eventually(lambda: store.xlen(JOURNAL) == 0)
        assert store.get("jsbox:{acct}:kv:m1") == b"1"


@pytest.mark.slow
@pytest.mark.parametrize("refuses", [False, True])
async def test_no_replica_is_left(tmp_path: Path, sentinels: Sentinels, refuses: bool) -> None:
    """Nothing is accepted. If the master takes writes alone, runs in progress end, and what was
    refused is run even so; with min-replicas-to-write the runs fail.
    """
    folder = Folder(tmp_path)
    folder.text += f'[redis]\nurl = "{sentinels.url}"\nreplicas = 1\n'
    folder.app("phone", COUNT_LATER, 'modules = ["timers"]')
    store = sentinels.nodes[0]
    store.config_set("min-replicas-to-write", int(refuses))
    store.config_set("min-replicas-max-lag", 1)
    store.set("jsbox:{acct}:kv:wait", "1")
    async with running(folder) as service, connect(service.gateway_url, window=1000) as client:
        await accept(client, "held")
        sentinels.kill(1)
        sentinels.kill(2)
        await eventually(lambda: not refuses or refuses_writes(store))
        await client.send(inbound("m1", "+m1"))
        refused = await client.expect("rejected", id="m1")
        assert refused["code"] == "unavailable"
        assert "too few replicas have it (redis.replicas): 0 of 1" in refused["detail"]
        (check,) = [one for one in await health_of(service).checks() if one.name == "redis"]
        assert "replicas" in check.problem
        with store.pipeline(transaction=False) as together:
            together.config_set("min-replicas-to-write", 0)
            together.delete("jsbox:{acct}:kv:wait")
            together.config_set("min-replicas-to-write", int(refuses))
            together.execute()
        if not refuses:
            await eventually(lambda: store.get("jsbox:{acct}:kv:m1") == b"1")
        sentinels.start(1)
        await client.expect("outcome", message_id="held", outcome=FAILED if refuses else ENDED)
        await accept(client, "m1")
        await client.expect("outcome", message_id="m1", outcome=ENDED)
        await eventually(lambda: store.xlen(JOURNAL) == 0)
        counts = store.mget("jsbox:{acct}:kv:held", "jsbox:{acct}:kv:m1")
        assert counts == [None if refuses else b"1", b"1"]


def refuses_writes(store: StoreClient) -> bool:
    try:
        store.set("probe", "1")
    except ResponseError as error:
        return "NOREPLICAS" in str(error)
    return False


async def test_one_wait_for_all_that_goes_out_together(
    tmp_path: Path, sentinels: Sentinels
) -> None:
    """However many wait for replicas; those that do not are not told of missing ones."""
    store = sentinels.nodes[0]
    async with open_redis(sentinels.url, replicas=2) as client:
        await client.execute("PING")
        before = store.info("commandstats").get("cmdstat_wait", {}).get("calls", 0)
        async with trio.open_nursery() as nursery:
            for n in range(50):
                nursery.start_soon(_replicated, client, n)
        waits = store.info("commandstats")["cmdstat_wait"]["calls"] - before
        assert 0 < waits <= 3
        sentinels.kill(1)
        with pytest.raises(Unavailable) as caught:
            await client.attempt([("SET", "x", 1)], is_replicated=True)
        assert caught.value.sent
        assert await client.execute("SET", "y", 1) == b"OK"


async def _replicated(client: Redis, n: int) -> None:
    assert await client.attempt([("SET", f"k{n}", n)], is_replicated=True) == [b"OK"]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis+sentinel://h/store", ""),
        ("rediss+sentinel://u:p%40@h:1,[::1]:2,h3/my-store/3?ssl_cert_reqs=none", ""),
        ("redis+sentinel://h/s?sentinel_username=u&sentinel_password=p", ""),
        ("redis+sentinel://h", "the name of the service is missing"),
        ("redis+sentinel:///s", "a host is missing"),
        ("redis+sentinel://h,,i/s", "a host is missing"),
        ("redis+sentinel://h:0/s", "a port is 0"),
        ("redis+sentinel://h:x/s", "a host or port is malformed"),
        ("redis+sentinel://h:99999/s", "a host or port is malformed"),
        ("redis+sentinel://h/s/x", "expected /DATABASE"),
        ("redis+sentinel://h/s/1/2", "expected /DATABASE"),
        ("redis+sentinel://h/s?protocol=3", "it has the option protocol"),
        ("redis+sentinel://[::1/s", "a host or port is malformed"),
        ("redis+sentinel://a..b/s", "each part of a host name"),
    ],
)
def test_urls(url: str, problem: str) -> None:
    found = redis_problem(url)
    assert found.startswith(problem) if problem else found == ""


async def test_nobody_knows_the_master(
    sentinels: Sentinels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller learns why."""
    monkeypatch.setattr(client_module, "PATIENCE", 0.5)
    async with open_redis(sentinels.url.replace("/store/", "/other/")) as client:
        words = r"no Sentinel names a master of other: 127.0.0.1.*No such master"
        with pytest.raises(Unavailable, match=words):
            await client.execute("PING")
