"""The Redis client's connection: made, lost, made again, and closed."""

from __future__ import annotations

import pytest
import trio

from resources.stores import redis as module
from resources.stores.errors import SOON
from resources.stores.redis import Redis, StoreRefused, Unavailable, open_redis

from ..service import eventually
from ..store_faults import late
from ..store_proxy import StoreProxy, store_proxy
from .asking import outcome
from .strange_link import StrangeLink


async def test_a_connection_that_was_closed_meanwhile_is_nobodys_error(proxy: StoreProxy) -> None:
    """Nothing was sent on it: the commands go out on the next one, once."""
    async with open_redis(proxy.url) as client:
        await client.execute("INCR", "n")
        proxy.cut()
        for _ in range(10):  # the end of the connection is here when it is here
            assert not isinstance(await outcome(client, "PING"), StoreRefused)
        await client.execute("SET", "n", 0)
        await eventually(lambda: client.statistics().up)
        proxy.cut()
        await eventually(lambda: client._connection._direct is None or client._connection.is_stale)
        assert await client.execute("INCR", "n") == 1


async def test_a_store_that_goes_while_nobody_asks_is_noticed(
    proxy: StoreProxy, quick: None
) -> None:
    """It is reported as a problem, and its return is noticed, too, without a command."""
    reported: list[bool] = []

    def bad() -> None:
        reported.append(False)
        raise RuntimeError("a listener that fails")

    async with open_redis(proxy.url) as client:
        client.on_reconnect += [bad, lambda: reported.append(True)]
        await client.execute("PING")
        proxy.stop()
        await eventually(lambda: not client.statistics().up)
        await eventually(lambda: "Redis cannot be reached" in client.statistics().problem)
        assert client.statistics().concerns_all
        assert reported == []
        proxy.start()
        await eventually(lambda: client.statistics().up)
        assert reported == [False, True]
        assert client.statistics().problem == ""


async def test_patience_ends_while_a_connection_is_being_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An attempt to connect that hangs (a name server that does not answer) is no reason to wait
    longer.
    """
    link = StrangeLink()
    monkeypatch.setattr(module, "link_to", lambda _: link)
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    monkeypatch.setattr(module, "TICK", 0.05)
    async with open_redis("any") as client:
        with trio.fail_after(5):
            error = await outcome(client, "GET", "x")
        assert isinstance(error, Unavailable)
        assert (error.sent, error.retry_after) == (False, SOON)


@pytest.mark.parametrize(
    "url", ["redis://localhost:notaport", "redis://[::1", "nonsense", "redis://127.0.0.1:1", ""]
)
async def test_a_url_that_leads_nowhere_is_reported(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the reason, within the client's patience."""
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    async with open_redis(url) as client:
        with trio.fail_after(5):
            error = await outcome(client, "PING")
        assert isinstance(error, Unavailable)
        assert str(error).startswith("Redis cannot be reached: ")


async def test_closing_lets_everybody_go(plain_or_tls: StoreProxy) -> None:
    """A server has stopped answering: whoever waits, or is queued, learns at once that the client
    was closed.
    """
    found: list[object] = []

    async def caller(client: Redis, number: int) -> None:
        with trio.CancelScope(shield=True):
            found.append(await outcome(client, "SET", "x", number))

    plain_or_tls.fault(late(float("inf")), "SET")
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        async with open_redis(plain_or_tls.url) as client:
            await client.execute("PING")
            nursery.start_soon(caller, client, 1)
            await eventually(lambda: plain_or_tls.commands["SET"] == 1)
            nursery.start_soon(caller, client, 2)
            await eventually(lambda: len(client._line.queue) == 1)
    assert trio.current_time() - began < 4  # FLUSH_SECONDS; the server's time is 5 s a command
    assert sorted(getattr(error, "sent", None) for error in found) == [False, True]
    assert all("closed" in str(error) for error in found), found


async def test_closing_does_not_wait_for_a_connection(valkey: str) -> None:
    """Nor for a thread that is still connecting; should it succeed, its connection is closed all
    the same.
    """
    with store_proxy(valkey) as proxy:
        proxy.fault(late(1.5), "SCRIPT", times=1)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            async with open_redis(proxy.url) as client:
                nursery.start_soon(outcome, client, "PING")
                await eventually(lambda: proxy.commands["SCRIPT"] >= 1)
        assert trio.current_time() - began < 1.4
        await eventually(lambda: not proxy._sessions)
