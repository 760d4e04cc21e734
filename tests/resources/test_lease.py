"""The lease of a store: who has it, and that nobody else can write."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import msgspec
import pytest
import trio

from resources.stores import lease as module
from resources.stores import redis as client_module
from resources.stores.errors import SOON
from resources.stores.lease import LAST, LEASE, Lease, LeaseLost, connection_name, open_lease
from resources.stores.redis import Redis, StoreError, Unavailable, open_redis

from ..service import eventually
from ..store_faults import Act, answer, garbage, late, refuse
from ..store_proxy import StoreProxy
from .asking import outcome

SHORT, LONG = 0.4, 60.0  # seconds


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    monkeypatch.setattr(client_module, "PATIENCE", 0.3)
    monkeypatch.setattr(client_module, "GATE_PAUSE", 0.01)
    monkeypatch.setattr(module, "AGAIN", 0.02)


@asynccontextmanager
async def server(
    url: str, owner: str = "a", boot: str = "1", seconds: float = LONG, *, is_taken: bool = True
) -> AsyncIterator[tuple[Lease, Redis]]:
    """A lease, and the client that works on the store."""
    opening = open_lease(url, seconds, owner, boot, f"host {owner} (process 1)")
    async with opening as lease, open_redis(url, lease) as client:
        if is_taken:
            await first_taken(lease)
        yield lease, client


async def first_taken(lease: Lease) -> None:
    """Take it; connecting may take longer than the client's patience here."""
    while True:
        with suppress(Unavailable):
            assert await lease.take() is None
            return


async def taken_at_last(lease: Lease) -> None:
    """Take it as soon as nobody else has it."""
    while True:
        with suppress(Unavailable):
            if await lease.take() is None:
                return
        await trio.sleep(0.02)


async def well(client: Redis, *command: object) -> object:
    """The answer to a command, which the client has enough time to send."""
    while isinstance(answer := await outcome(client, *command), Unavailable):
        assert not answer.sent
    assert not isinstance(answer, Exception)
    return answer


def lost(text: str) -> pytest.RaisesGroup[LeaseLost]:
    return pytest.RaisesGroup(pytest.RaisesExc(LeaseLost, match=text), flatten_subgroups=True)


async def test_only_one_has_it_until_it_gives_it_back(proxy: StoreProxy, redis: Redis) -> None:
    """Another learns who has it; nothing goes out of a client whose lease was never taken."""
    async with server(proxy.url, "b", is_taken=False) as (other, waiting):
        async with server(proxy.url) as (first, client):
            assert await client.execute("INCR", "n") == 1
            held = await other.take()
            assert held is not None
            assert held.name == "host a (process 1)"
            assert LONG - 30 < held.left <= LONG
            error = await outcome(waiting, "INCR", "n")
            assert isinstance(error, Unavailable)
            assert (error.sent, error.retry_after) == (False, SOON)
            assert "lease" in str(error)
            assert first.is_held
            assert not other.is_held
        assert await redis.execute("EXISTS", LEASE) == 0
        assert await other.take() is None
        assert await waiting.execute("INCR", "n") == 2


@pytest.mark.parametrize(
    ("owner", "boot", "is_ours"), [("a", "1", True), ("a", "2", False), ("b", "1", False)]
)
async def test_what_a_dead_process_of_ours_left_is_ours(
    proxy: StoreProxy, redis: Redis, owner: str, boot: str, is_ours: bool
) -> None:
    """The same data directory in the same boot: its lock says that the process is dead."""
    async with server(proxy.url) as (_, client):
        await client.execute("PING")
        left = await redis.execute("DUMP", LEASE)
    await redis.execute("RESTORE", LEASE, int(LONG * 1000), left)
    async with server(proxy.url, owner, boot, is_taken=False) as (second, _):
        assert (await second.take() is None) is is_ours


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff{", b'{"id": 3}', b'{"name": "\\u0000"}'])
async def test_a_lease_that_nobody_can_read_is_somebodys(
    proxy: StoreProxy, redis: Redis, text: bytes
) -> None:
    await redis.execute("SET", LEASE, text)
    async with server(proxy.url, is_taken=False) as (lease, _):
        held = await lease.take()
        assert held is not None
        assert held.name == "an unknown server"
        assert held.left < 0  # for ever
        await redis.execute("DEL", LEASE)
        await redis.execute("SET", LAST, text)
        assert await lease.take() is None


async def test_a_lease_is_renewed_before_anything_is_sent(plain_or_tls: StoreProxy) -> None:
    """Over each new connection; and the connection has the name that the next holder ends."""
    async with server(plain_or_tls.url) as (_, client):
        for _ in range(3):
            assert await well(client, "INCR", "n")
            taken, counted = plain_or_tls.commands["lease_take"], plain_or_tls.commands["INCR"]
            plain_or_tls.cut()
            with plain_or_tls.fault(late(float("inf")), "lease_take"):
                with pytest.raises(Unavailable):
                    await client.execute("INCR", "n")
                assert plain_or_tls.commands["INCR"] == counted
            await eventually(lambda: client.statistics().problem == "")
            assert plain_or_tls.commands["lease_take"] > taken
        listed = (await client.execute("CLIENT", "LIST")).decode()
        assert " name=jsbox-" in listed


async def test_a_store_that_comes_back_is_ours_again(plain_or_tls: StoreProxy) -> None:
    """However long it was away, and if it has forgotten everything."""
    async with server(plain_or_tls.url, seconds=SHORT) as (lease, client):
        await well(client, "SET", "x", 1)
        for moment in (plain_or_tls.remember(), None):
            plain_or_tls.stop()
            await eventually(lambda: not lease.is_held)
            assert isinstance(await outcome(client, "GET", "x"), Unavailable)
            assert client.statistics().concerns_all
            plain_or_tls.go_back(moment)
            plain_or_tls.start()
            await eventually(lambda: lease.is_held and client.statistics().problem == "")
            await well(client, "SET", "x", 1)


@pytest.mark.parametrize("is_there", [True, False], ids=["is there", "has gone again"])
async def test_a_server_that_was_away_learns_that_another_had_the_store(
    plain_or_tls: StoreProxy, valkey: str, is_there: bool
) -> None:
    """Nothing that it still has to write arrives."""
    with lost(r"another server has taken the store: host b \(process 1\)"):
        async with server(plain_or_tls.url, seconds=SHORT) as (lease, client):
            await well(client, "SET", "x", "mine")
            plain_or_tls.stop()
            async with trio.open_nursery() as nursery, server(valkey, "b", is_taken=False) as found:
                other, theirs = found
                await taken_at_last(other)
                await well(theirs, "SET", "x", "theirs")
                if is_there:
                    nursery.start_soon(outcome, client, "SET", "x", "mine")
                    plain_or_tls.start()
                    await eventually(lambda: lease.is_lost)
            client.post([("SET", "x", "mine")], lambda _: None)
            plain_or_tls.start()
            await trio.sleep(60)  # it is cancelled
    async with open_redis(valkey) as looking:
        assert await looking.execute("GET", "x") == b"theirs"


async def test_what_a_frozen_server_had_half_sent_dies_with_its_connection(
    plain_or_tls: StoreProxy, valkey: str
) -> None:
    """The next holder ends the connections of the one before, which has not noticed anything."""
    with lost("another server has taken the store"):
        async with server(plain_or_tls.url) as (_, client), open_redis(valkey) as looking:
            await well(client, "SET", "x", "mine")
            await looking.execute("DEL", LEASE)  # as if it had run out while we were frozen
            rule = plain_or_tls.fault(late(float("inf")), "SET")  # on its way
            async with trio.open_nursery() as nursery:
                nursery.start_soon(outcome, client, "SET", "x", "late")
                await eventually(lambda: rule.hits == 1)
                async with server(valkey, "b") as (_, theirs):
                    await well(theirs, "SET", "x", "theirs")
                    rule.lift()
                    await trio.sleep(60)  # it is cancelled
    async with open_redis(valkey) as looking:
        assert await looking.execute("GET", "x") == b"theirs"


@pytest.mark.parametrize("code", ["READONLY", "MISCONF", "NOREPLICAS"])
async def test_a_store_that_refuses_writes_can_be_read(proxy: StoreProxy, code: str) -> None:
    """Nobody else can take it meanwhile. The lease may run out: it is ours again afterwards."""
    async with server(proxy.url, seconds=SHORT) as (lease, client):
        await well(client, "SET", "x", 1)
        rule = proxy.fault(refuse(code), "lease_take", "SET")
        await eventually(lambda: rule.hits > 3)
        async with open_redis(proxy.upstream) as looking:
            await eventually(lambda: rule.hits > 8)
            await looking.execute("DEL", LEASE)
        hits = rule.hits
        await eventually(lambda: rule.hits > hits + 3)
        assert lease.is_held
        assert await client.execute("GET", "x") == b"1"
        assert str(await outcome(client, "SET", "x", 2)).startswith(code)
        proxy.cure()
        await eventually(lambda: proxy.commands["lease_take"] > 0 and lease.is_held)
        await well(client, "SET", "x", 3)


@pytest.mark.parametrize(
    "act",
    [
        garbage,
        partial(refuse, "BUSY"),
        partial(refuse, "NOPERM"),
        partial(answer, b"*0\r\n"),
        partial(answer, b"*2\r\n:0\r\n:1\r\n"),
    ],
)
async def test_a_store_that_does_not_say_whose_it_is_gets_nothing(
    proxy: StoreProxy, act: Callable[[], object]
) -> None:
    async with server(proxy.url, seconds=SHORT) as (lease, client):
        await well(client, "INCR", "x")
        proxy.fault(act(), "lease_take", "MGET")  # type: ignore[arg-type]
        await eventually(lambda: not lease.is_held)
        sent = proxy.commands["INCR"]
        assert isinstance(await outcome(client, "INCR", "x"), Unavailable)
        assert proxy.commands["INCR"] == sent
        proxy.cure()
        await eventually(lambda: lease.is_held)
        await well(client, "INCR", "x")


async def test_a_store_without_memory_lets_the_lease_be_taken_and_renewed(
    proxy: StoreProxy, redis: Redis
) -> None:
    await redis.execute("CONFIG", "SET", "maxmemory", 1)
    try:
        async with server(proxy.url, seconds=SHORT) as (lease, client):
            count = proxy.commands["lease_take"]
            await eventually(lambda: proxy.commands["lease_take"] > count + 4)
            assert lease.is_held
            assert str(await outcome(client, "SET", "x", 2)).startswith("OOM")
    finally:
        await redis.execute("CONFIG", "SET", "maxmemory", 0)


async def test_a_take_that_was_cancelled_is_given_back(
    proxy: StoreProxy, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store may have done it."""
    monkeypatch.setattr(client_module, "PATIENCE", 30.0)  # giving it back has time
    rule = proxy.fault(late(0.2), "lease_take", times=1)
    async with server(proxy.url, is_taken=False) as (lease, _), trio.open_nursery() as nursery:
        nursery.start_soon(lease.take)
        await eventually(lambda: rule.hits == 1)
        nursery.cancel_scope.cancel()
    assert await redis.execute("EXISTS", LEASE) == 0
    assert await redis.execute("EXISTS", LAST) == 1


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://h", "jsbox-n"),
        ("rediss://u:p@h:1/2?ssl_cert_reqs=none", "jsbox-n"),
        ("unix:///v.sock", "jsbox-n"),
        ("redis://h?client_name=own", ""),
        ("redis+cluster://h", ""),
    ],
)
def test_connections_have_a_name_where_they_can(url: str, name: str) -> None:
    assert connection_name(url, "n") == name


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (refuse("NOPERM"), "cannot be ended: NOPERM"),
        (answer(b":1\r\n"), "internal error in lease (ending the connections of"),
    ],
)
async def test_a_store_that_lists_no_clients_can_be_taken_over(
    act: Act, said: str, proxy: StoreProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not allow that, or its answer is no list."""
    async with server(proxy.url) as (_, client):
        await client.execute("PING")
        kept = await client.execute("GET", LAST)
    async with open_redis(proxy.url) as client:
        await client.execute("SET", LAST, kept)
    proxy.fault(act, "CLIENT")
    async with server(proxy.url, "b") as (_, client):
        assert await client.execute("PING") == b"PONG"
    assert said in caplog.text
    assert msgspec.json.decode(kept)["connection"].startswith("jsbox-")


async def test_a_store_that_is_away_at_the_end_is_not_waited_for(proxy: StoreProxy) -> None:
    with trio.fail_after(module.GIVE_SECONDS + 10):
        async with server(proxy.url):
            proxy.stop()


async def test_errors_of_the_store_are_the_callers(proxy: StoreProxy) -> None:
    async with server(proxy.url, is_taken=False) as (lease, _):
        proxy.stop()
        with pytest.raises(StoreError):
            await lease.take()
