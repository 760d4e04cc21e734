"""How a server ends: the first signal lets things end, the second does not wait, and nothing that was accepted is lost."""

from __future__ import annotations

import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import trio

from ..gateway_client import Client, connect
from ..programs import serve
from ..service import ECHO, Folder

SLOW = "require('timers').setTimeout(function () { " + ECHO + " }, %d);"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def message(name: str) -> dict[str, object]:
    return {
        "type": "inbound",
        "id": name,
        "msg": {"message_id": name, "from_addr": name, "to_addr": "1", "content": name, "session_event": "new"},
    }


async def begin(client: Client) -> None:
    """A run, m1, that is in hand."""
    await client.send(message("m1"))
    await client.expect("accepted")
    await trio.sleep(0.3)


async def test_the_first_signal_lets_runs_end(folder: Folder) -> None:
    """Gateways are told, nothing new is taken, the run in hand ends and its reply goes out, the connection is closed as a restart; exit 0."""
    folder.app("phone", SLOW % 800, 'modules = ["timers"]')
    with serve(folder.config) as server:
        async with connect(server.gateway) as client:
            await begin(client)
            server.process.send_signal(signal.SIGTERM)
            assert (await client.expect("drain"))["deadline_ms"] == 20000
            await client.send(message("m2"))
            assert (await client.expect("rejected"))["code"] == "draining"
            assert (await client.expect("outbound"))["msg"]["content"] == "you said m1"
            await client.expect("outcome", message_id="m1", outcome="ok")
            assert await client.expect_close() == 1012
        assert await trio.to_thread.run_sync(server.process.wait) == 0


async def test_the_second_signal_does_not_wait_and_loses_nothing(folder: Folder) -> None:
    """A run that would take a minute is cut off, stays in the journal, and is run at the next start."""
    folder.app("phone", SLOW % 60_000, 'modules = ["timers"]\nlimits = { wall = "2m" }')
    with serve(folder.config) as server:
        async with connect(server.gateway) as client:
            await begin(client)
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            await client.expect("drain")
            server.process.send_signal(signal.SIGTERM)
            assert await client.expect_close() == 1012
        assert await trio.to_thread.run_sync(server.process.wait) == 0
        assert time.monotonic() - began < 8
    (folder.path / "phone.js").write_text("api.on_inbound_message = function (command) { " + ECHO + " };")
    with serve(folder.config) as server:
        async with connect(server.gateway) as client:
            assert (await client.expect("outbound"))["msg"]["content"] == "you said m1"


async def test_metrics_that_were_fired_are_written_out(folder: Folder) -> None:
    """Those of the bucket that has not ended yet reach Graphite before the end."""
    got = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def collect() -> None:
            connection, _ = listener.accept()
            with connection:
                while data := connection.recv(4096):
                    got.extend(data)

        collecting = threading.Thread(target=collect, daemon=True)
        collecting.start()
        fire = (
            "api.request('metrics.fire', {store: 's', metric: 'm', value: 7, agg: 'sum'}, function () { "
            + ECHO
            + " });"
        )
        folder.app("phone", fire, f'metrics = {{ graphite = "127.0.0.1:{port}", bucket = "1h" }}')
        with serve(folder.config) as server:
            async with connect(server.gateway) as client:
                await client.say("hi", "new")
        await trio.to_thread.run_sync(collecting.join, 10)
    assert b"go.campaigns.acct.stores.s.m.sum 7" in got
