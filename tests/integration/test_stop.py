"""How a server ends: the first signal lets things end, the second does not wait, and nothing that
was accepted is lost.
"""

from __future__ import annotations

import resource
import signal
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
import trustme

from ..gateway_client import PATIENCE, Client, connect, inbound
from ..programs import serve
from ..service import ECHO, Folder

UPGRADE = (
    b"GET /v1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
HELLO = b'\x81\xb7\0\0\0\0{"type":"hello","channel":"phone","window":100,"a":"x"}'
SLOW = "require('timers').setTimeout(function () { " + ECHO + " }, %d);"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


async def begin(client: Client) -> None:
    """A run, m1, that is in progress."""
    await client.send(inbound("m1", "m1"))
    await client.expect("accepted")
    await trio.sleep(0.3)


async def test_the_first_signal_lets_runs_end(folder: Folder) -> None:
    """Gateways are told, nothing new is taken, the run in progress ends and its reply goes out, the
    connection is closed as a restart; exit 0.
    """
    folder.app("phone", SLOW % 800, 'modules = ["timers"]')
    with serve(folder.config) as server:
        async with connect(server.gateway) as client:
            await begin(client)
            server.process.send_signal(signal.SIGTERM)
            assert (await client.expect("drain"))["deadline_ms"] == 20000
            await client.send(inbound("m2", "m2"))
            assert (await client.expect("rejected"))["code"] == "draining"
            assert (await client.expect("outbound"))["msg"]["content"] == "you said m1"
            await client.expect("outcome", message_id="m1", outcome="ok")
            assert await client.expect_close() == 1012
        assert await trio.to_thread.run_sync(server.process.wait) == 0


async def test_the_second_signal_does_not_wait_and_loses_nothing(folder: Folder) -> None:
    """A run that would take a minute is cut off, stays in the journal, and is run at the next
    start.
    """
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
    (folder.path / "phone.js").write_text(
        "api.on_inbound_message = function (command) { " + ECHO + " };"
    )
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
            (
                "api.request('metrics.fire', {store: 's', metric: 'm', value: 7, agg: 'sum'},"
                " function () { "
            )
            + ECHO
            + " });"
        )
        folder.app("phone", fire, f'metrics = {{ graphite = "127.0.0.1:{port}", bucket = "1h" }}')
        with serve(folder.config) as server:
            async with connect(server.gateway) as client:
                await client.say("hi", "new")
        await trio.to_thread.run_sync(collecting.join, 10)
    assert b"go.campaigns.acct.stores.s.m.sum 7" in got


HOSTILE = {
    "says nothing": b"",
    "stops in its request": b"GET /v1 HTTP/1.1\r\nHost: x\r\n",
    "says no hello": UPGRADE,
    "does not answer the close": UPGRADE + HELLO,
    "stops in a frame": UPGRADE + HELLO + b"\x81\xfe\x10\x00\0\0\0\0[",
    "sends what is no frame": UPGRADE + HELLO + b"\xff\xff\xff\xff",
}


@pytest.mark.parametrize("times", [1, 2])
async def test_no_client_holds_up_the_end(folder: Folder, times: int) -> None:
    """However many there are that do nothing they should, and whatever was not acknowledged: exit
    0, in time.
    """
    folder.text += '[gateway]\ndrain = "2s"\n'
    folder.app(
        "phone",
        (
            "for (var i = 0; i < 40; i++) api.request('outbound.send_to', {to_addr: '1', content:"
            " big}, function () {});"
        ).replace("big", "Array(100000).join('x')")
        + ECHO,
    )
    with serve(folder.config) as server:
        port = int(server.gateway.split(":")[2].split("/")[0])
        with ExitStack() as stack:
            for data in (*HOSTILE.values(), UPGRADE + HELLO.replace(b'"x"', b'"y"')):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.sendall(data)
            async with connect(server.gateway, acknowledge=False, window=1000) as client:
                await client.send(inbound("m1", "m1"))
                await client.expect("outcome", 30, message_id="m1")
                await client.expect("outbound")
            began = time.monotonic()
            for _ in range(times):
                server.process.send_signal(signal.SIGTERM)
                await trio.sleep(0.1)
            code = await trio.to_thread.run_sync(server.process.wait)
            assert code == 0, server.log.read_text()
            assert time.monotonic() - began < 30
    assert "Traceback" not in server.log.read_text()


async def test_no_tls_client_holds_up_the_end(folder: Folder) -> None:
    """Nor one that stops in its TLS handshake, before or in its first record."""
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder.path / "cert.pem")
    issued.private_key_pem.write_to_path(folder.path / "key.pem")
    folder.text = folder.text.replace(
        "[listen]\n", '[listen]\ncertificate = "cert.pem"\nkey = "key.pem"\n'
    )
    folder.app("phone", ECHO)
    with serve(folder.config) as server, ExitStack() as stack:
        port = int(server.gateway.split(":")[2].split("/")[0])
        for data in (
            b"",
            b"\x16\x03\x01\x02",
            b"\x16\x03\x01\x00\x05hello",
            b"GET / HTTP/1.1\r\n\r\n",
        ):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(data)
        await trio.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(server.process.wait) == 0
    assert "Traceback" not in server.log.read_text()


async def test_out_of_descriptors_a_port_waits_until_there_are_some(folder: Folder) -> None:
    """Whoever connects meanwhile is served afterwards; nothing ends."""
    folder.app("phone", ECHO)
    with serve(folder.config) as server:
        async with connect(server.gateway) as client:
            await client.say("a process is there", "new")
        port = int(server.gateway.split(":")[2].split("/")[0])
        pid = server.process.pid
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(
            pid, resource.RLIMIT_NOFILE, (len(list(Path(f"/proc/{pid}/fd").iterdir())) + 3, hard)
        )
        with ExitStack() as stack, trio.fail_after(PATIENCE):
            # Not a fixed number: a process being started may have held descriptors just now.
            while "gateway.accept" not in server.log.read_text():
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                await trio.sleep(0.05)
        async with connect(server.gateway) as client:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
            assert (await client.say("hi", "new"))[0]["outcome"] == "ok"
