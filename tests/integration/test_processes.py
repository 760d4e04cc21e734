"""`jsbox serve --processes N`: one server of several processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
from pathlib import Path

import httpx2
import pytest
import trio

from ..gateway_client import connect
from ..programs import START_SECONDS, STOP_SECONDS, jsbox
from ..service import ECHO
from .crowd import APP, Crowd
from .together import KILLED, Running, keeper_of, serving, until, write


def test_what_cannot_be_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    config = write(tmp_path, 1, more='[redis]\nurl = "redis://127.0.0.1:1"\n')
    done = jsbox("serve", "-c", str(config), "--processes", "2")
    assert done.returncode == 3
    assert (
        '--processes: 2 processes share the store at redis.url: set cluster.mode to "shared"'
        in (done.stderr)
    )
    assert jsbox("serve", "-c", str(config), "--processes", "0").returncode == 2
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = write(tmp_path, 2)
        config.write_text(config.read_text().replace("127.0.0.1:0", address, 1))
        done = jsbox("serve", "-c", str(config))
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(
            f"jsbox: listen.gateway: cannot listen on {address}: Address already in use"
        )
    assert not (tmp_path / "jsbox-data").exists()


@pytest.mark.slow
async def test_nothing_is_lost_while_each_process_and_the_store_is_killed(tmp_path: Path) -> None:
    write(tmp_path, 3, APP)
    with serving(tmp_path) as running:
        # one connection: two that come to the same process are both told each outcome
        crowd = Crowd([running.gateway], users=40, each=15, pause=0.05)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crowd.stay)
            async with trio.open_nursery() as work:
                work.start_soon(crowd.speak)
                for place in (1, 2, 3):
                    await crowd.wait_accepted(100 * place)
                    os.kill(running.pid_of(place), signal.SIGKILL)
                    line = KILLED.format(f"process {place}")
                    await trio.to_thread.run_sync(until, lambda line=line: line in running.log)
                    await trio.to_thread.run_sync(until, running.is_whole)
            with running.store as store:
                await crowd.all_has_ended(store)
            # Not before: commands that are cut off fail, and this app does not look.
            os.kill(keeper_of(running), signal.SIGKILL)
            await trio.to_thread.run_sync(until, lambda: KILLED.format("the store") in running.log)
            await trio.to_thread.run_sync(until, running.is_whole)
            await crowd.ask()
            nursery.cancel_scope.cancel()
        assert KILLED.format("the store") in running.log
        with running.store as store:
            crowd.check(store, 12)
        until(lambda: _is_spread(running, 3))


def _is_spread(running: Running, count: int) -> bool:
    """Whether every partition has an owner, of so many; one that is handed over has none."""
    with running.store as store:
        keys = [f"jsbox:{{acct}}:owner:phone:{n}" for n in range(16)]
        owners = [(owner or b"").split()[1:2] for owner in store.mget(keys)]
    return all(owners) and len({owner for (owner,) in owners}) == count


@pytest.mark.slow
async def test_one_reload_changes_all_or_none(tmp_path: Path) -> None:
    config = write(tmp_path, 2)
    with serving(tmp_path) as running:
        first, second = running.pid_of(1), running.pid_of(2)

        async def said() -> set[str]:
            """What users hear who are spread over all partitions."""
            async with connect(running.gateway) as client:
                return {
                    (await client.say("x", "new", from_addr=f"+{n}"))[1][0]["content"]
                    for n in range(24)
                }

        assert await said() == {"you said x"}
        until(lambda: _is_spread(running, 2))
        (tmp_path / "phone.js").write_text("api.on_inbound_message = function ( {")
        url = f"{running.admin}/v1/reload"
        refused = httpx2.post(url, trust_env=False, timeout=START_SECONDS)
        assert refused.status_code == 422
        assert "SyntaxError" in refused.text
        assert await said() == {"you said x"}
        assert "the last reload was refused" in running.ready().text
        # another process, if it is asked, has the first reload
        hosts = httpx2.get(f"{running.admin}/v1/hosts", trust_env=False).json()["hosts"]
        (other,) = (one["id"] for one in hosts if not one["is_this"])
        refused = httpx2.post(f"{url}?host={other}", trust_env=False, timeout=START_SECONDS)
        assert refused.status_code == 422
        assert "SyntaxError" in refused.text

        write(tmp_path, 2, ECHO.replace("you said ", "they said "))
        done = httpx2.post(f"{url}?host={other}", trust_env=False, timeout=START_SECONDS)
        assert done.json()["ok"], done.text
        assert done.json()["warnings"] == []
        assert await said() == {"they said x"}

        write(tmp_path, 2, ECHO.replace("you said ", "we said "))
        running.process.send_signal(signal.SIGHUP)
        until(lambda: running.log.count("the config was reloaded") == 4)
        assert await said() == {"we said x"}

        # one that starts again has the config that is in effect, and not what the file has now
        config.write_text("this is no config")
        os.kill(second, signal.SIGKILL)
        until(lambda: running.log.count("process 2: supervisor.cli.serve: it serves 1 apps") == 2)
        until(running.is_whole)
        assert await said() == {"we said x"}
        assert running.pid_of(1) == first


@pytest.mark.slow
def test_metrics_of_all_processes_come_from_one_place(tmp_path: Path) -> None:
    write(tmp_path, 2)
    with serving(tmp_path) as running:

        def scraped(line: str) -> bool:
            found = httpx2.get(f"{running.admin}/metrics", trust_env=False, timeout=START_SECONDS)
            return line in found.text.splitlines()

        os.kill(running.pid_of(2), signal.SIGKILL)
        until(lambda: scraped('jsbox_process_up{process="2"} 0.0'))
        until(lambda: scraped('jsbox_process_restarts_total{process="2"} 1.0'))
        until(lambda: scraped('jsbox_process_up{process="store"} 1.0'))
        until(lambda: scraped('jsbox_queue_depth{process="2",app="phone"} 0.0'))
        assert scraped('jsbox_queue_depth{process="1",app="phone"} 0.0')


@pytest.mark.slow
async def test_the_others_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    write(tmp_path, 2)
    with serving(tmp_path, code=None) as running:
        async with connect(running.gateway) as client:
            assert (await client.say("one", "new"))[0]["outcome"] == "ok"
        pids = running.children
        assert len(pids) == 3
        running.process.send_signal(signal.SIGKILL)
        running.process.wait(STOP_SECONDS)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
        assert "nobody is left who uses the store: it ends" in running.log
    with serving(tmp_path) as running, running.store as store:
        assert store.keys("jsbox:{acct}:seen:*")


@pytest.mark.slow
async def test_another_number_of_processes_serves_the_same_data(tmp_path: Path) -> None:
    write(tmp_path, 1, APP)
    for count in (1, 3, 1, 2):
        with serving(tmp_path, "--processes", str(count)) as running:
            async with connect(running.gateway) as client:
                assert (await client.say("x", "new", from_addr="+1"))[0]["outcome"] == "ok"
            folders = sorted(one.name for one in (tmp_path / "jsbox-data").glob("process-*"))
            if count > 1:
                assert folders == [f"process-{n + 1}" for n in range(count)]
                other = jsbox("serve", "-c", str(tmp_path / "jsbox.toml"))
                assert other.returncode == 1
                assert re.search(r"jsbox-data is used by process \d+; stop it", other.stderr)
            with running.store as store:
                runs = int(store.get("jsbox:{acct}:kv:runs +1") or 0)
    assert runs == 4
    # as a backup that is restored on another host: nothing but the store
    for folder in (tmp_path / "jsbox-data").glob("process-*"):
        shutil.rmtree(folder)
    refused = jsbox("serve", "-c", str(tmp_path / "jsbox.toml"))
    assert refused.returncode == 1
    assert "was served by several processes (cluster.processes)" in refused.stderr
    with serving(tmp_path) as running:
        assert "one process serves it as several did" in running.log


@pytest.mark.slow
def test_a_process_that_is_away_is_named_and_too_few_are_not_ready(tmp_path: Path) -> None:
    write(tmp_path, 3)
    with serving(tmp_path) as running:
        assert running.is_whole()
        second, third = running.pid_of(2), running.pid_of(3)
        os.kill(second, signal.SIGSTOP)  # it hears of its end when it goes on
        os.kill(second, signal.SIGKILL)
        until(lambda: "processes: 2 of 3 processes serve: process 2 is" in running.ready().text)
        until(running.is_whole)
        for pid in (running.pid_of(2), third):
            os.kill(pid, signal.SIGKILL)

        def too_few() -> bool:
            found = running.ready()
            return found.status_code == 503 and "1 of 3 processes serve" in found.text

        until(too_few)
        until(running.is_whole)
