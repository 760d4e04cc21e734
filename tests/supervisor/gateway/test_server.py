"""A connection to the gateway, black-box over WebSocket: its start, its end, every close code."""

from __future__ import annotations

import json

import pytest
import trio
from trio_websocket import HandshakeError

from supervisor.client.websocket import open_websocket
from supervisor.gateway import greeting
from supervisor.service import Service

from ...gateway_client import connect
from ...in_turn import in_turn
from ...service import ECHO, Folder, running
from ..conftest import TOKEN
from .messages import inbound


async def test_welcome_states_the_terms(service: Service) -> None:
    """Connection, credit and frame size; the client's first frame must be hello."""
    async with open_websocket(service.gateway_url, ["jsbox.v1"]) as socket:
        await socket.send_message('{"type":"hello","channel":"phone"}')
        welcome = json.loads(await socket.get_message())
        assert socket.subprotocol == "jsbox.v1"
    assert welcome == {"type": "welcome", "connection": "c1", "credit": 4, "max_frame": 8192}


@in_turn(
    ("first", "code", "name"),
    [
        ("not json", 4400, "protocol"),
        ("[]", 4400, "protocol"),
        ('{"type":"nothing"}', 4400, "protocol"),
        ('{"type":"inbound","id":"1","msg":{}}', 4400, "protocol"),
        ('{"type":"hello"}', 4400, "protocol"),
        ('{"type":"hello","channel":5}', 4400, "protocol"),
        ('{"type":"hello","channel":"phone","window":0}', 4400, "protocol"),
        ('{"type":"hello","channel":"phone","window":"x"}', 4400, "protocol"),
        ('{"type":"hello","channel":"nowhere"}', 4403, "channel"),
        ('{"type":"hello","channel":"secret"}', 4401, "token"),
        ('{"type":"hello","channel":"secret","token":"wrong"}', 4401, "token"),
        ('{"type":"hello","channel":"phone","x":"' + "y" * 9000 + '"}', 4413, "frame_too_big"),
    ],
)
async def test_a_bad_start_is_closed_with_its_code(
    service: Service, first: str, code: int, name: str
) -> None:
    """The reason is said in an error frame first."""
    async with connect(service.gateway_url, None) as client:
        await client.send(first)
        error = await client.expect("error")
        assert (error["code"], error["fatal"]) == (name, True)
        assert error["detail"]
        assert await client.expect_close() == code


@in_turn(
    ("frame", "code"),
    [
        ("oops", 4400),
        ('{"type":"welcome"}', 4400),
        ('{"type":"hello","channel":"phone"}', 4400),
        ('{"type":"ack"}', 4400),
        ('{"type":"ack","delivery":"1"}', 4400),
        ('{"type":"inbound","msg":{}}', 4400),
        ('{"type":"inbound","id":1,"msg":{}}', 4400),
        ('{"type":"inbound","id":"1","msg":{"content":"' + "é" * 5000 + '"}}', 4413),
        ("[" * 5000, 4400),
    ],
)
async def test_a_bad_frame_later_is_closed_with_its_code(
    service: Service, frame: str, code: int
) -> None:
    """The protocol holds to the end."""
    async with connect(service.gateway_url) as client:
        await client.send(frame)
        assert await client.expect_close() == code


async def test_a_silent_client_is_closed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hello in time: 4408."""
    monkeypatch.setattr(greeting, "HELLO_SECONDS", 0.2)
    async with connect(service.gateway_url, None) as client:
        assert await client.expect_close() == 4408


async def test_tokens_come_in_the_header_or_in_hello(service: Service) -> None:
    """Either way; compared by digest."""
    async with connect(service.gateway_url, "secret", token=TOKEN) as client:
        assert (await client.say("x"))[0]["outcome"] == "ok"
    async with connect(
        service.gateway_url, "secret", headers=[(b"Authorization", b"Bearer " + TOKEN.encode())]
    ) as client:
        assert (await client.say("x"))[0]["outcome"] == "ok"


async def test_web_pages_may_not_use_a_channel_without_tokens(service: Service) -> None:
    """A browser on this host says which page it shows; only pages from this host may."""
    async with connect(
        service.gateway_url, headers=[(b"Origin", b"https://evil.example")]
    ) as client:
        assert await client.expect_close() == 4401
    async with connect(
        service.gateway_url, headers=[(b"Origin", b"http://localhost:8420")]
    ) as client:
        assert (await client.say("x"))[0]["outcome"] == "ok"


async def test_other_paths_and_protocols_are_refused(service: Service) -> None:
    """Before there is a WebSocket."""
    for url, protocols in (
        (service.gateway_url + "2", ["jsbox.v1"]),
        (service.gateway_url, ["chat"]),
    ):
        with pytest.raises((HandshakeError, ExceptionGroup)):
            async with open_websocket(url, protocols):
                pass


async def test_a_drain_is_announced_and_runs_end(folder: Folder) -> None:
    """Drain: nothing new is taken, what is in progress ends and is delivered, and the connection
    closes with 1012.
    """
    javascript = "require('timers').setTimeout(function () { " + ECHO + " }, 300);"
    folder.app("phone", javascript, 'modules = ["timers"]')
    async with (
        running(folder) as service,
        connect(service.gateway_url) as client,
        trio.open_nursery() as nursery,
    ):
        await client.send(inbound("m1"))
        await client.expect("accepted")
        await trio.sleep(0.1)
        nursery.start_soon(service.drain)
        assert (await client.expect("drain"))["deadline_ms"] == 20000
        await client.send(inbound("m2"))
        assert (await client.expect("rejected"))["code"] == "draining"
        await client.expect("outbound")
        await client.expect("outcome", outcome="ok")
        service.gateway.close_all()
        assert await client.expect_close() == 1012
