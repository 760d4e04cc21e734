"""A channel of type http while the server is killed and Junebug cuts connections: nothing is lost,
nothing is sent under two ids, and each user's replies keep their order.
"""

from __future__ import annotations

import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio

from ..junebug import Junebug, Reply, ask, junebug, message, request
from ..programs import Server, free_ports, serve
from ..service import ECHO, Folder

USERS, MESSAGES = 40, 10
CUT_EACH = 23  # posts of ours, of which the answer is lost or an error


@asynccontextmanager
async def served(config: Path) -> AsyncIterator[Server]:
    """A server that may be killed; it starts and stops in a thread."""
    context = serve(config, expect_code=None)
    server = await trio.to_thread.run_sync(context.__enter__)
    try:
        yield server
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(context.__exit__, None, None, None)


async def write(port: int, user: int) -> None:
    """One user writes, each message after the one before was taken. What is not taken is written
    again, as somebody does who sees no answer.
    """
    for number in range(MESSAGES):
        body = message(f"{user}:{number}", f"+{user}", channel_data={"session_event": "resume"})
        while True:
            try:
                answer = await ask(port, request("/channels/menu/messages", body))
            except (OSError, AssertionError):  # the server is gone, or went before it answered
                await trio.sleep(0.05)
                continue
            if answer.status == 200:
                break
            assert answer.status == 503
            await trio.sleep(0.05)


def check(june: Junebug) -> None:
    """Every message has a reply; all posts of a reply have one id; each user's are in order."""
    ids, order = defaultdict(set), defaultdict(list)
    for post in june.posts:
        name = post["reply_to"]
        ids[name].add(urlsplit(post["event_url"]).path.split("/")[-1])
        user, number = map(int, name.split(":"))
        if number not in order[user]:
            order[user].append(number)
    assert order == {user: list(range(MESSAGES)) for user in range(USERS)}
    assert {name: len(found) for name, found in ids.items() if len(found) > 1} == {}


@pytest.mark.slow  # two starts of the server, and hundreds of conversations
async def test_a_killed_server_and_a_rude_junebug_lose_nothing(tmp_path: Path) -> None:
    """kill -9 in the middle; each 23rd answer of Junebug is a cut, an error or garbage."""
    port, admin = free_ports(2)
    async with junebug() as june:
        folder = Folder(tmp_path, f'[listen]\ngateway = "127.0.0.1:{port}"\n')
        folder.text += f'admin = "127.0.0.1:{admin}"\n'
        folder.app("menu", ECHO)
        folder.text += f'type = "http"\nurl = "{june.url}"\n'
        rude = [Reply(cut=True), Reply(500), Reply(raw=b"garbage\r\n\r\n"), Reply(201, body=b"{")]
        for turn in range(USERS * MESSAGES // CUT_EACH):
            june.script.extend([Reply() for _ in range(CUT_EACH - 1)])
            june.script.append(rude[turn % len(rude)])
        config = folder.config
        async with trio.open_nursery() as nursery:
            async with served(config) as server:
                for user in range(USERS):
                    nursery.start_soon(write, port, user)
                await june.has(USERS * MESSAGES // 3)
                server.process.send_signal(signal.SIGKILL)
            async with served(config):
                with trio.fail_after(240):
                    while len({post["reply_to"] for post in june.posts}) < USERS * MESSAGES:
                        await trio.sleep(0.1)
                check(june)
