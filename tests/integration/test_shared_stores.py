"""Servers that share the work on a store that loses its master: by Sentinel, and in a cluster; and
how soon one has the work of another that died.
"""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis
import trio

from resources.stores.journal import Entry
from resources.stores.partitions import host_of, partition_of

from ..cluster import until, valkey_cluster
from ..gateway_client import Client, connect, inbound
from ..programs import free_ports
from ..sentinels import Sentinels, valkey_sentinels
from ..service import eventually
from ..valkey_server import ValkeyServer
from .crowd import APP, Crowd
from .hosts import Host, Make, direct

pytestmark = pytest.mark.slow

LEASE = 2.0
PARTS = 16
USERS, EACH = 50, 20
SPENT_MAX = 2 * 2 * 4  # runs without a store: four in progress on each server, at two losses
LOST_MAX = 40  # effects of runs in progress that may be lost with a master: none waits for replicas


@asynccontextmanager
async def in_traffic(
    hosts: Make, url: str, redis_more: str = "", lease: str = "2s"
) -> AsyncIterator[tuple[Crowd, list[Host]]]:
    """Two servers on a store, and users who talk to them until all that they say is accepted."""
    ports = free_ports(2)
    pair = [
        hosts(
            f"host{n}", "shared", APP, lease=lease, gateway=f"127.0.0.1:{port}", url=url,
            redis_more=redis_more,
        )
        for n, port in enumerate(ports)
    ]  # fmt: skip
    for host in pair:
        await trio.to_thread.run_sync(host.ready)
    gateways = [f"ws://127.0.0.1:{port}/v1" for port in ports]
    crowd = Crowd(gateways, users=USERS, each=EACH, pause=0.2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.stay)
        async with trio.open_nursery() as work:
            work.start_soon(crowd.speak)
            yield crowd, pair
        nursery.cancel_scope.cancel()
    for host in pair:
        host.send(signal.SIGTERM)
        assert await trio.to_thread.run_sync(host.ended) == 0


def check(crowd: Crowd, pair: list[Host], value_of: Callable[[str], bytes | None]) -> None:
    """Everything that was accepted was run, in order, and has its outcome and its reply. Runs that
    had no store to write to got no further, and say so; what others wrote just before a master died
    may be lost with it, but for their replies.
    """
    names = {f"{user}.{n}" for user in range(USERS) for n in range(EACH)}
    assert crowd.accepted == names
    assert not crowd.untold
    outcomes = {name: {frame["outcome"] for frame in crowd.outcomes[name]} for name in names}
    assert set().union(*outcomes.values()) <= {"ok", "no_reply"}
    well = {name for name in names if "no_reply" not in outcomes[name]}
    assert len(names) - len(well) <= SPENT_MAX
    # The app was told that nobody knows whether its reply was posted.
    doubtful = sum(host.log.count("outbound.reply_to: Redis did not answer") for host in pair)
    silent = [name for name in well if not crowd.replies[name]]
    assert len(silent) <= doubtful, silent
    # Run by the old master's journal before that was replicated, and so refused, and sent again.
    twice = [name for name in names if len(crowd.replies[name]) > 1]
    assert not [name for name in twice if crowd.sent[name] == 1]
    assert len(twice) <= LOST_MAX
    kept = set[str]()
    for user in range(USERS):
        text = value_of(f"jsbox:{{acct}}:kv:had +{user}")
        had = [] if text is None else list(map(int, json.loads(text)))
        assert had == sorted(had), f"user {user} is out of order: {had}"
        kept.update(f"{user}.{n}" for n in had)
    assert len(well - kept) <= LOST_MAX


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    folder = tmp_path / "stores"
    folder.mkdir()
    with valkey_sentinels(folder, replicas=2) as made:
        yield made


async def test_a_failover_by_sentinel(sentinels: Sentinels, hosts: Make) -> None:
    """Twice: the master is killed, then the next one."""
    nodes = sentinels.nodes
    async with in_traffic(hosts, sentinels.url, "replicas = 1\n") as (crowd, pair):
        await crowd.wait_accepted(crowd.total // 4)
        sentinels.kill(0)
        await crowd.wait_accepted(crowd.total // 2)
        second = sentinels.master()
        assert second in (1, 2)
        await trio.to_thread.run_sync(sentinels.start, 0)
        await trio.to_thread.run_sync(
            until, lambda: nodes[second].info("replication")["connected_slaves"] == 2
        )
        sentinels.kill(second)
        await crowd.wait_accepted(crowd.total)
        await eventually(lambda: sentinels.master() not in (None, second))
        store = nodes[sentinels.master() or 0]
        await crowd.all_has_ended(store)
        await crowd.ask()
    check(crowd, pair, store.get)


async def test_a_node_of_a_cluster_is_lost(hosts: Make, tmp_path: Path) -> None:
    """The one that the servers were told of, which has the account's keys: its replica takes over,
    and they hear each other by other nodes.
    """
    folder = tmp_path / "cluster"
    folder.mkdir()
    with valkey_cluster(folder, replicas=3) as cluster:
        victim = cluster.owner("jsbox:{acct}:")
        url = f"redis+cluster://127.0.0.1:{cluster.ports[victim]}"
        other = cluster.ports[(victim + 1) % cluster.masters]
        async with in_traffic(hosts, url, lease="10s") as (crowd, pair):
            await crowd.wait_accepted(crowd.total // 3)
            await trio.to_thread.run_sync(until, lambda: cluster.is_copied(victim))
            assert len(crowd.accepted) < crowd.total / 2
            cluster.kill(victim)
            await crowd.wait_accepted(crowd.total)
            with redis.RedisCluster(host="127.0.0.1", port=other) as store:
                await crowd.all_has_ended(store)
                await crowd.ask()
                check(crowd, pair, store.get)


def owners(store: redis.Redis) -> list[str]:
    """Who owns each partition of the app; "" if nobody does."""
    found = store.mget([f"jsbox:{{acct}}:owner:phone:{n}" for n in range(PARTS)])
    return [host_of(one or b"")[0] for one in found]


def users_of(parts: set[str]) -> list[str]:
    """Users of channel phone whose messages are in these partitions."""
    names = [f"+{number}" for number in range(200)]
    made = {name: Entry("message", "acct", "phone", "phone", {"from_addr": name}) for name in names}
    return [name for name, entry in made.items() if partition_of(entry, PARTS) in parts]


async def first_outcome(client: Client, users: list[str], name: str) -> float:
    """Send messages of these users, until the first of them has its outcome; seconds until then."""
    began, number = trio.current_time(), 0
    while True:
        number += 1
        await client.send(inbound(f"{name}.{number}", users[number % len(users)]))
        with trio.move_on_after(0.05):
            await client.expect_that(
                lambda frame: frame["type"] == "outcome" and frame["message_id"].startswith(name)
            )
            return trio.current_time() - began


async def test_another_takes_over_in_time(shared: ValkeyServer, hosts: Make) -> None:
    """Within the lease and a second, from the death to the first outcome of what fell to the dead
    one; and as much more as the machine is busy: some times what an ordinary message takes.
    """
    pair = [hosts(name, "shared", APP, lease=f"{LEASE:g}s") for name in ("one", "two")]
    with direct(shared) as store:
        for turn in range(4):
            dying, other = pair[turn % 2], pair[1 - turn % 2]
            gateway, _ = await trio.to_thread.run_sync(other.ready)
            ids = [await trio.to_thread.run_sync(host.id) for host in (dying, other)]
            await trio.to_thread.run_sync(until, lambda ids=ids: set(owners(store)) == set(ids))
            parts = {str(n) for n, owner in enumerate(owners(store)) if owner == ids[0]}
            users = users_of(parts)
            async with connect(gateway, window=1000) as client:
                usual = max([await first_outcome(client, users, f"{turn}.{n}") for n in range(5)])
                dying.send(signal.SIGKILL)
                took = await first_outcome(client, users, f"{turn}.dead")
                assert LEASE / 2 < took < LEASE + 1 + 5 * usual, (took, usual)
            await trio.to_thread.run_sync(dying.ended)
            dying.restart()
