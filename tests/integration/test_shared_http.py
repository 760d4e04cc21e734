"""A channel of type http on several servers: whoever is posted to takes a message in, another may
run it and post the reply, and its events come to a third. Slow.
"""

from __future__ import annotations

import random
import signal
import time
from collections import deque
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import trio
from redis.client import Monitor

from ..gateway_client import PATIENCE
from ..junebug import Junebug, Reply, ask, junebug, message, request
from ..programs import free_ports
from ..service import eventually
from ..valkey_server import ValkeyServer
from .hosts import Host, Make, direct

pytestmark = pytest.mark.slow

LEASE, PROCESSES = 2.0, 4
APP = """
api.on_inbound_message = function (command) {
    api.request('kv.incr', {key: 'runs ' + command.msg.message_id}, function () {
        api.request('outbound.reply_to', {content: 'you said ' + command.msg.content,
            in_reply_to: command.msg.message_id}, function () { api.done(); });
    });
};
api.on_inbound_event = function (command) {
    var key = [command.msg.event_type, command.msg.user_message_id].join(' ');
    api.request('kv.incr', {key: key}, function () { api.done(); });
};"""
MORE = f'events = "always"\npool = {{ max_processes = {PROCESSES} }}\n'


async def started(hosts: Make, june: Junebug, ports: list[int]) -> list[Host]:
    found = [
        hosts(
            f"host{n}",
            "shared",
            APP,
            MORE,
            lease=f"{LEASE:g}s",
            gateway=f"127.0.0.1:{port}",
            channel_more=f'type = "http"\nurl = "{june.url}"\n',
        )
        for n, port in enumerate(ports)
    ]
    for host in found:
        await trio.to_thread.run_sync(host.ready)
    return found


async def post(ports: list[int], path: str, body: Any, token: str | None = None) -> None:
    """Post to a server, or to another if it does not take it."""
    while True:
        for port in ports:
            try:
                answer = await ask(port, request(path, body, token and f"Token {token}"))
            except (OSError, trio.BrokenResourceError, AssertionError):  # it has gone
                continue
            if answer.status == 200:
                return
            assert answer.status == 503, answer
        await trio.sleep(0.05)


def ours_of(post: dict[str, Any]) -> str:
    """Our id of a message that was posted."""
    return urlsplit(post["event_url"]).path.split("/")[-1]


def event(kind: str, theirs: str) -> dict[str, Any]:
    return {"event_type": kind, "message_id": theirs, "channel_id": "c1", "event_details": {}}


def had(store: redis.Redis, kind: str, ours: str) -> int:
    """How many events of a message the app had."""
    return int(store.get(f"jsbox:{{acct}}:kv:{kind} {ours}") or 0)


def until_asked(commands: Monitor, name: str, theirs: str) -> None:
    """Wait until a server asks the store for our id of Junebug's message."""
    deadline = time.monotonic() + PATIENCE
    for command in commands.listen():  # servers that share a store are never silent
        assert time.monotonic() < deadline, f"no {name} for {theirs}"
        if command["command"].startswith(f"{name} ") and theirs in command["command"]:
            return


async def test_an_event_finds_its_message_at_any_server(shared: ValkeyServer, hosts: Make) -> None:
    ports = free_ports(2)
    async with junebug() as june:
        await started(hosts, june, ports)
        with direct(shared) as store:
            for user in range(16):
                await post(ports[:1], "/channels/phone/messages", message(f"m{user}", f"+{user}"))
            await june.has(16)
            for n, one in enumerate(june.posts):
                path, token = urlsplit(one["event_url"]).path, one["event_auth_token"]
                await post(ports[1:], path, event("submitted", f"jb{n + 1}"), token)
                path = "/channels/phone/events"
                await post(ports[1:], path, event("delivery_succeeded", f"jb{n + 1}"), token)
            for one in june.posts:
                for kind in ("ack", "delivery_report"):
                    await eventually(partial(had, store, kind, ours_of(one)))
                    assert had(store, kind, ours_of(one)) == 1
            # An event that is faster than the answer to the post that it is about.
            early = trio.Event()
            june.by_content["you said early"] = deque([Reply(wait=early)])
            await post(ports[:1], "/channels/phone/messages", message("early", "+early"))
            await june.has(17)
            async with trio.open_nursery() as nursery:
                posted = event("submitted", "jb17"), june.posts[16]["event_auth_token"]
                with store.monitor() as commands:
                    nursery.start_soon(post, ports[1:], "/channels/phone/events", *posted)
                    for command in ("HGET", "HMGET"):  # at once, and again while it waits
                        await trio.to_thread.run_sync(until_asked, commands, command, "jb17")
                early.set()
            await eventually(partial(had, store, "ack", ours_of(june.posts[16])))


async def test_all_are_told_while_servers_die(shared: ValkeyServer, hosts: Make) -> None:
    ports, users, each = free_ports(2), 40, 10
    async with junebug() as june, trio.open_nursery() as nursery:
        pair = await started(hosts, june, ports)
        nursery.start_soon(submit, june, ports)
        async with trio.open_nursery() as work:
            for user in range(users):
                work.start_soon(write, ports, user, each)
            for n, host in enumerate(pair):
                await june.has(users * each * (n + 1) // 4)
                host.send(signal.SIGKILL)
                await trio.to_thread.run_sync(host.ended)
                await trio.sleep(LEASE + 1)
                host.restart()
                await trio.to_thread.run_sync(host.ready)
        names = {f"{user}.{n}" for user in range(users) for n in range(each)}
        await eventually(lambda: {one["reply_to"] for one in june.posts} == names)
        ids = {name: {ours_of(o) for o in june.posts if o["reply_to"] == name} for name in names}
        assert {name: found for name, found in ids.items() if len(found) > 1} == {}
        with direct(shared) as store:
            for (ours,) in ids.values():
                await eventually(partial(had, store, "ack", ours))
            runs = [int(store.get(f"jsbox:{{acct}}:kv:runs {name}") or 0) for name in names]
        assert min(runs) == 1
        assert sum(runs) <= len(names) + 2 * PROCESSES
        nursery.cancel_scope.cancel()


async def write(ports: list[int], user: int, each: int) -> None:
    """One user writes, each message after the one before was taken."""
    for number in range(each):
        body = message(f"{user}.{number}", f"+{user}", channel_data={"session_event": "resume"})
        await post(random.sample(ports, 2), "/channels/phone/messages", body)
        await trio.sleep(0.2)


async def submit(june: Junebug, ports: list[int]) -> None:
    """Tell of each post that it was submitted, any server, for ever."""
    async with trio.open_nursery() as nursery:
        seen = 0
        while True:
            while len(june.posts) == seen:
                await trio.sleep(0.05)
            one, seen = june.posts[seen], seen + 1
            body, token = event("submitted", f"jb{seen}"), one["event_auth_token"]
            path = urlsplit(one["event_url"]).path
            nursery.start_soon(post, random.sample(ports, 2), path, body, token)
