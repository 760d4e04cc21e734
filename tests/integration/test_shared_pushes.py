"""A push, and opt-outs, while the servers that share the work die. Slow."""

from __future__ import annotations

import json
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest
import redis
import trio

from ..programs import free_ports, jsbox
from ..valkey_server import ValkeyServer
from .crowd import Crowd
from .hosts import Host, Make, direct

pytestmark = pytest.mark.slow

LEASE, PROCESSES, QUEUE = 2.0, 4, 60
SECONDS = 240.0  # for all of it
# Each run waits for the key `go`; then it counts itself and replies.
APP = """
    var timers = require('timers'), user = command.msg.from_addr;
    (function look() {
        api.request('kv.get', {key: 'go'}, function (found) {
            if (!found.value) { return timers.setTimeout(look, 50); }
            api.request('kv.incr', {key: 'runs ' + user}, function () {
                api.request('outbound.reply_to', {content: 'hello ' + user,
                    in_reply_to: command.msg.message_id}, function () { api.done(); });
            });
        });
    })();"""
MORE = f'modules = ["timers"]\npool = {{ max_processes = {PROCESSES}, queue = {QUEUE} }}\n'
ADDRESSES = [f"+2782{n:07}" for n in range(3000)]
OUT, LATE = ADDRESSES[::40], ADDRESSES[-1]


async def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return await trio.to_thread.run_sync(partial(jsbox, *arguments, cwd=folder))


async def opt_out(host: Host, addresses: list[str]) -> None:
    """Through this server."""
    file = host.folder / "out.csv"
    rows = "".join(f"msisdn,{one}\n" for one in addresses)
    file.write_text("address_type,address_value\n" + rows)
    config = str(host.folder / "jsbox.toml")
    done = await run("optouts", "import", "acct", str(file), "-c", config, folder=host.folder)
    assert done.returncode == 0, done.stderr


def entries(store: redis.Redis) -> list[dict[str, str]]:
    """All that waits or runs."""
    found = [store.xrange(key) for key in store.keys("jsbox:{acct}:in:*")]
    return [json.loads(fields[b"e"]) for each in found for _, fields in each]


async def test_each_is_pushed_to_once(shared: ValkeyServer, hosts: Make, tmp_path: Path) -> None:
    ports = free_ports(4)
    one, two = [
        hosts(
            f"host{n}",
            "shared",
            APP,
            MORE,
            lease=f"{LEASE:g}s",
            gateway=f"127.0.0.1:{ports[n]}",
            admin=f"127.0.0.1:{ports[2 + n]}",
        )
        for n in range(2)
    ]
    (tmp_path / "addresses").write_text("\n".join(ADDRESSES))
    config = str(one.folder / "jsbox.toml")
    push = ("push", "phone", "--file", "addresses", "-c", config)
    crowd = Crowd([f"ws://127.0.0.1:{port}/v1" for port in ports[:2]], users=0, each=0)
    with direct(shared) as store, trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            ids = [await trio.to_thread.run_sync(host.id) for host in (one, two)]
            nursery.start_soon(crowd.stay)
            await opt_out(two, OUT)
            await opt_out(one, [LATE])
            await interrupted(crowd, store, (one, two), ids[0], push, tmp_path)
            done = await run(*push, "--json", folder=tmp_path)
            assert done.returncode == 0, done.stderr
            counts = json.loads(done.stdout)
            assert counts["queued"] + counts["already"] >= len(ADDRESSES) - len(OUT) - 1, counts
            assert counts["opted_out"] == len(OUT) + 1
            await crowd.all_has_ended(store)
            await crowd.has_replies(len(ADDRESSES) - len(OUT) - 1)
            nursery.cancel_scope.cancel()
        check(crowd, store)


async def interrupted(
    crowd: Crowd,
    store: redis.Redis,
    pair: tuple[Host, Host],
    first: str,
    push: tuple[str, ...],
    folder: Path,
) -> None:
    """A push through the first server, while one dies after the other."""
    one, two = pair
    done: list[subprocess.CompletedProcess[str]] = []
    async with trio.open_nursery() as nursery:

        async def keep() -> None:
            done.append(await run(*push, folder=folder))

        nursery.start_soon(keep)
        while len(waiting := entries(store)) < QUEUE / 2:
            await trio.sleep(0.05)
        # so that who runs them tells it the end of each
        assert {entry["via"].split()[0] for entry in waiting} == {first}
        store.set("jsbox:{acct}:kv:go", "1")
        await crowd.has_replies(200)
        await killed(two)
        await crowd.has_replies(500)
        await killed(one)
    (push_done,) = done
    assert push_done.returncode == 4, push_done
    assert "call it again to go on" in push_done.stderr


async def killed(host: Host) -> None:
    host.send(signal.SIGKILL)
    await trio.to_thread.run_sync(host.ended)
    await trio.sleep(LEASE + 1)
    host.restart()
    await trio.to_thread.run_sync(host.ready)


def check(crowd: Crowd, store: redis.Redis) -> None:
    runs = [int(store.get(f"jsbox:{{acct}}:kv:runs {one}") or 0) for one in ADDRESSES]
    out = {*OUT, LATE}
    assert [one for one, n in zip(ADDRESSES, runs, strict=True) if n and one in out] == []
    assert [one for one, n in zip(ADDRESSES, runs, strict=True) if not n and one not in out] == []
    assert sum(runs) - len(ADDRESSES) + len(out) <= 2 * PROCESSES
    assert len(crowd.replies) == len(ADDRESSES) - len(out)
    assert [found for found in crowd.replies.values() if len(found) > 1] == []
