"""Kills in traffic: whatever process of the service is killed, and whenever, nothing that was
accepted is lost, and nothing is sent under two ids.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
from attrs import define, field
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection

from supervisor.client.websocket import open_websocket

from ..programs import Server, free_ports, serve
from ..service import Folder

USERS = 12
LINKS = 3
KINDS = ("supervisor", "store", "search", "sandbox")
STALL = 180.0  # seconds without any progress after which the test gives up

APP = """
var from = command.msg.from_addr, id = command.msg.message_id;
api.request('kv.incr', {key: 'count' + from}, function (reply) {
  if (!reply.success) throw new Error(reply.reason);
  api.request('outbound.reply_to', {content: id, in_reply_to: id}, function (sent) {
    if (!sent.success) throw new Error(sent.reason);
    api.done();
  });
});
"""


@define
class Traffic:
    """What users sent and what came back, over all connections and all lives of the server."""

    links: list[WebSocketConnection | None] = field(factory=lambda: [None] * LINKS)
    accepted: set[str] = field(factory=set)
    replies: dict[str, Counter[str]] = field(factory=lambda: defaultdict(Counter))
    outcomes: dict[str, str] = field(factory=dict)
    stopping: bool = False
    rejected: int = 0
    news: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)

    async def link(self, number: int, url: str) -> None:
        """Keep one connection to the gateway: whenever it is cut, open it again."""
        while True:
            try:
                async with open_websocket(url, ["jsbox.v1"]) as socket:
                    hello = {"type": "hello", "channel": "phone", "outcomes": True}
                    await socket.send_message(json.dumps(hello))
                    await self._read(number, socket)
            except (OSError, HandshakeError, ConnectionClosed, trio.BrokenResourceError):
                self.links[number] = None
                self.news.unpark_all()
                await trio.sleep(0.02)

    async def _read(self, number: int, socket: WebSocketConnection) -> None:
        while True:
            frame = json.loads(await socket.get_message())
            match frame["type"]:
                case "welcome":
                    self.links[number] = socket
                case "accepted" | "duplicate":
                    self.accepted.add(frame["message_id"])
                case "rejected":
                    self.rejected += 1
                case "outcome":
                    self.outcomes[frame["message_id"]] = frame["outcome"]
                case "outbound":
                    msg = frame["msg"]
                    self.replies[msg["in_reply_to"]][msg["message_id"]] += 1
                    await socket.send_message(
                        json.dumps({"type": "ack", "delivery": frame["delivery"]})
                    )
            self.news.unpark_all()

    async def user(self, number: int) -> None:
        """Send one message after the other: each again until it is accepted, then wait for its
        reply.
        """
        count = 0
        while not self.stopping:
            count += 1
            name = f"u{number}m{count}"
            message = {"message_id": name, "from_addr": f"+{number}", "to_addr": "1"}
            message |= {"content": "hello", "session_event": "new"}
            frame = json.dumps({"type": "inbound", "id": name, "msg": message})
            while name not in self.accepted:
                socket = self.links[number % LINKS]
                if socket is not None:
                    try:
                        await socket.send_message(frame)
                    except (ConnectionClosed, trio.BrokenResourceError):
                        pass
                    else:
                        await self._until(socket, number, name)
                        continue
                await self.news.park()
            while name not in self.replies:
                await self.news.park()

    async def _until(self, socket: WebSocketConnection, number: int, name: str) -> None:
        """Accepted, rejected, or the connection is gone."""
        before = self.rejected
        while name not in self.accepted and self.links[number % LINKS] is socket:
            await self.news.park()
            if self.rejected > before:
                await trio.sleep(0.05)
                return

    async def progress(self, more: int) -> None:
        """Wait until `more` messages are accepted and answered."""
        wanted = len(self.replies) + more
        with trio.fail_after(STALL):
            while len(self.replies) < wanted:
                await self.news.park()


def processes_of(server: Server) -> dict[str, list[int]]:
    """The service's processes by kind, of those there are at the moment."""
    found: dict[str, list[int]] = {kind: [] for kind in KINDS}
    waiting = [server.process.pid]
    found["supervisor"] = [server.process.pid]
    while waiting:
        parent = waiting.pop()
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            waiting.append(child)
            try:
                command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            name = command[0].rpartition(b"/")[2]
            if b"valkey" in name:
                found["store"].append(child)
            elif name == b"node":
                found["sandbox"].append(child)
            elif any(b"search" in part for part in command):
                found["search"].append(child)
    return found


def kill(pid: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd := os.pidfd_open(pid), signal.SIGKILL)
        os.close(pidfd)
    except ProcessLookupError:
        pass


async def start(stack: ExitStack, folder: Folder) -> Server:
    """A server; the one before it is dead."""
    return await trio.to_thread.run_sync(
        lambda: stack.enter_context(serve(folder.config, expect_code=None))
    )


@pytest.mark.parametrize(
    "kills",
    [8, pytest.param(500, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])],
)
async def test_kills_lose_nothing(tmp_path: Path, kills: int) -> None:
    """Supervisor, store, search process and sandboxes, one after the other in a random order: every
    accepted message is answered, under one message_id, by the app or with the fallback; the app's
    own counts in the store are never behind what it answered.
    """
    rng = random.Random(kills)
    folder = Folder(tmp_path)
    gateway, admin = free_ports(2)
    folder.text = (
        f'version = 1\n[listen]\ngateway = "127.0.0.1:{gateway}"\nadmin = "127.0.0.1:{admin}"\n'
        "[journal]\nattempts = 50\n"
    )
    folder.app(
        "phone",
        APP,
        'limits = { fallback_reply = "sorry" }\n'
        'pool = { max_processes = 3, trip_after = 100000, crash_backoff = "1ms" }',
    )
    traffic, killed = Traffic(), Counter[str]()
    with ExitStack() as stack:
        server = await start(stack, folder)
        async with trio.open_nursery() as nursery:
            for number in range(LINKS):
                nursery.start_soon(traffic.link, number, server.gateway)
            async with trio.open_nursery() as users:
                for number in range(USERS):
                    users.start_soon(traffic.user, number)
                while killed.total() < kills:
                    await traffic.progress(rng.randrange(1, USERS))
                    kind = KINDS[killed.total() % len(KINDS)]
                    pids = processes_of(server)[kind]
                    if not pids:
                        continue
                    kill(rng.choice(pids))
                    killed[kind] += 1
                    if kind == "supervisor":
                        await trio.to_thread.run_sync(server.process.wait)
                        server = await start(stack, folder)
                traffic.stopping = True
            nursery.cancel_scope.cancel()
    assert traffic.accepted == set(traffic.replies)
    several = {name: ids for name, ids in traffic.replies.items() if len(ids) > 1}
    assert not several, several
    assert set(traffic.outcomes.values()) <= {"ok", "crashed", "boot", "app_error", "store"}
    assert all(killed[kind] >= kills // len(KINDS) for kind in KINDS), killed
