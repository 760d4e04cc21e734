"""Against a real cluster of three Valkey nodes: every script's keys lie on one node, and what moves
is followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from resources.contact_fields import changed_contact, new_contact
from resources.stores.contacts import Contacts
from resources.stores.errors import SOON
from resources.stores.groups import Groups
from resources.stores.identity import Sender, open_message_ids
from resources.stores.journal import Entry, Journal
from resources.stores.keyspace import Keyspace, Quota
from resources.stores.optouts import OptOut, OptOuts
from resources.stores.outbox import Outbox
from resources.stores.recordings import Recording, Recordings, decode
from resources.stores.redis import Redis, StoreError, StoreRefused, Unavailable, open_redis
from resources.stores.statistics import Statistics

from ..cluster import Cluster, until, valkey_cluster
from ..gateway_client import connect
from ..programs import jsbox
from ..service import ECHO, Folder, eventually, running

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes on loopback with a third of the slots each."""
    with valkey_cluster(tmp_path) as made:
        yield made


async def _people_and_values(client: Redis, account: str) -> None:
    """The stores of what an account has of its own."""
    contacts, groups = Contacts(client), Groups(client)
    keyspace, optouts = Keyspace(client), OptOuts(client)
    fields = {"name": "a", "msisdn": "+27", "groups": ["g"], "created_at": "2014"}
    await contacts.create(account, "k", new_contact(fields), 10)
    await contacts.change(account, "k", changed_contact({"surname": "b", "gtalk_id": "a@b/c"}))
    assert (await contacts.find(account, "gtalk_id", "a@b") or {})["key"] == "k"
    found, created = await contacts.find_or_create(
        account, "msisdn", "+28", "k2", new_contact({"msisdn": "+28"}), 10
    )
    assert (found["key"], created) == ("k2", True)
    assert len((await contacts.page(account, 0, 10)).contacts) == 2
    many = [("k3", new_contact({})), ("k4", new_contact({}))]
    wrong = await contacts.create_many(account, many, 3)
    assert wrong == {1: "an account may have 3 contacts"}
    assert await contacts.members(account, "g") == ["k"]
    await groups.find_or_create(account, "name", "g", "2014", 10)
    await groups.update(account, "g", "other", "q")
    assert [group["name"] for group in await groups.all(account)] == ["other"]
    assert await keyspace.incr(account, "n", 5, Quota(10, 10))
    await keyspace.set(account, "n", b"1", None, Quota(10, 10))
    assert await keyspace.delete(account, "n")
    await optouts.set(account, "msisdn", "+27", OptOut("m", "2014"), 10)
    are_out = await optouts.which(account, [[("msisdn", "+27")], [("msisdn", "+1")]])
    assert are_out == [True, False]


async def _messages(client: Redis, outbox: Outbox, account: str) -> None:
    """The stores of what comes in, goes out and is kept of it."""
    journal, recordings, statistics = Journal(client), Recordings(client), Statistics(client)
    came = {"message_id": "m", "from_addr": "+1", "timestamp": "2014-01-01 00:00:00"}
    entry = Entry("message", account, "app", "phone", came, counted=True)
    (accepted,) = await journal.accept([entry])
    unfinished = [place async for place, _ in journal.unfinished(account, "app")]
    assert unfinished == [accepted.place]
    await journal.finish(entry, accepted.place)
    sender = Sender(account, "app")
    message = {"to_addr": "+1", "in_reply_to": None, "timestamp": "2014-01-01 00:00:00"}
    assert await outbox.post(f"channel-{account}", sender, message) == 1
    assert await statistics.throughput(sender, "in", 60) == 1
    assert (await statistics.totals([sender]))[0].sent == 1
    for name in ("r1", "r2", "r3"):
        recorded = Recording(account, "app", "phone", "message", name, {}, 0.0, "ok", "", "", [])
        recordings.keep_soon(recorded, 2, 60)
    assert await recordings.find([(account, "app")], "r1") is None


async def test_every_store_works_on_a_cluster(cluster: Cluster) -> None:
    """Each script of each store, for accounts whose keys lie on different nodes."""
    async with open_redis(cluster.url) as client:
        outbox = Outbox(client, await open_message_ids(client), Statistics(client))
        for account in (f"account{n}" for n in range(12)):
            await _people_and_values(client, account)
            await _messages(client, outbox, account)
        apps = [(f"account{n}", "app") for n in range(12)]
        found = await Recordings(client).find([("nobody", "app"), *apps[5:]], "r3")
        assert found is not None
        assert decode(found).account == "account5"
        used = [node.dbsize() for node in cluster.nodes]
        assert min(used) > 10, used


async def test_a_slot_that_moves_is_followed(cluster: Cluster) -> None:
    """While commands go on: none is lost, none is carried out twice."""
    slot, source = cluster.slot("jsbox:{acct}:x"), cluster.owner("jsbox:{acct}:x")
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
        with trio.fail_after(60):
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


async def _outcome(client: Redis, *command: object) -> object:
    try:
        return await client.execute(*command)
    except StoreError as error:
        return error


async def _until_answered(client: Redis, *command: object) -> object:
    """The answer, as soon as there is one."""
    with trio.fail_after(60):
        while isinstance(found := await _outcome(client, *command), StoreError):
            await trio.sleep(0.05)
    return found


async def _until_usable(client: Redis, key: str) -> None:
    with trio.fail_after(60):
        while not client.is_usable(key):
            with suppress(StoreError):
                await client.try_out(key)
            await trio.sleep(0.05)


async def test_a_lost_node_fails_its_own_only(tmp_path: Path) -> None:
    """The others answer all the while, also when it was the one in the URL; what was lost is told,
    and when the node is back all is well.
    """
    with valkey_cluster(tmp_path, options=("--cluster-require-full-coverage", "no")) as cluster:
        keys = [f"jsbox:{{{cluster.account_on(n)}}}:x" for n in range(3)]
        async with open_redis(cluster.url) as client:
            for key in keys:
                assert await client.execute("INCR", key) == 1
            doubts: list[bool] = []
            client.on_reconnect.append(lambda: doubts.append(True))
            for lost in (0, 2):
                await trio.to_thread.run_sync(cluster.kill, lost)
                error = await _outcome(client, "INCR", keys[lost])
                assert isinstance(error, Unavailable)
                assert f"127.0.0.1:{cluster.ports[lost]}" in str(error)
                found = client.statistics()
                assert found.up
                assert str(cluster.ports[lost]) in found.problem
                results = await client.attempt([("INCR", key) for key in keys])
                for n, result in enumerate(results):
                    assert (
                        isinstance(result, Unavailable) if n == lost else isinstance(result, int)
                    ), (n, result)
                assert [client.is_usable(key) for key in keys] == [n != lost for n in range(3)]
                await trio.to_thread.run_sync(cluster.start, lost)
                assert await _until_answered(client, "INCR", keys[lost])
                for key in keys:
                    await _until_usable(client, key)
                await eventually(lambda: client.statistics().problem == "", 30)


async def test_a_cluster_that_is_down_is_waited_for(cluster: Cluster) -> None:
    """A node lost and the cluster down with it (CLUSTERDOWN), then all of them: callers learn it in
    time, and it is over when it is over.
    """
    keys = [f"jsbox:{{{cluster.account_on(n)}}}:x" for n in range(3)]
    async with open_redis(cluster.url) as client:
        for key in keys:
            await client.execute("INCR", key)
        await trio.to_thread.run_sync(cluster.kill, 1)
        with trio.fail_after(60):
            while not isinstance(error := await _outcome(client, "INCR", keys[0]), StoreError):
                await trio.sleep(0.05)
        assert isinstance(error, StoreRefused)
        assert (error.code, error.sent, error.retry_after) == ("CLUSTERDOWN", False, SOON)
        assert client.statistics().concerns_all
        assert not client.is_usable(keys[0])
        with pytest.raises(StoreRefused):
            await client.try_out(keys[0])
        for n in (0, 2):
            await trio.to_thread.run_sync(cluster.kill, n)
        for _ in range(3):
            with trio.fail_after(60):
                assert isinstance(await _outcome(client, "INCR", keys[0]), Unavailable)
        await eventually(lambda: not client.statistics().up, 20)
        assert "no node of the cluster answers" in client.statistics().problem
        for n in (2, 1, 0):
            await trio.to_thread.run_sync(cluster.start, n)
        for key in keys:
            await _until_answered(client, "INCR", key)
            await _until_usable(client, key)
        await eventually(lambda: client.statistics().problem == "", 30)


async def test_a_promoted_replica_is_found(tmp_path: Path) -> None:
    """The master of a third of the slots dies; its replica takes over, and is asked instead."""
    with valkey_cluster(tmp_path, replicas=1) as cluster:
        key = f"jsbox:{{{cluster.account_on(0)}}}:x"
        async with open_redis(cluster.url) as client:
            assert await client.execute("INCR", key) == 1
            await trio.to_thread.run_sync(until, lambda: cluster.is_copied(0))
            await trio.to_thread.run_sync(cluster.kill, 0)
            assert await _until_answered(client, "INCR", key) in (1, 2)
            assert cluster.nodes[3].get(key) is not None
            await eventually(lambda: client.statistics().problem == "", 30)


async def test_a_slot_on_the_move_has_no_half_written_contact(cluster: Cluster) -> None:
    """Between the first of an account's keys that is moved and the last, a write is refused as a
    whole; before and after it is carried out.
    """
    account = "acct"
    slot, source = cluster.slot(f"jsbox:{{{account}}}:x"), cluster.owner(f"jsbox:{{{account}}}:x")
    target = (source + 1) % 3
    async with open_redis(cluster.url) as client:
        contacts, groups, statistics = Contacts(client), Groups(client), Statistics(client)
        fields = {"name": "a", "msisdn": "+271", "groups": ["g"], "created_at": "2014"}
        for n in range(5):
            await contacts.create(account, f"k{n}", new_contact(fields), 100)
        await groups.find_or_create(account, "name", "first", "2014", 10)
        await trio.to_thread.run_sync(cluster.begin_move, slot, source, target)
        refused = done = 0
        while True:
            for n in range(5):
                try:
                    await contacts.change(
                        account,
                        f"k{n}",
                        changed_contact({"msisdn": f"+27{done}", "name": f"n{done}"}),
                    )
                    await groups.update(account, "first", f"other{done}", None)
                    await statistics.throughput(Sender(account, "app"), "in", 60)
                    done += 1
                except StoreRefused as error:
                    assert error.code == "TRYAGAIN", error
                    assert (error.sent, error.retry_after) == (False, SOON)
                    refused += 1
            keys = await trio.to_thread.run_sync(
                cluster.nodes[source].execute_command, "CLUSTER", "COUNTKEYSINSLOT", slot
            )
            if not keys:
                break
            await trio.to_thread.run_sync(cluster.move_keys, slot, source, target, 1)
        assert refused > 5
        await trio.to_thread.run_sync(cluster.end_move, slot, source, target)
        for n in range(5):
            await contacts.change(account, f"k{n}", changed_contact({"msisdn": f"+99{n}"}))
        # Everything that belongs to a contact moved with it: its address, its number, the list of
        # changes.
        for n in range(5):
            found = await contacts.find(account, "msisdn", f"+99{n}")
            assert found is not None
            assert found["key"] == f"k{n}"
        assert await contacts.find(account, "msisdn", "+271") is None
        assert await client.execute("ZCARD", f"jsbox:{{{account}}}:contacts:changed") == 5
        assert await client.execute("EXISTS", f"jsbox:{{{account}}}:unmoved") == 0
        assert len(await groups.all(account)) == 1


async def test_a_service_outlives_a_lost_node(cluster: Cluster, tmp_path: Path) -> None:
    """While it serves: messages are rejected for the time being, the service is not ready and says
    why, and goes on afterwards.
    """
    (tmp_path / "service").mkdir()
    folder = Folder(tmp_path / "service")
    folder.text += f'[redis]\nurl = "{cluster.url}"\n'
    for n in range(3):
        folder.app(f"app{n}", ECHO, account=cluster.account_on(n))
    async with running(folder) as service:
        for lost in (1, 0):
            await trio.to_thread.run_sync(cluster.kill, lost)
            async with connect(service.gateway_url, channel=f"app{lost}") as client:
                message = {
                    "message_id": f"m{lost}",
                    "from_addr": "+1",
                    "to_addr": "1",
                    "content": "x",
                }
                frame = {"type": "inbound", "id": "g", "msg": message}
                await client.send(frame)
                answer = await client.expect_that(lambda frame: frame.get("id") == "g", 60)
                assert (answer["type"], answer["code"]) == ("rejected", "unavailable")
                assert answer["retry_after"] > 0
                await eventually(lambda: service.stores.redis.statistics().problem, 60)
                await trio.to_thread.run_sync(cluster.start, lost)
                with trio.fail_after(60):
                    while answer["type"] == "rejected":
                        await trio.sleep(0.1)
                        await client.send(frame)
                        answer = await client.expect_that(lambda frame: frame.get("id") == "g", 60)
                await client.expect("outbound", 60)
        for n in range(3):
            async with connect(service.gateway_url, channel=f"app{n}") as client:
                outcome, replies = await client.say("hello", "new")
                assert (outcome["outcome"], replies[0]["content"]) == ("ok", "you said hello")


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """`jsbox serve` for one says so, and ends with 1."""
    folder = Folder(tmp_path)
    folder.text += '[redis]\nurl = "redis+cluster://127.0.0.1:1"\n'
    folder.app("app", ECHO)
    found = jsbox("serve", "-c", str(folder.config))
    assert found.returncode == 1, found.stderr
    last = found.stderr.splitlines()[-1]
    assert "redis.url: " in last
    assert "no node of the cluster answers" in last
    assert "Traceback" not in found.stderr
