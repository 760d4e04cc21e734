"""Two servers in mode standby, in traffic, while everything happens to them that can."""

from __future__ import annotations

import json
import signal
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from itertools import cycle

import httpx2
import pytest
import trio
from attrs import define, field

from ..gateway_client import Client, connect, inbound
from ..programs import free_ports
from ..service import eventually
from ..store_proxy import StoreProxy, store_proxy
from ..valkey_server import ValkeyServer
from .hosts import Host, Make, direct

pytestmark = pytest.mark.slow

USERS, EACH = 40, 25  # messages of each user
PROCESSES = 2  # of the app on each host
AWAY = 3.0  # seconds; the lease is 1 s
SILENT = 4.0  # seconds without an answer after which a gateway tries the other host

APP = """
    var message = command.msg, user = message.from_addr;
    api.request('kv.incr', {key: 'n ' + message.message_id}, function () {
        api.request('kv.get', {key: 'u ' + user}, function (reply) {
            var seen = (reply.value || []).concat([message.message_id]);
            api.request('kv.set', {key: 'u ' + user, value: seen}, function () {
                api.request('outbound.reply_to', {content: 'done',
                    in_reply_to: message.message_id}, function () { api.done(); });
            });
        });
    });"""


@define
class Gateway:
    """Sends each user's messages in order, each until it is accepted, to whichever host serves."""

    urls: list[str]
    waiting: dict[str, deque[str]]
    accepted: int = 0
    replies: dict[str, set[str]] = field(factory=lambda: defaultdict(set))  # ids, by message

    async def run(self) -> None:
        """Until everything is accepted and has its reply."""
        for url in cycle(self.urls):
            try:
                with trio.move_on_after(SILENT) as opening:
                    async with connect(url, window=1000) as client:
                        opening.deadline = float("inf")
                        try:
                            await self._talk(client)
                        finally:
                            self._collect(client)
            except* Exception:  # of any kind: the host is dead, or stands by
                await trio.sleep(0.05)
            if self._is_over:
                return

    @property
    def _is_over(self) -> bool:
        return not any(self.waiting.values()) and len(self.replies) == USERS * EACH

    async def _talk(self, client: Client) -> None:
        while any(self.waiting.values()):
            first = {queue[0]: user for user, queue in self.waiting.items() if queue}
            for name, user in first.items():
                await client.send(inbound(name, user))
            for name, user in first.items():
                answer = await client.expect_that(lambda f, n=name: f.get("id") == n, SILENT)
                if answer["type"] == "accepted":
                    self.waiting[user].popleft()
                    self.accepted += 1
            self._collect(client)
            await trio.sleep(0.1)
        with trio.move_on_after(SILENT):
            while not self._is_over and client.closed is None:
                await trio.sleep(0.05)
                self._collect(client)

    def _collect(self, client: Client) -> None:
        for frame in client.frames:
            if frame["type"] == "outbound":
                self.replies[frame["msg"]["in_reply_to"]].add(frame["msg"]["message_id"])
        client.frames[:] = [f for f in client.frames if f["type"] not in ("outbound", "outcome")]


@define
class Pair:
    """Both hosts, and what happens to the one that serves."""

    hosts: list[Host]
    admins: list[str]
    proxies: list[StoreProxy]

    async def serving(self) -> int:
        """The place of the host that serves."""
        while True:
            async with httpx2.AsyncClient(trust_env=False, timeout=1) as http:
                for n, admin in enumerate(self.admins):
                    try:
                        if (await http.get(f"http://{admin}/readyz")).status_code == 200:
                            return n
                    except httpx2.TransportError:
                        pass
            await trio.sleep(0.05)

    async def both(self) -> None:
        """Wait until one serves and the other stands by."""
        one = await self.serving()
        async with httpx2.AsyncClient(trust_env=False, timeout=5) as http:
            while True:
                try:
                    answer = await http.get(f"http://{self.admins[1 - one]}/readyz")
                    if "the store is held by" in answer.text:
                        return
                except httpx2.TransportError:
                    pass
                await trio.sleep(0.05)

    async def killed(self) -> None:
        host = self.hosts[await self.serving()]
        host.send(signal.SIGKILL)
        await self._again(host)

    async def frozen(self) -> None:
        host = self.hosts[await self.serving()]
        host.send(signal.SIGSTOP)
        await trio.sleep(AWAY)
        host.send(signal.SIGCONT)

    async def cut_off(self) -> None:
        proxy = self.proxies[await self.serving()]
        proxy.stop()
        await trio.sleep(AWAY)
        proxy.start()

    async def reloaded(self) -> None:
        self.hosts[await self.serving()].send(signal.SIGHUP)

    async def rolled(self) -> None:
        """A rolling restart: the one that waits, then the one that serves."""
        one = await self.serving()
        for n in (1 - one, one):
            self.hosts[n].send(signal.SIGTERM)
            await self._again(self.hosts[n])
            await self.both()

    async def _again(self, host: Host) -> None:
        await trio.to_thread.run_sync(host.ended)
        host.restart()


async def test_everything_accepted_is_run(shared: ValkeyServer, hosts: Make) -> None:
    """Each host killed, frozen and cut from the store, reloads and rolling restarts in between:
    each accepted message has its reply, under one id, in the order of its user; only what was in
    progress as its host went is run a second time.
    """
    ports = free_ports(4)
    gateways = [f"127.0.0.1:{port}" for port in ports[:2]]
    admins = [f"127.0.0.1:{port}" for port in ports[2:]]
    names = {f"+{user}": deque(f"{user}-{n:03}" for n in range(EACH)) for user in range(USERS)}
    expected = {user: list(queue) for user, queue in names.items()}
    gateway = Gateway([f"ws://{address}/v1" for address in gateways], names)
    with ExitStack() as stack:
        proxies = [stack.enter_context(store_proxy(shared.url)) for _ in range(2)]
        more = f"pool = {{ max_processes = {PROCESSES} }}\n"
        both = [
            hosts(
                name, "standby", APP, more, gateway=gateways[n], admin=admins[n], url=proxies[n].url
            )
            for n, name in enumerate(("one", "two"))
        ]
        pair = Pair(both, admins, proxies)
        await pair.both()
        things: list[Callable[[], Awaitable[None]]] = [
            pair.killed, pair.frozen, pair.reloaded, pair.cut_off, pair.rolled,
        ]  # fmt: skip
        with trio.fail_after(600):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(gateway.run)
                for happens in (*things, *things):
                    before = gateway.accepted
                    await eventually(lambda b=before: gateway.accepted >= min(b + 60, USERS * EACH))
                    await happens()
                    await pair.both()
        with direct(shared) as store:
            await eventually(lambda: store.xlen("jsbox:{acct}:in:phone") == 0)
            counts = [
                int(store.get(f"jsbox:{{acct}}:kv:n {name}") or 0)
                for queue in expected.values()
                for name in queue
            ]
            orders = {user: store.get(f"jsbox:{{acct}}:kv:u {user}") for user in expected}
        for host in both:
            host.send(signal.SIGTERM)
            assert host.ended() == 0
            assert "internal error" not in host.log
    twice = {message: ids for message, ids in gateway.replies.items() if len(ids) != 1}
    assert not twice
    assert sorted(gateway.replies) == sorted(name for each in expected.values() for name in each)
    # Killed, frozen and cut off twice each: whatever was in progress was run once more each time.
    assert min(counts) == 1
    assert sum(counts) - len(counts) <= 6 * PROCESSES
    for user, text in orders.items():
        seen = json.loads(text)
        assert seen == sorted(seen)
        assert sorted(set(seen)) == expected[user]
