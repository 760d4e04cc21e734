"""Clients that say nothing: those that answer pings stay, others go."""

from __future__ import annotations

import pytest
import trio
import wsproto
from wsproto import events

from supervisor.gateway import connection
from supervisor.service import Service

from ...gateway_client import PATIENCE, connect
from ...service import eventually

PINGS = 3


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PING_SECONDS", 0.01)
    monkeypatch.setattr(connection, "PONG_SECONDS", 2.0)


async def test_an_idle_client_that_answers_pings_stays(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, and however late the server checks for the answer."""
    sleep = trio.sleep

    async def overslept(seconds: float) -> None:
        await sleep(seconds + 0.02)

    async with connect(service.gateway_url) as client:
        monkeypatch.setattr(connection.trio, "sleep", overslept)
        sent = 0
        ping = connection.ServerSocket.ping

        def counted(socket: connection.ServerSocket) -> None:
            nonlocal sent
            sent += 1
            ping(socket)

        monkeypatch.setattr(connection.ServerSocket, "ping", counted)
        await eventually(lambda: sent >= PINGS or client.closed, PATIENCE)
        assert client.closed is None
        await client.say("x", "new")


async def test_a_client_that_answers_nothing_goes(service: Service) -> None:
    """It has said hello, and then neither reads nor sends."""
    client = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    async with await trio.open_tcp_stream("127.0.0.1", service.gateway.port) as stream:
        await stream.send_all(client.send(events.Request(host="localhost", target="/v1")))
        client.receive_data(await stream.receive_some(4096))
        assert any(isinstance(event, events.AcceptConnection) for event in client.events())
        await stream.send_all(
            client.send(events.TextMessage('{"type": "hello", "channel": "phone"}'))
        )
        await eventually(lambda: service.gateway.connections("phone") == 1, PATIENCE)
        await eventually(lambda: service.gateway.connections("phone") == 0, PATIENCE)
