"""A server that begins to share the work while the store has its troubles."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from resources.stores import inbox
from resources.stores.inbox import open_inbox
from resources.stores.redis import Redis
from supervisor.cluster.sharing import sum_of
from supervisor.config import load

from ...gateway_client import connect
from ...resp import Command
from ...service import ECHO, HEAD, Folder, running
from ...store_faults import Act, Session, refuse
from ...store_proxy import StoreProxy


def busy_at_first(key: bytes, met: list[bytes]) -> Act:
    """The store is busy when it is first asked for a key; the search process asks for others."""

    def do(session: Session, command: Command) -> None:
        if key in command[1:] and key not in met:
            met.append(key)
            refuse("BUSY").do(session, command)
        else:
            session.send(session.ask(command))

    return Act(do)


async def test_the_start_waits_for_the_store(
    proxy: StoreProxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It asks how many partitions there are, then who lives: either may not be answered."""
    folder = Folder(tmp_path)
    folder.text += f'[redis]\nurl = "{proxy.url}"\n[cluster]\nmode = "shared"\npartitions = 4\n'
    folder.text += "[accounts.acct]\n"
    folder.app("phone", ECHO)
    met = list[bytes]()
    for name, key in (("GET", b"jsbox:partitions"), ("HGETALL", b"jsbox:hosts")):
        proxy.fault(busy_at_first(key, met), name)
    async with running(folder) as service, connect(service.gateway_url) as client:
        assert (await client.say("hello"))[0]["outcome"] == "ok"
    assert met == [b"jsbox:partitions", b"jsbox:hosts"]
    assert caplog.text.count("the start waits for the store (the other servers)") == 2


def test_servers_notice_that_they_run_other_code(tmp_path: Path) -> None:
    """Not only another config: the text of an app counts."""
    folder = Folder(tmp_path, HEAD + "[accounts.acct]\n")
    folder.app("phone", ECHO)
    before = sum_of(load(folder.config))
    assert sum_of(load(folder.config)) == before
    (tmp_path / "phone.js").write_text("api.on_inbound_message = function () { api.done(); };")
    assert sum_of(load(folder.config)) != before


async def test_the_inbox_outlives_what_nobody_expects(
    redis: Redis, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It connects again, and says that something may have been missed."""
    make, calls, heard, looked = inbox._client, list[str](), list[bytes](), trio.Event()

    def client(url: str) -> object:
        calls.append(url)
        if len(calls) == 1:
            raise RuntimeError("a bug of the library")
        return make(url)

    monkeypatch.setattr(inbox, "_client", client)
    with trio.fail_after(10):
        async with open_inbox(valkey, "news", heard.append, looked.set):
            await looked.wait()
            await redis.execute("PUBLISH", "news", "one")
            while not heard:
                await trio.sleep(0.01)
    assert heard == [b"one"]
    assert len(calls) == 2
