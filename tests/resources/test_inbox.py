"""What other servers say, from a store whose disk is full."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
import trio

from resources.stores.inbox import SILENCE, open_inbox

from ..service import eventually
from ..valkey_server import valkey_server


def refuses(store: redis.Redis) -> bool:
    try:
        store.set("x", 1)
    except redis.ResponseError as error:
        return "MISCONF" in str(error)
    return False


@pytest.mark.slow  # it is silent for some seconds
async def test_a_server_that_refuses_a_ping_is_heard(tmp_path: Path) -> None:
    """It refuses it while it cannot write to its disk; the connection stands."""
    looked: list[int] = []
    heard: list[bytes] = []
    with valkey_server(tmp_path) as server, redis.Redis.from_url(server.url, protocol=2) as store:
        store.config_set("save", "3600 1")
        store.set("x", 1)
        (tmp_path / "dump.rdb").mkdir()
        async with open_inbox(server.url, "us", heard.append, lambda: looked.append(1)) as inbox:
            await eventually(lambda: inbox.is_up)
            store.bgsave()
            await eventually(lambda: refuses(store))
            await trio.sleep(1.5 * SILENCE)
            store.config_set("save", "")
            store.publish("us", b"hello")
            await eventually(lambda: heard == [b"hello"])
            assert looked == [1]
