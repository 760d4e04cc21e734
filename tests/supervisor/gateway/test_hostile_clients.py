"""Misbehaving gateway clients: each is closed alone, and others are served."""

from __future__ import annotations

import itertools
import json
import socket as sockets
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from attrs import define, evolve, field
from trio_websocket import ConnectionClosed

from resources.fence import tally
from resources.messages import send
from resources.stores.identity import Sender
from resources.stores.redis import StoreRefused
from supervisor.gateway import connection, greeting
from supervisor.gateway.connection import Connection
from supervisor.gateway.socket import STUFFED
from supervisor.ports import accepting
from supervisor.service import Service

from ...gateway_client import connect
from ...service import ECHO, Folder, eventually, running

KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
UPGRADE = (
    b"GET /v1 HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\n" + KEY
)
HELLO = {"type": "hello", "channel": "phone", "outcomes": True}


@asynccontextmanager
async def plain(service: Service) -> AsyncIterator[trio.SocketStream]:
    """A TCP connection to the gateway."""
    stream = await trio.open_tcp_stream("127.0.0.1", service.gateway.port)
    async with stream:
        yield stream


async def all_of(stream: trio.SocketStream) -> bytes:
    """Everything until the server closes."""
    data = bytearray()
    with trio.fail_after(20):
        try:
            while piece := await stream.receive_some(65536):
                data += piece
        except trio.BrokenResourceError:
            pass
    return bytes(data)


async def assert_serves(service: Service) -> None:
    """Assert that another client is answered."""
    async with connect(service.gateway_url) as client:
        assert (await client.say("still there"))[0]["outcome"] == "ok"


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.1\r\nHost: xn--1-zhc.evil.example:8430\r\n\r\n",
        b"GET /v1 HTTP/1.1\r\nHost: xn--a\r\n\r\n",
        UPGRADE + b"Host: \xff\r\n\r\n",
        UPGRADE + b"Host: a.\xf0\x9f\x98\x80\r\n\r\n",
        UPGRADE + b"Host: x\r\nSec-WebSocket-Protocol: jsbox.v1\xe9\r\n\r\n",
        UPGRADE + b"Host: x\r\nSec-WebSocket-Extensions: \x80\r\n\r\n",
        UPGRADE.replace(b"Connection: Upgrade", b"Connection: Upgrade, \xff") + b"Host: x\r\n\r\n",
        UPGRADE.replace(KEY, b"Sec-WebSocket-Key: \xff\r\n")
        + b"Host: x\r\nSec-WebSocket-Protocol: \xfe\r\n\r\n",
    ],
)
async def test_a_request_that_no_library_understands_is_a_bad_request(
    service: Service, request_head: bytes
) -> None:
    """Whatever exception it raises: HTTP 400, counted, and nobody else notices."""
    before = tally["gateway"]
    async with plain(service) as stream:
        await stream.send_all(request_head)
        assert (await all_of(stream)).startswith(b"HTTP/1.1 400 ")
    assert tally["gateway"] == before + 1
    await assert_serves(service)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\r\n\r\n",
        b"\x00" * 70_000,
        b"POST /v1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1 HTTP/1.1\r\n" + b"a: b\r\n" * 9000,
    ],
    ids=["tls", "empty lines", "zeros", "post", "long head"],
)
async def test_what_is_no_websocket_is_closed(service: Service, data: bytes) -> None:
    """At once."""
    async with plain(service) as stream:
        with suppress(trio.BrokenResourceError):  # it may be closed before it has all
            await stream.send_all(data)
            await stream.send_eof()
        await all_of(stream)
    await assert_serves(service)
    await eventually(lambda: service.gateway.door.open == 0)


@pytest.mark.parametrize(
    "origin",
    [b"http://[", b"http://[::1", b"//[x]]", b"http://a]b", b"\xff", b"http://\xe2\x84\xaa"],
)
async def test_an_origin_that_makes_no_sense_is_no_page_of_this_host(
    service: Service, origin: bytes
) -> None:
    """4401, as for any other web page."""
    async with connect(service.gateway_url, headers=[(b"Origin", origin)]) as client:
        assert await client.expect_close() == 4401
    await assert_serves(service)


def masked(opcode: int, payload: bytes = b"", *, last: bool = True) -> bytes:
    """A frame as clients send it."""
    size = len(payload)
    head = bytes((0x80 * last | opcode,))
    head += (
        bytes((0x80 | size,))
        if size < 126
        else b"\xfe" + size.to_bytes(2, "big")
        if size < 65536
        else b"\xff" + size.to_bytes(8, "big")
    )
    return head + b"\0\0\0\0" + payload


TEXT, BINARY, CLOSE, PING, PONG, MORE = 1, 2, 8, 9, 10, 0


@asynccontextmanager
async def raw(
    service: Service, *, hello: bool = True, **fields: Any
) -> AsyncIterator[trio.SocketStream]:
    """A WebSocket whose frames the test writes itself."""
    async with plain(service) as stream:
        await stream.send_all(UPGRADE + b"Host: x\r\n\r\n")
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            data += await stream.receive_some(1)
        assert data.startswith(b"HTTP/1.1 101 ")
        if hello:
            await stream.send_all(masked(TEXT, json.dumps(HELLO | fields).encode()))
            while b"welcome" not in data:
                data += await stream.receive_some(1)
            await stream.receive_some(1000)
        yield stream


def close_code(data: bytes) -> int:
    """The code of the close frame at the end."""
    at = data.rindex(b"\x88")
    return int.from_bytes(data[at + 2 : at + 4], "big")


async def test_messages_come_in_any_pieces(service: Service) -> None:
    """Fragments, also empty; pings between them; several frames in a packet, a frame in several."""
    text = json.dumps({"type": "event", "id": "é" * 20, "event": {}}, ensure_ascii=False).encode()
    cut = text.index("é".encode()) + 1  # in the middle of a character
    pieces = (
        masked(TEXT, text[:cut], last=False)
        + masked(PING, b"here?")
        + masked(MORE, b"", last=False)
    )
    whole = pieces + masked(MORE, text[cut:-1], last=False) + masked(PONG) + masked(MORE, text[-1:])
    async with raw(service) as stream:
        await stream.send_all(whole + whole)
        for byte in whole:
            await stream.send_all(bytes((byte,)))
        data = b""
        with trio.fail_after(20):
            while data.count(b"rejected") < 3 or data.count(b"\x8a\x05here?") < 3:
                data += await stream.receive_some(4096)
        await stream.send_all(masked(CLOSE, b"\x03\xe8"))
        assert close_code(await all_of(stream)) == 1000


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x05hello", 1002),  # not masked
        (masked(3, b"x"), 1002),
        (masked(MORE, b"x"), 1002),
        (masked(TEXT, b"a", last=False) + masked(TEXT, b"b"), 1002),
        (masked(PING, b"x" * 126), 1002),
        (masked(PING, b"", last=False), 1002),
        (b"\xc1\x80\0\0\0\0", 1002),  # a reserved bit
        (masked(TEXT, b"\xff"), 1007),
        (masked(TEXT, b"\xed\xa0\xbd"), 1007),  # half a surrogate pair
        (masked(CLOSE, b"x"), 1002),
        (masked(BINARY, b"{}"), 4400),
        (masked(TEXT, b"x" * 9000), 4413),
        (masked(TEXT, b"x" * 3_000_000), 4413),
        (masked(TEXT, b"x" * 5000, last=False) + masked(MORE, b"x" * 5000), 4413),
    ],
)  # fmt: skip
async def test_frames_that_break_the_protocol_close_the_connection(
    service: Service, data: bytes, code: int
) -> None:
    """With the right close code, and an error frame before it; nobody else notices."""
    async with raw(service) as stream, trio.open_nursery() as nursery:
        got: list[bytes] = []

        async def read() -> None:
            got.append(await all_of(stream))
            nursery.cancel_scope.cancel()

        nursery.start_soon(read)
        with suppress(trio.BrokenResourceError):
            await stream.send_all(data)
            await trio.sleep_forever()
    assert close_code(got[0]) == code
    assert b'"type":"error"' in got[0]
    await eventually(lambda: service.gateway.door.open == 0)


async def test_who_has_not_said_hello_has_a_small_budget(service: Service) -> None:
    """An endless message, endless pings, a long head: closed long before they cost anything."""
    async with raw(service, hello=False) as stream:
        with suppress(trio.BrokenResourceError):
            for _ in range(1000):
                await stream.send_all(masked(MORE if _ else TEXT, b"x" * 1000, last=False))
        assert close_code(await all_of(stream)) == 4413
    async with raw(service, hello=False) as stream:
        with suppress(trio.BrokenResourceError):
            for _ in range(10_000):
                await stream.send_all(masked(PING, b"x" * 100))
        data = await all_of(stream)
        assert not data or close_code(data) == 4413


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
        for name in ("_entry", "_write", "_ping", "_take_in"):
            with monkeypatch.context() as patch:
                patch.setattr(Connection, name, lambda *_: 1 / 0)
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


def queued(service: Service) -> int:
    """Bytes of frames that wait for clients."""
    return sum(connection._socket.queued for connection in service.gateway._connections)


def is_empty(service: Service) -> bool:
    """Whether nothing is kept of clients that have left."""
    outlet = service.deliveries.outlet("phone")
    return (
        service.gateway.door.open == 0
        and not service.gateway.door._by_address
        and not service.gateway._connections
        and not service.gateway._greetings
        and not outlet._takers.all
        and not outlet._takers._origins
        and not any(item.had or item.holder for item in outlet._items.values())
    )


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


@define
class SlowJournal:
    """The journal, which answers when the test says so."""

    journal: Any
    asked: trio.Event = field(factory=trio.Event)
    go_on: trio.Event = field(factory=trio.Event)

    async def attempt(self, entries: Any) -> Any:
        self.asked.set()
        await self.go_on.wait()
        return await self.journal.attempt(entries)


async def test_what_was_being_journalled_when_its_client_left_is_run(service: Service) -> None:
    """The intake is not cut off: the reply waits for the next client."""
    slow = SlowJournal(service.stores.journal)
    service.gateway.services = evolve(service.gateway.services, journal=slow)
    async with connect(service.gateway_url) as client:
        await client.send(
            {
                "type": "inbound",
                "id": "x",
                "msg": {"message_id": "m1", "session_event": "new", "content": "x"},
            }
        )
        await slow.asked.wait()
    slow.go_on.set()
    async with connect(service.gateway_url) as client:
        assert (await client.expect("outbound"))["msg"]["in_reply_to"] == "m1"


async def test_a_journal_that_never_answers_does_not_hold_a_client_for_ever(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is rejected, to be sent again; and it may leave."""
    monkeypatch.setattr(connection, "JOURNAL_SECONDS", 0.3)
    slow = SlowJournal(service.stores.journal)
    service.gateway.services = evolve(service.gateway.services, journal=slow)
    async with connect(service.gateway_url) as client:
        await client.send({"type": "inbound", "id": "x", "msg": {"session_event": "new"}})
        rejected = await client.expect("rejected")
        assert (rejected["code"], rejected["retry_after"]) == ("unavailable", 1.0)
        await client.send({"type": "inbound", "id": "y", "msg": {"session_event": "new"}})
    await eventually(lambda: is_empty(service))


async def test_one_entry_that_breaks_the_journal_takes_no_other_with_it(service: Service) -> None:
    """Entries that came together are tried one by one; a refusal by the store is of one alone."""
    journal = service.stores.journal

    class Picky:
        async def attempt(self, entries: Any) -> Any:
            if any(entry.id == "bad" for entry in entries):
                raise OverflowError("an error of ours")
            return [
                StoreRefused("WRONGTYPE")
                if one.id == "refused"
                else (await journal.attempt([one]))[0]
                for one in entries
            ]

    service.gateway.services = evolve(service.gateway.services, journal=Picky())
    before = tally["gateway.intake"]
    async with connect(service.gateway_url) as client:
        for name in ("a", "bad", "refused", "b"):
            await client.send(
                {
                    "type": "inbound",
                    "id": name,
                    "msg": {"message_id": name, "content": "x", "from_addr": name},
                }
            )
        assert (await client.expect("rejected", id="bad"))["code"] == "unavailable"
        refused = await client.expect("rejected", id="refused")
        assert (refused["code"], refused["detail"], refused["retry_after"]) == (
            "unavailable",
            "WRONGTYPE",
            5.0,
        )
        for name in ("a", "b"):
            await client.expect("outcome", message_id=name, outcome="ok")
    assert tally["gateway.intake"] > before


async def test_messages_in_progress_are_bounded_in_bytes(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages that wait for the journal stop the reading; past a bound of bytes in progress they
    are rejected, whatever credit is left.
    """
    monkeypatch.setattr(connection, "WORK_MAX", 2000)
    monkeypatch.setattr(connection, "HELD_MAX", 15_000)
    slow = SlowJournal(service.stores.journal)
    service.gateway.services = evolve(service.gateway.services, journal=slow)
    async with connect(service.gateway_url) as client:
        for n in range(3):
            msg = {"message_id": f"m{n}", "content": "x" * 6000, "from_addr": str(n)}
            await client.send({"type": "inbound", "id": str(n), "msg": msg})
        await slow.asked.wait()
        (ours,) = service.gateway._connections
        assert ours._work_size < 2000 + 7000
        slow.go_on.set()
        answers = [await client.expect_that(lambda f, n=n: f.get("id") == str(n)) for n in range(3)]
        assert {frame["type"] for frame in answers[:2]} == {"accepted"}
        for n in range(2):
            await client.expect("outcome", message_id=f"m{n}")
        await eventually(lambda: ours._held == 0)
