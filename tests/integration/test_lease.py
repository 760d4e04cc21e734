"""Several servers on one store: one has it; another is refused, or waits and takes over."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx2
import pytest
import trio

from ..gateway_client import connect, inbound
from ..programs import START_SECONDS, jsbox
from ..service import eventually
from ..valkey_server import ValkeyServer
from .hosts import Host, Make, direct

COUNTED = """
    api.request('kv.incr', {key: command.msg.message_id + ' ' + %s}, function () {
        require('timers').setTimeout(function () {
            api.request('outbound.reply_to', {content: 'done',
                in_reply_to: command.msg.message_id}, function () { api.done(); });
        }, %d);
    });"""
"""Counts each run of a message, under the name of its host, and replies after some ms."""


async def says(gateway: str, text: str = "hello") -> str:
    """What an app replies."""
    async with connect(gateway) as client:
        _, replies = await client.say(text)
        return str(replies[0]["content"])


def get(url: str, path: str) -> tuple[int, str]:
    answer = httpx2.get(url + path, trust_env=False, timeout=30)
    return answer.status_code, answer.text


async def test_a_second_server_is_refused(shared: ValkeyServer, hosts: Make) -> None:
    """In one line that names the first, which goes on. A dead one's lease runs out; one's own
    restart does not wait for that.
    """
    first = hosts("first", lease="2s")
    gateway, admin = first.ready()
    second = hosts("second", lease="1s")
    assert second.ended() == 1
    (line,) = [one for one in second.log.splitlines() if one.startswith("jsbox: redis")]
    pid = first.process.pid
    assert f"the store is held by {socket.gethostname()} (process {pid})" in line
    assert '[cluster] mode = "standby"' in line
    assert await says(gateway) == "you said hello"
    assert "jsbox_lease_held 1.0" in get(admin, "/metrics")[1]
    first.send(signal.SIGKILL)
    first.ended()
    with direct(shared) as client:
        client.persist("jsbox:lease")  # as if it took very long to run out
        first.restart()
        first.ready()
        assert f"process {first.process.pid}" in client.get("jsbox:lease").decode()
        first.send(signal.SIGKILL)
        first.ended()
        client.pexpire("jsbox:lease", 1500)
    second.restart()
    second.ready()
    assert "if it is dead, its lease runs out" in second.log
    # One that was frozen for longer than its lease.
    second.send(signal.SIGSTOP)
    first.restart()
    gateway, _ = first.ready()
    second.send(signal.SIGCONT)
    assert second.ended() == 1
    taken = (
        f"another server has taken the store: {socket.gethostname()} (process {first.process.pid})"
    )
    assert second.log.splitlines()[-1] == f"jsbox: {taken}"
    assert await says(gateway) == "you said hello"


async def looks_like_one_that_waits(two: Host, waiting: str, holder: str) -> None:
    """Its admin port, and `jsbox ps`."""
    assert get(waiting, "/livez") == (200, "ok\n")
    held = f"the store is held by {holder}"
    assert get(waiting, "/readyz") == (503, f"not ready:\nstandby: {held}\n")
    assert "jsbox_lease_held 0.0" in get(waiting, "/metrics")[1]
    for path in ("/v1/sandboxes", "/v1/apps/phone/logs?limit=1", "/nothing"):
        code, text = get(waiting, path)
        refusal = {"error": f"this server stands by: {held}", "standby": True}
        assert (code, json.loads(text)) == (503, refusal)
    assert "<title>" in get(waiting, "/")[1]  # the console, which says so, too
    file = two.folder / "jsbox.toml"
    own = file.read_text()
    file.write_text(own.replace('admin = "127.0.0.1:0"', f'admin = "{waiting[7:]}"'))
    ps = await trio.to_thread.run_sync(partial(jsbox, "ps", "-c", str(file)))
    assert ps.returncode == 1
    assert ps.stderr == f"jsbox: this server stands by: {held}\n"
    file.write_text(own)


def says_at_once_that_it_could_not_take_over(hosts: Make, gateway: str) -> None:
    """A host whose gateway's port is in use: not when it is needed."""
    port = gateway.partition("/v1")[0].rpartition(":")[2]
    host = hosts("other", "standby", gateway=f"127.0.0.1:{port}")
    assert host.ended() == 1
    expected = f"jsbox: listen.gateway: cannot listen on 127.0.0.1:{port}: Address already in use"
    assert host.log.splitlines()[-1] == expected


async def test_a_standby_waits_and_takes_over(
    tmp_path: Path, shared: ValkeyServer, hosts: Make
) -> None:
    """Its admin port says so; its gateway is closed. An orderly stop hands over at once, a kill
    within the lease and a second; what was accepted is run.
    """
    app = COUNTED % ("'x'", 1000)
    more = 'modules = ["timers"]\npool = { max_processes = 1 }\n'
    one = hosts("one", "standby", app, more)
    gateway, _ = one.ready()
    says_at_once_that_it_could_not_take_over(hosts, gateway)
    (tmp_path / "s").mkdir()
    with notify_socket(tmp_path / "s" / "n") as told:
        two = hosts("two", "standby", app, more, env={"NOTIFY_SOCKET": told.getsockname()})
        words = ""
        while "READY=1" not in words:
            words = told.recv(4096).decode()
        assert "STATUS=standing by: the store is held by" in words
    waiting, holder = two.stands_by()
    assert f"process {one.process.pid}" in holder
    await looks_like_one_that_waits(two, waiting, holder)
    # An orderly stop.
    one.send(signal.SIGTERM)
    assert one.ended() == 0
    stopped = time.monotonic()
    gateway, taken = two.ready()
    assert time.monotonic() - stopped < 20  # 1 s on a quiet machine; a poll is 0.5 s
    assert taken == waiting
    assert get(taken, "/livez") == (200, "ok\n")
    assert get(taken, "/readyz")[0] == 200
    one.restart()
    one.stands_by()
    # A kill.
    async with connect(gateway) as client:
        for number in range(4):
            await client.send(inbound(f"m{number}"))
        for number in range(4):
            await client.expect("accepted", id=f"m{number}")
        two.send(signal.SIGKILL)
        two.ended()
    gateway, _ = one.ready()
    async with connect(gateway) as client:
        replied = {(await client.expect("outbound"))["msg"]["in_reply_to"] for _ in range(4)}
        assert replied == {f"m{number}" for number in range(4)}
    with direct(shared) as client:
        await eventually(lambda: client.xlen("jsbox:{acct}:in:phone") == 0)
    # A stop while it waits.
    two.restart()
    two.stands_by()
    two.send(signal.SIGTERM)
    assert two.ended() == 0


@pytest.mark.slow
async def test_a_frozen_server_writes_nothing_when_it_thaws(
    shared: ValkeyServer, hosts: Make
) -> None:
    """Frozen in traffic for longer than its lease: every accepted message has one outcome, and
    nothing of the old server is added to what the new one does.
    """
    app = COUNTED % ("'%s'", 20)
    more = 'modules = ["timers"]\npool = { max_processes = 2 }\n'
    one = hosts("one", "standby", app % "one", more)
    gateway, _ = one.ready()
    two = hosts("two", "standby", app % "two", more)
    two.stands_by()
    accepted: list[str] = []
    ended: list[str] = []
    async with connect(gateway, window=1000) as client:
        for number in range(60):
            await client.send(inbound(f"m{number}", f"+{number % 10}"))
            await client.expect("accepted", id=f"m{number}")
            accepted.append(f"m{number}")
        one.send(signal.SIGSTOP)
        ended += [frame["message_id"] for frame in client.frames if frame["type"] == "outcome"]
    gateway, _ = two.ready()
    with direct(shared) as reading:
        keys = [f"jsbox:{{acct}}:kv:{name} one" for name in accepted]
        before = reading.mget(keys)
        async with connect(gateway, window=1000) as client:
            one.send(signal.SIGCONT)
            one.stands_by(1)
            assert "another server has taken the store" in one.log
            await eventually(lambda: reading.xlen("jsbox:{acct}:in:phone") == 0)
            assert reading.mget(keys) == before
            for number in range(60, 70):
                await client.say("more", message_id=f"m{number}")
        runs = {
            name: [reading.get(f"jsbox:{{acct}}:kv:{name} {host}") for host in ("one", "two")]
            for name in accepted
        }
        assert all(set(found) <= {None, b"1"} and any(found) for found in runs.values()), runs
        # Run by both: what was in progress when it froze.
        twice = [name for name, found in runs.items() if all(found)]
        assert len(twice) <= 2, runs
        assert not set(twice) & set(ended)
    assert one.process.poll() is None


@pytest.mark.slow
async def test_a_store_that_is_away_for_longer_than_the_lease_ends_nothing(
    shared: ValkeyServer, hosts: Make
) -> None:
    """Frozen, dead, emptied, or refusing: the service lives, and goes on when the store does."""
    host = hosts("host", lease="1s")
    gateway, admin = host.ready()

    def is_ready() -> bool:
        return get(admin, "/readyz")[0] == 200

    async with connect(gateway) as client:

        async def is_served() -> None:
            await eventually(is_ready)
            outcome, replies = await client.say("hello")
            assert outcome["outcome"] == "ok"
            assert len(replies) == 1

        await is_served()
        shared.freeze()
        await eventually(lambda: "lease" in get(admin, "/readyz")[1] or not is_ready())
        await trio.sleep(2)
        shared.thaw()
        await is_served()
        shared.stop()
        await eventually(lambda: not is_ready())
        await trio.sleep(2)
        shared.start()
        await is_served()
        with direct(shared) as reading:
            reading.flushall()
            await is_served()
            await eventually(lambda: reading.exists("jsbox:lease"))
            assert f"process {host.process.pid}" in reading.get("jsbox:lease").decode()
            reading.config_set("min-replicas-to-write", 1)
            await client.send(inbound("refused"))
            refused = await client.expect("rejected", id="refused")
            assert "NOREPLICAS" in refused["detail"]
            assert "NOREPLICAS" in get(admin, "/readyz")[1]
            await eventually(lambda: reading.get("jsbox:lease") is None)
            assert "lease" not in get(admin, "/readyz")[1]
            reading.config_set("min-replicas-to-write", 0)
            await is_served()
    assert host.process.poll() is None


@contextmanager
def notify_socket(path: Path) -> Iterator[socket.socket]:
    """systemd's side."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(path))
        made.settimeout(START_SECONDS)
        yield made
