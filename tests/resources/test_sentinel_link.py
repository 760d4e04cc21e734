"""The master is the one that a Sentinel names when a connection is made; here a server that says so
in a Sentinel's place (tests/integration/test_sentinel.py has real ones).
"""

from __future__ import annotations

import pytest

from resources.stores import redis as module
from resources.stores.redis import Unavailable, open_redis

from ..service import eventually
from ..store_faults import answer
from ..store_proxy import StoreProxy, store_proxy
from .asking import outcome
from .conftest import tls_context


def _master(url: str, flags: str = "master") -> bytes:
    """What SENTINEL MASTER answers."""
    words = ["name", "store", "ip", "127.0.0.1", "port", url.rpartition(":")[2], "flags", flags]
    told = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    return f"*{len(words)}\r\n{told}".encode()


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
async def test_each_connection_asks_anew(valkey: str, *, is_tls: bool) -> None:
    """Over TLS, too, with the same options; the next Sentinel is asked if one is dead."""
    tls, scheme = (tls_context(), "rediss") if is_tls else (None, "redis")
    with (
        store_proxy(valkey, tls) as first,
        store_proxy(valkey, tls) as second,
        store_proxy(valkey, tls) as sentinel,
    ):
        first.go_back()
        told = sentinel.fault(answer(_master(first.url.partition("?")[0])), "SENTINEL")
        dead_and_alive = f"127.0.0.1:1,{sentinel.url.partition('://')[2].partition('?')[0]}"
        url = f"{scheme}+sentinel://{dead_and_alive}/store/2?ssl_cert_reqs=none"
        if not is_tls:
            url = url.partition("?")[0]
        async with open_redis(url) as client:
            await client.execute("SET", "x", 1)
            assert first.commands["SET"] == 1
            assert first.commands["SELECT"] >= 1
            told.lift()
            sentinel.fault(answer(_master(second.url.partition("?")[0])), "SENTINEL")
            first.stop()
            while isinstance(found := await outcome(client, "GET", "x"), Unavailable):
                pass
            assert found == b"1"
            assert second.commands["GET"] == 1


@pytest.mark.parametrize(
    ("flags", "role", "words"),
    [
        ("master,s_down,o_down", None, "is master, s_down, o_down"),
        ("master", b"*1\r\n$5\r\nslave\r\n", "is not the master of store"),
    ],
)
async def test_a_failover_is_waited_for(
    proxy: StoreProxy, monkeypatch: pytest.MonkeyPatch, flags: str, role: bytes | None, words: str
) -> None:
    """While there is no master, callers learn why; then it goes on."""
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    with store_proxy(proxy.upstream) as sentinel:
        told = sentinel.fault(answer(_master(proxy.url, flags)), "SENTINEL")
        if role is not None:
            proxy.fault(answer(role), "ROLE")
        url = sentinel.url.replace("redis://", "redis+sentinel://") + "/store"
        async with open_redis(url) as client:
            with pytest.raises(Unavailable, match=words):
                await client.execute("PING")
            assert proxy.commands["PING"] == 0
            told.lift()
            proxy.cure()
            sentinel.fault(answer(_master(proxy.url)), "SENTINEL")
            await eventually(lambda: client.statistics().up)
            assert await client.execute("PING") == b"PONG"


async def test_sentinel_has_a_password_of_its_own(proxy: StoreProxy) -> None:
    """Its options do not reach the server."""
    with store_proxy(proxy.upstream) as sentinel:
        ok = answer(b"+OK\r\n")
        sentinel.fault(ok, "AUTH")
        sentinel.fault(answer(_master(proxy.url)), "SENTINEL")
        host = sentinel.url.partition("://")[2]
        url = f"redis+sentinel://{host}/store?sentinel_username=u&sentinel_password=p%40"
        async with open_redis(url) as client:
            await client.execute("PING")
        assert sentinel.commands["AUTH"] > 0
        assert proxy.commands["AUTH"] == 0


@pytest.mark.parametrize(
    "data",
    [
        b"*0\r\n",
        b"*1\r\n$2\r\nip\r\n",
        b"+OK\r\n",
        b":1\r\n",
        b"$-1\r\n",
        b"-ERR No such master\r\n",
    ],
)
async def test_an_answer_that_names_no_master(
    proxy: StoreProxy, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    """Is one reason among those of the other Sentinels."""
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    proxy.fault(answer(data), "SENTINEL")
    url = proxy.url.replace("redis://", "redis+sentinel://") + "/store"
    async with open_redis(url) as client:
        with pytest.raises(Unavailable, match=r"no Sentinel names a master of store: 127.0.0.1"):
            await client.execute("PING")
