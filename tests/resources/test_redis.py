"""The gathered Redis client: order, errors, cancellation, lost connections."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from attrs import define, field

from resources.stores import redis as module
from resources.stores.keyspace import script_keys
from resources.stores.links import link_to
from resources.stores.reconnecting import Reconnecting
from resources.stores.redis import Redis, StoreRefused, Unavailable, open_redis
from resources.stores.resp import Command
from resources.stores.scripts import script

from ..valkey_server import valkey_server


async def test_each_caller_gets_its_own_result(redis: Redis) -> None:
    """Callers at the same time share pipelines and never see each other's results."""
    results: dict[int, bytes] = {}

    async def caller(n: int) -> None:
        await redis.execute("SET", f"k{n}", f"v{n}")
        results[n] = await redis.execute("GET", f"k{n}")

    async with trio.open_nursery() as nursery:
        for n in range(200):
            nursery.start_soon(caller, n)
    assert results == {n: f"v{n}".encode() for n in range(200)}
    statistics = redis.statistics()
    assert statistics.commands == 401  # with the FLUSHALL of the fixture
    assert statistics.batches < 100


async def test_an_error_reaches_its_caller_alone(redis: Redis) -> None:
    """A command that the server refuses raises for its caller; those beside it in the pipeline
    succeed.
    """
    outcomes: list[object] = []

    async def caller(*command: str) -> None:
        try:
            outcomes.append(await redis.execute(*command))
        except StoreRefused as error:
            outcomes.append(type(error))

    await redis.execute("SET", "text", "abc")
    async with trio.open_nursery() as nursery:
        for command in (("INCR", "text"), ("INCR", "number"), ("NOSUCH",), ("GET", "text")):
            nursery.start_soon(caller, *command)
    assert sorted(map(repr, outcomes)) == sorted(map(repr, [StoreRefused, 1, StoreRefused, b"abc"]))


async def test_a_cancelled_caller_disturbs_nobody(redis: Redis) -> None:
    """Of the callers in one pipeline some are cancelled; the others get their results, and the
    client goes on.
    """
    done: list[int] = []

    async def caller(n: int, scope: trio.CancelScope) -> None:
        with scope:
            await redis.execute("SET", f"c{n}", n)
            done.append(n)

    scopes = [trio.CancelScope() for _ in range(20)]
    async with trio.open_nursery() as nursery:
        for n, scope in enumerate(scopes):
            nursery.start_soon(caller, n, scope)
        await trio.lowlevel.checkpoint()  # all are waiting now
        for scope in scopes[::2]:
            scope.cancel()
    assert sorted(done) == list(range(1, 20, 2))
    assert await redis.execute("PING") == b"PONG"


async def test_commands_go_out_in_the_order_of_asking(redis: Redis) -> None:
    """What is asked for first is carried out first, also when the tasks run in any order."""
    async with trio.open_nursery() as nursery:
        for n in range(50):
            nursery.start_soon(redis.execute, "RPUSH", "order", n)
            await trio.lowlevel.checkpoint()
    assert await redis.execute("LRANGE", "order", 0, -1) == [str(n).encode() for n in range(50)]


async def test_a_script_that_the_server_forgot_is_sent_again(redis: Redis) -> None:
    """EVALSHA of an unknown script becomes EVAL; its neighbours in the pipeline do not notice."""
    await redis.execute("SCRIPT", "FLUSH")
    keys = script_keys("a", "x")
    results = await redis.execute_many(
        [("SET", keys[0], 1), script("kv_delete").call(keys, "x"), ("PING",)]
    )
    assert results == [b"OK", 1, b"PONG"]
    assert await redis.execute("GET", keys[0]) is None


async def test_scripts_keep_their_place_in_the_pipeline(redis: Redis) -> None:
    """A script runs between the commands that were asked for before and after it."""
    keys = script_keys("a", "x")
    commands = [("SET", keys[0], 1), script("kv_delete").call(keys, "x"), ("GET", keys[0])]
    assert await redis.execute_many(commands) == [b"OK", 1, None]


async def test_nothing_hangs_when_the_server_dies(tmp_path: Path) -> None:
    """Callers whose commands were sent are told that it is not known; later ones wait for the
    server to come back.
    """
    with valkey_server(tmp_path) as server:
        async with open_redis(server.url) as client:
            await client.execute("SET", "before", 1)
            reconnected: list[bool] = []
            client.on_reconnect.append(lambda: reconnected.append(True))
            server.freeze()
            failures: list[bool] = []

            async def caller() -> None:
                try:
                    await client.execute("SET", "during", 1)
                except Unavailable as error:
                    failures.append(error.sent)

            with trio.fail_after(15):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(caller)
                    await trio.sleep(0.2)
                    server.stop()
                    nursery.start_soon(caller)
                    await trio.sleep(0.1)
                    server.start()
            assert failures in ([True], [True, True])
            assert await client.execute("GET", "before") == b"1"
            assert reconnected == [True]


async def test_callers_are_told_when_the_server_stays_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that cannot be reached: each caller learns of it within the client's patience, and
    nothing was sent.
    """
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    async with open_redis(f"unix://{tmp_path}/nothing.sock") as client:
        for _ in range(2):
            with trio.fail_after(3), pytest.raises(Unavailable) as raised:
                await client.execute("PING")
            assert not raised.value.sent
        assert not client.statistics().up


async def test_a_server_that_hangs_counts_as_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen server is given up after the socket's time; when it thaws the client works again."""
    monkeypatch.setattr(module, "link_to", lambda url: link_to(url, 0.3))
    with valkey_server(tmp_path) as server:
        async with open_redis(server.url) as client:
            await client.execute("PING")
            server.freeze()
            with trio.fail_after(3), pytest.raises(Unavailable) as raised:
                await client.execute("SET", "x", 1)
            assert raised.value.sent
            server.thaw()
            with trio.fail_after(5):
                assert await client.execute("PING") == b"PONG"


@define
class _GateLink:
    """A link that answers when it is let to."""

    batches: list[list[Command]] = field(factory=list)

    def connect(self) -> None:
        pass

    def exchange(self, commands: list[Command], packed: list[bytes]) -> list[int]:
        self.batches.append(commands)
        return [0] * len(commands)

    def direct(self) -> None:
        pass

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass


async def test_a_caller_cancelled_before_it_was_sent_is_never_sent() -> None:
    """Cancelling a caller that still waits for the pipeline takes its command out."""
    link = _GateLink()
    client = Redis(Reconnecting(link))

    async def cancelled() -> None:
        with trio.move_on_after(0):
            await client.execute("A")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancelled)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(client.execute, "B")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(client._pump)
        while not link.batches:
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert link.batches == [[("B",)]]


async def test_the_queue_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """More waiting commands than may wait are refused at once."""
    monkeypatch.setattr(module, "WAITING_MAX", 3)
    client = Redis(Reconnecting(_GateLink()))
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(client.execute, "X")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Unavailable, match="3 commands are waiting"):
            await client.execute("X")
        nursery.cancel_scope.cancel()


async def test_a_closed_client_refuses(valkey: str) -> None:
    """After the end of its block a client tells callers that it is closed."""
    async with open_redis(valkey) as client:
        await client.execute("PING")
    with pytest.raises(Unavailable, match="closed"):
        await client.execute("PING")


@pytest.mark.slow
async def test_gathering_pays(tmp_path: Path) -> None:
    """At 32 callers at least five times the rate of a thread hop per command, in one run."""
    from benchmarks.redis_client import compare

    with valkey_server(tmp_path) as server:
        found = await compare(server.url, 32)
    assert found["gathered"][0] >= 5 * found["thread per command"][0]
