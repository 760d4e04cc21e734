"""Clients that hold connections: the silent, too many of them, those that do not read. Each is
closed alone, and others are served.
"""

from __future__ import annotations

import itertools
import json
import socket as sockets
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio_websocket import ConnectionClosed

from resources.fence import tally
from resources.messages import send
from resources.stores.identity import Sender
from supervisor.gateway import connection, greeting
from supervisor.gateway.connection import Connection
from supervisor.gateway.intake import Intake
from supervisor.gateway.socket import STUFFED
from supervisor.ports import accepting
from supervisor.service import Service

from ...gateway_client import connect
from ...service import ECHO, Folder, eventually, running
from .inside import assert_serves, is_empty, queued
from .raw_client import HELLO, PING, TEXT, UPGRADE, all_of, close_code, masked, plain, raw


async def test_the_silent_are_closed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the request, in the middle of it, before the hello, in the middle of that, and however
    slowly they go on.
    """
    monkeypatch.setattr(greeting, "HELLO_SECONDS", 0.5)
    starts = [b"", b"GET", UPGRADE]
    for start in starts:
        async with plain(service) as stream:
            await stream.send_all(start)
            assert (await all_of(stream)).startswith(b"HTTP/1.1 408 ")
    async with raw(service, hello=False) as stream:
        assert close_code(await all_of(stream)) == 4408
    async with raw(service, hello=False) as stream:
        await stream.send_all(masked(TEXT, json.dumps(HELLO).encode())[:20])
        assert close_code(await all_of(stream)) == 4408
    async with raw(service, hello=False) as stream, trio.open_nursery() as nursery:

        async def drip() -> None:
            with suppress(trio.BrokenResourceError):
                while True:
                    await stream.send_all(masked(PING))
                    await trio.sleep(0.01)

        nursery.start_soon(drip)
        assert close_code(await all_of(stream)) == 4408
        nursery.cancel_scope.cancel()
    await eventually(lambda: service.gateway.door.open == 0)


@asynccontextmanager
async def bounded(folder: Folder, connections: int) -> AsyncIterator[Service]:
    """A service that takes few connections."""
    folder.text += f"[gateway]\nconnections = {connections}\n"
    folder.app("phone", ECHO)
    async with running(folder) as service:
        yield service


async def test_a_full_port_turns_away_at_once(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 while nobody is known; once the silent clients' grace is over, new clients take their
    place.
    """
    monkeypatch.setattr(greeting, "HELLO_SECONDS", 1000.0)
    monkeypatch.setattr(accepting, "GRACE_SECONDS", 1000.0)
    async with bounded(folder, 3) as service, trio.open_nursery() as nursery:
        silent = [await nursery.start(hold_open, service) for _ in range(3)]
        await eventually(lambda: service.gateway.door.open == 3)
        async with plain(service) as stream:
            assert (await all_of(stream)).startswith(b"HTTP/1.1 503 ")
        monkeypatch.setattr(accepting, "GRACE_SECONDS", 0.0)
        await assert_serves(service)
        assert (await all_of(silent[0])).startswith(b"HTTP/1.1 503 ")
        assert service.gateway.door.open <= 3
        nursery.cancel_scope.cancel()


async def hold_open(service: Service, *, task_status: trio.TaskStatus[trio.SocketStream]) -> None:
    async with plain(service) as stream:
        task_status.started(stream)
        await trio.sleep_forever()


async def test_when_all_are_known_the_next_is_told(folder: Folder) -> None:
    """1013, with an error frame; the others go on, and a client that leaves makes room."""
    async with bounded(folder, 2) as service, connect(service.gateway_url) as one:
        async with connect(service.gateway_url):
            async with connect(service.gateway_url, None) as third:
                assert await third.expect_close() == 1013
            assert (await one.say("x"))[0]["outcome"] == "ok"
        await eventually(lambda: service.gateway.door.open == 1)
        await assert_serves(service)


async def test_an_error_of_ours_closes_that_connection_alone(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a handler, in a timer, in the greeting: 1011, logged once, counted."""
    before = tally["gateway"]
    async with connect(service.gateway_url) as other:
        for kind, name in (
            (Intake, "offer"),
            (Connection, "_write"),
            (Connection, "_ping"),
            (Intake, "run"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(kind, name, lambda *_: 1 / 0)
                async with connect(service.gateway_url, None) as client:
                    await client.send(HELLO)
                    with suppress(ConnectionClosed):
                        await client.send({"type": "inbound", "id": "x", "msg": {}})
                    assert await client.expect_close() == 1011
        with monkeypatch.context() as patch:
            patch.setattr(greeting, "_hello", lambda *_: 1 / 0)
            async with connect(service.gateway_url, None) as client:
                assert await client.expect_close() == 1011
        assert (await other.say("x"))[0]["outcome"] == "ok"
    assert tally["gateway"] == before + 5


RUDE: dict[str, Callable[[int], bytes]] = {
    "bad messages": lambda _: masked(
        TEXT, json.dumps({"type": "inbound", "id": "i" * 8000, "msg": 5}).encode()
    ),
    "unreadable": lambda _: masked(TEXT, b'{"type":"event","id":"%s","event":NaN}' % (b"i" * 8000)),
    "pings": lambda _: masked(PING, b"p" * 125) * 60,
    "events": lambda n: masked(
        TEXT,
        json.dumps(
            {
                "type": "event",
                "id": "i" * 7000,
                "event": {
                    "event_type": "ack",
                    "event_id": str(n),
                    "user_message_id": "u",
                    "sent_message_id": "s",
                },
            }
        ).encode(),
    ),
}


@pytest.mark.parametrize("what", RUDE)
async def test_who_asks_and_does_not_read_costs_little_and_is_closed(
    service: Service, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its frames are not read while too much waits for it; then it is closed, and nothing is kept
    of it.
    """
    monkeypatch.setattr(connection, "WRITE_SECONDS", 0.5)
    most = 0
    async with raw(service) as stream, trio.open_nursery() as nursery:

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, queued(service))
                await trio.sleep(0.005)

        nursery.start_soon(watch)
        with suppress(trio.BrokenResourceError), trio.fail_after(60):
            for n in itertools.count():
                await stream.send_all(RUDE[what](n))
        nursery.cancel_scope.cancel()
    assert most < STUFFED + 100_000
    await eventually(lambda: is_empty(service), 20)
    await assert_serves(service)


async def test_who_reads_slowly_is_served(service: Service) -> None:
    """As long as it reads, everything comes, and little is queued at a time."""
    await post(service, 300, size=20_000)
    async with raw(service, window=10_000) as stream:
        got, most, data = 0, 0, b""
        with trio.fail_after(60):
            while got < 300:
                most = max(most, queued(service))
                data += await stream.receive_some(50_000)
                count, data = data.count(b'"type":"outbound"'), data[-20:]
                got += count
                await trio.sleep(0.002)
        assert most < STUFFED + 100_000


async def post(service: Service, count: int, size: int) -> None:
    """Messages to the channel."""
    for _ in range(count):
        message = send("+27", "x" * size, endpoint="default", helper_metadata={})
        await service.stores.outbox.post("phone", Sender("acct", "phone"), message)


async def test_a_client_that_dies_with_its_queue_full_ends(folder: Folder) -> None:
    """What it had goes to another at once, though its reader waited for room."""
    folder.app("phone", ECHO)
    async with running(folder) as service:
        await post(service, 200, size=30_000)
        async with connect(service.gateway_url, "phone", acknowledge=False, window=1) as good:
            async with raw(service, window=10_000) as stream:
                await eventually(lambda: queued(service) > STUFFED, 20)
                with trio.move_on_after(1):  # a reader that waits for room
                    while True:
                        await stream.send_all(RUDE["bad messages"](0))
                stream.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
            await eventually(lambda: service.gateway.connections("phone") == 1, 20)
            got = {(await good.expect("outbound"))["delivery"]}
            good.acknowledge = True
            await good.send({"type": "ack", "delivery": min(got)})
            with trio.fail_after(60):
                while await service.stores.outbox.waiting("phone"):
                    await trio.sleep(0.02)
