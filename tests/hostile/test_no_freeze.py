"""Nothing that one tenant, client, web server or operator sends holds up the others: while it is
dealt with, no pass of the supervisor's loop is long, and a neighbour is answered in a time that its
quiet time bounds.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from attrs import define, field

from resources.contact_fields import new_contact
from supervisor import service as service_module
from supervisor.service import Service

from ..gateway_client import PATIENCE, Client, connect
from ..lag import lag, step_bound
from ..resources.raw_server import raw_server
from ..resources.test_hostile_answers import HOSTILE
from ..service import ECHO, Folder, running
from .granted import granted_harness

TIMES = 10.0  # a neighbour's quiet time: design.md, 11
LEAST_QUIET = 0.05  # seconds: a host that shares its processors has moments like that by itself

WRITES = """
var fs = __test_host.require('fs'), spec = JSON.parse(command.msg.content);
var line = spec[0] + spec[1].repeat((spec[2] - spec[0].length) / spec[1].length) + '\\n';
for (var at = 0; at < line.length;) {
    try { at += fs.writeSync(1, line.slice(at, at + 65536)); }
    catch (error) { if (error.code !== 'EAGAIN') throw error; }
}
"""
ASKS = """
var url = command.msg.content, left = 8;
for (var i = 0; i < 8; i++) {
  api.request('http.get', {url: url}, function () { if (!--left) api.done(); });
}
"""


@define
class Measured:
    """What a neighbour's replies took, in seconds, and what was wrong."""

    client: Client
    quiet: float = 0.0
    wrong: list[str] = field(factory=list)

    async def say(self) -> float:
        began = trio.current_time()
        outcome, replies = await self.client.say("hello")
        assert (outcome["outcome"], replies[0]["content"]) == ("ok", "you said hello")
        self.client.frames.clear()
        return trio.current_time() - began

    async def during(self, name: str, attack: Callable[[], Awaitable[object]]) -> None:
        """Ask the neighbour again and again while something is done, and note what was too long."""
        worst, is_over = 0.0, False

        async def do() -> None:
            nonlocal is_over
            with trio.fail_after(PATIENCE):
                await attack()
            is_over = True

        async with lag() as measured, trio.open_nursery() as nursery:
            nursery.start_soon(do)
            while not is_over:
                worst = max(worst, await self.say())
        if measured.longest > step_bound():
            self.wrong.append(f"{name}: a pass of the loop took {measured.longest:.3f} s of CPU")
        if worst > TIMES * self.quiet:
            self.wrong.append(
                f"{name}: the neighbour waited {worst:.3f} s; {self.quiet:.3f} s when it was quiet"
            )


@asynccontextmanager
async def neighbour(service: Service) -> AsyncIterator[Measured]:
    """The neighbour, measured: quiet before, and no worse than it may be at the end."""
    async with connect(service.gateway_url, "neighbour") as client:
        measured = Measured(client)
        await measured.say()
        async with lag():
            measured.quiet = max([LEAST_QUIET, *[await measured.say() for _ in range(20)]])
        yield measured
    assert not measured.wrong, "\n".join(measured.wrong)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.app("neighbour", ECHO, account="victim")
    return folder


LINES = {
    "a text without end": ("[" * 65 + '"', '\\"'),
    "brackets": ("", "["),
    "objects": ("", '{"a":'),
    "quotes": ("", '"'),
    "escapes": ('{"cmd":"', "\\u0000"),
    "a long number": ("", "9"),
    "a long fraction": ("[0.", "1"),
    "small lists": ('{"cmd":"kv.get","cmd_id":"1","v":[', "[0],"),
    "numbers hard to round": ("[", "1.7976931348623157e308,"),
    "not UTF-8": ('"', "\xed"),
    "short lines": ("", "{}\n"),
    "empty lines": ("", "\n"),
}


# One of each kind; tests/fuzz/test_wire.py has more of them, without a process.
FEW_LINES = ("a text without end", "objects", "numbers hard to round", "not UTF-8", "empty lines")


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(FEW_LINES, id="few"),
        pytest.param(
            sorted(LINES.keys() - set(FEW_LINES)), id="all others", marks=pytest.mark.slow
        ),
    ],
)
async def test_lines_of_a_sandbox(folder: Folder, names: Sequence[str]) -> None:
    """The longest that may be, from an app that writes to its process's output itself."""
    folder.app("evil", WRITES, 'pool = { trip_after = 1000000, crash_backoff = "1ms" }')
    with granted_harness() as harness, pytest.MonkeyPatch.context() as patch:
        patch.setattr(service_module, "HARNESS", harness)
        async with (
            running(folder) as service,
            connect(service.gateway_url, "evil") as client,
            neighbour(service) as measured,
        ):
            for name in names:
                beginning, repeated = LINES[name]
                content = json.dumps([beginning, repeated, (256 << 10) - 1])

                async def attack(content: str = content) -> None:
                    outcome, _ = await client.say(content)
                    assert outcome["outcome"] == "protocol", outcome

                await measured.during(name, attack)


# One of each kind; tests/resources/test_hostile_answers.py has more of them, one at a time.
ANSWERS = (
    "charset punycode",
    "one-byte chunks",
    "100 Continue for ever",
    "empty gzip members",
    "a bomb in a bomb",
)


async def test_answers_of_web_servers(folder: Folder) -> None:
    """Eight of each at once."""
    folder.app("evil", ASKS, 'http = { allow = ["127.0.0.0/8"], timeout = "5s" }')
    async with (
        running(folder) as service,
        connect(service.gateway_url, "evil") as client,
        neighbour(service) as measured,
    ):
        for name in ANSWERS:
            async with raw_server(HOSTILE[name][0]) as server:

                async def attack(url: str = server.url) -> None:
                    await client.say(url)

                await measured.during(name, attack)


def frame(payload: bytes, first: int = 0x81) -> bytes:
    """A WebSocket frame of a client's, whose mask changes nothing."""
    size = len(payload)
    head = (
        struct.pack("!BB", first, 0x80 | size)
        if size < 126
        else struct.pack("!BBH", first, 0xFE, size)
    )
    return (head if size < 1 << 16 else struct.pack("!BBQ", first, 0xFF, size)) + bytes(4) + payload


def inbound(content: str, frame_id: str = "1") -> bytes:
    message = f'{{"message_id":"x","from_addr":"+1","content":{content}}}'
    return frame(f'{{"type":"inbound","id":"{frame_id}","msg":{message}}}'.encode())


OPENING = (
    b"GET /v1 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
HELLO = frame(b'{"type":"hello","channel":"evil"}')
FRAMES = {
    "deep content": inbound("[" * 950 + "]" * 950) * 400,
    "many small objects": inbound("[" + "{}," * 20_000 + "{}]") * 20,
    "no JSON at all": frame(b'{"type":"inbound","id":"1",' + b"]," * 30_000) * 20,
    "half pairs": inbound('"' + "\\ud83d" * 10_000 + '"') * 20,
    "long ids": inbound("5", "i" * 60_000) * 60,
    "fragments of a byte": frame(b" ", 0x01) + frame(b" ", 0x00) * 100_000,
    "pings": frame(b"x" * 100, 0x89) * 20_000,
    "acks of nothing": frame(b'{"type":"ack","delivery":123456789}') * 10_000,
}


async def test_frames_of_a_client(folder: Folder) -> None:
    """As many as fit, from one that reads nothing and is then gone."""
    folder.app("evil", ECHO)
    async with running(folder) as service, neighbour(service) as measured:
        for name, data in FRAMES.items():

            def attack(data: bytes = data) -> None:
                with (
                    socket.create_connection(("127.0.0.1", service.gateway.port), 5) as client,
                    suppress(OSError),
                ):
                    client.sendall(OPENING)
                    client.recv(4096)
                    client.sendall(HELLO)
                    client.recv(4096)
                    # for as long as the timeout says, where nothing is taken any more
                    client.sendall(data)
                    client.shutdown(socket.SHUT_WR)

            await measured.during(name, lambda attack=attack: trio.to_thread.run_sync(attack))


async def test_requests_of_an_operator(folder: Folder) -> None:
    """Large answers, and bodies without end."""
    folder.app("evil", ECHO)
    async with running(folder) as service, neighbour(service) as measured:
        for _ in range(1000):
            await service.stores.logbook.write("acct", "evil", 20, "x" * 16_000, 1000)
        for number in range(100):
            fields = {"extra": {"x": "n" * 60_000}, "created_at": "2014-01-01"}
            await service.stores.contacts.create("acct", f"c{number}", new_contact(fields), 1000)

        answered: dict[str, int] = {}

        def request(name: str, head: str, body: bytes) -> None:
            text = (
                f"{head} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            with (
                socket.create_connection(("127.0.0.1", service.admin_port), 30) as client,
                suppress(OSError),
            ):
                client.sendall(text.encode() + body)
                while data := client.recv(1 << 20):
                    answered[name] = answered.get(name, 0) + len(data)

        requests = {
            "a long log": ("GET /v1/apps/evil/logs?limit=1000", b""),
            "long contacts": ("GET /v1/accounts/acct/contacts?limit=100", b""),
            "a push of 50 MB": (
                "POST /v1/apps/evil/push",
                b'{"addrs":["' + b"1" * 50_000_000 + b'"]}',
            ),
            "a deep push": ("POST /v1/apps/evil/push", b'{"addrs":' + b"[" * 1_000_000),
            "metrics": ("GET /metrics", b""),
        }
        for name, (head, body) in requests.items():
            await measured.during(
                name, lambda ask=(name, head, body): trio.to_thread.run_sync(request, *ask)
            )
        assert answered["a long log"] > 1_000_000  # pages are bounded in bytes
        assert answered["long contacts"] > 1_000_000
