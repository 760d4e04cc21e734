"""The fault-injecting store: it passes on what no rule picks, and does to the rest what the rule
says.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from resources.stores.keyspace import script_keys
from resources.stores.scripts import script

from .store_faults import answer, cut, drip, garbage, half, late, refuse
from .store_proxy import StoreProxy


@pytest.fixture
def client(proxy: StoreProxy) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(proxy.url, retry=Retry(NoBackoff(), 0), socket_timeout=5) as made:
        made.flushall()
        yield made


def test_what_no_rule_picks_passes(proxy: StoreProxy, client: redis.Redis) -> None:
    """Any kind of answer, of any size, pipelined or not."""
    client.set("big", b"\r\n\0" * 100_000)
    assert client.get("big") == b"\r\n\0" * 100_000
    client.rpush("list", *range(100))
    assert len(client.lrange("list", 0, -1)) == 100
    with client.pipeline(transaction=True) as pipeline:
        assert pipeline.incr("n").get("none").lrange("list", 0, 1).execute() == [
            1,
            None,
            [b"0", b"1"],
        ]
    assert client.eval("return {1, {'a', false}, redis.status_reply('fine')}", 0) == [
        1,
        [b"a", None],
        b"fine",
    ]
    with pytest.raises(redis.ResponseError, match="wrong kind"):
        client.incr("list")
    assert proxy.commands["SET"] == 1


def test_rules_pick_commands(proxy: StoreProxy, client: redis.Redis) -> None:
    """By name, by number, by every k-th, at most so often; until they are lifted."""

    def refused(count: int, name: str = "INCR") -> list[int]:
        found = []
        for n in range(1, count + 1):
            try:
                client.execute_command(name, "n")
            except redis.ResponseError:
                found.append(n)
        return found

    with proxy.fault(refuse("OOM"), "INCR", nth=2):
        assert refused(4) == [2]
    with proxy.fault(refuse("OOM"), every=3, times=2):
        assert refused(10) == [3, 6]
        assert refused(3, "GET") == []  # an OOM does not meet what reads
    with proxy.fault(refuse("BUSY")):
        assert refused(1, "GET") == [1]
    assert refused(5) == []
    proxy.fault(refuse("OOM"), "GET")
    assert refused(1, "GET") == [1]
    proxy.cure()
    assert refused(1, "GET") == []


def test_scripts_have_names(proxy: StoreProxy, client: redis.Redis) -> None:
    """A call of ours is known by its script, in either form."""
    one = script("kv_delete")
    keys = script_keys("a", "k")
    client.eval(one.text, len(keys), *keys, "k")
    client.execute_command(*one.call(keys, "k"))
    assert proxy.commands["kv_delete"] == 2
    with (
        proxy.fault(refuse("READONLY"), "kv_delete"),
        pytest.raises(redis.exceptions.ReadOnlyError, match="replica"),
    ):
        client.execute_command(*one.call(keys, "k"))


@pytest.mark.parametrize(("after", "value"), [(False, None), (True, b"1")])
def test_cuts(proxy: StoreProxy, client: redis.Redis, after: bool, value: bytes | None) -> None:
    """Before the command is carried out, or after."""
    with proxy.fault(cut(after=after), "SET"), pytest.raises(redis.ConnectionError):
        client.set("x", 1)
    assert client.get("x") == value


def test_answers_that_are_none(proxy: StoreProxy, client: redis.Redis) -> None:
    """Garbage, half an answer, an answer of the wrong kind, one byte after the other, and late."""
    client.set("x", "value")
    for act in (garbage(), half()):
        with proxy.fault(act, "GET", times=1), pytest.raises(redis.RedisError):
            client.get("x")
        assert client.get("x") == b"value"
    with proxy.fault(answer(b":5\r\n"), "GET"):
        assert client.get("x") == 5
    with proxy.fault(drip(0.001), "GET"):
        assert client.get("x") == b"value"
    began = time.monotonic()
    with proxy.fault(late(0.2), "GET"):
        assert client.get("x") == b"value"
    assert time.monotonic() - began >= 0.2


def test_away_and_back(proxy: StoreProxy, client: redis.Redis) -> None:
    """While it is away every connection fails."""
    proxy.stop()
    with pytest.raises(redis.ConnectionError):
        client.ping()
    proxy.start()
    assert client.ping()


def test_the_store_goes_back_in_time(proxy: StoreProxy, client: redis.Redis) -> None:
    """Values, streams with their last number, and lifetimes are as they were."""
    client.xadd("stream", {"m": 1}, "7-1")
    client.set("lives", 1, ex=1000)
    moment = proxy.remember()
    client.xadd("stream", {"m": 2}, "8-1")
    client.set("later", 1)
    proxy.go_back(moment)
    assert client.get("later") is None
    assert 900 < client.ttl("lives") <= 1000
    assert [place for place, _ in client.xrange("stream")] == [b"7-1"]
    assert client.xadd("stream", {"m": 3}, "8-1") == b"8-1"
    proxy.go_back()
    assert client.dbsize() == 0
