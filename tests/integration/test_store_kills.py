"""The embedded store is killed under runs in progress, again and again: what an app was told is
stored, is stored. Slow.
"""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import redis
import trio

from .crowd import Crowd
from .together import Running, keeper_of, server_of, serving, until, write

pytestmark = pytest.mark.slow

KILLS = 12
# Looks at each answer, and asks again if it is a failure: whether that was carried out is not
# known then. Its reply says that all was stored, and how often it asked again.
CAREFUL = """
    var user = command.msg.from_addr, id = command.msg.message_id, number = command.msg.content;
    var key = 'had ' + user, failures = 0;
    function ask(name, fields, then) {
        api.request(name, JSON.parse(JSON.stringify(fields)), function (reply) {
            if (reply.success) { return then(reply); }
            failures += 1;
            if (failures === 30) { return api.done(); }
            ask(name, fields, then);
        });
    }
    ask('kv.get', {key: key}, function (reply) {
        var had = reply.value || [];
        if (had[had.length - 1] !== number) { had.push(number); }
        ask('kv.set', {key: key, value: had}, function () {
            ask('kv.set', {key: 'told ' + id, value: number}, function () {
                ask('outbound.reply_to', {content: 'stored ' + failures, in_reply_to: id},
                    function () { api.done(); });
            });
        });
    });"""


@pytest.mark.parametrize("processes", [1, 3])
async def test_what_an_app_was_told_is_stored_is(tmp_path: Path, processes: int) -> None:
    write(tmp_path, processes, CAREFUL)
    with serving(tmp_path) as running:
        crowd = Crowd([running.gateway], users=40, each=40, pause=0.02)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crowd.stay)
            async with trio.open_nursery() as work:
                work.start_soon(crowd.speak)
                for n in range(KILLS):
                    await crowd.wait_accepted((n + 1) * crowd.total // (KILLS + 2))
                    await trio.to_thread.run_sync(kill_store, running, processes > 1 and n % 4 == 3)
            with running.store as store:
                await crowd.all_has_ended(store)
            await crowd.ask()
            nursery.cancel_scope.cancel()
        with running.store as store:
            check(crowd, store)


def kill_store(running: Running, with_keeper: bool) -> None:
    """Kill the server, or who keeps it, and wait until there is another."""
    server = server_of(running)
    os.kill(keeper_of(running) if with_keeper else server, signal.SIGKILL)

    def is_back() -> bool:
        with suppress(redis.RedisError, OSError):
            return server_of(running) != server
        return False

    until(is_back)


def check(crowd: Crowd, store: redis.Redis) -> None:
    """Check what users were told against what the store has."""
    again, unsure = 0, []
    for user in range(crowd.users):
        had = json.loads(store.get(f"jsbox:{{acct}}:kv:had +{user}"))
        assert had == sorted(had, key=int), f"user {user}: {had}"
        for number in map(str, range(crowd.each)):
            one = f"{user}.{number}"
            said = [text for text in crowd.said[one] if text.startswith("stored ")]
            if not said:
                unsure.append(one)
                continue
            again += max(int(text.split()[1]) for text in said)
            assert number in had, f"{one} was stored, and is lost: {had}"
            assert store.get(f"jsbox:{{acct}}:kv:told {one}") == b'"%s"' % number.encode(), one
    assert again, "no run was in progress when the store was killed"
    assert len(unsure) < crowd.users, unsure
