"""The embedded Valkey: found, restarted, stopped, and its data there the next time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from resources.stores.redis import open_redis
from supervisor.errors import CannotStart
from supervisor.valkey import lock_data_dir, open_valkey

from ..service import eventually


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
        with trio.fail_after(20):
            while True:
                try:
                    assert await client.execute("GET", "kept") == b"1"
                    break
                except Exception:
                    await trio.sleep(0.05)
        assert await _pid(client) != pid


async def _pid(client: object) -> int:
    return int((await client.execute("INFO", "server")).split(b"process_id:")[1].split()[0])  # type: ignore[attr-defined]


async def test_a_deep_folder_is_no_obstacle(tmp_path: Path) -> None:
    """Unix sockets have short paths; folders need not."""
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    async with open_valkey(deep, "everysec") as url, open_redis(url) as client:
        assert len(url) < 107
        assert await client.execute("PING") == b"PONG"


async def test_a_folder_that_cannot_be_used_is_said_so(tmp_path: Path) -> None:
    """A broken append-only file: the server's own words."""
    folder = tmp_path / "valkey" / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.RaisesGroup(
        pytest.RaisesExc(CannotStart, match="the embedded Valkey did not start in"), flatten_subgroups=True
    ):
        async with open_valkey(tmp_path, "everysec"):
            pass


def test_one_process_at_a_time_has_the_data_directory(tmp_path: Path) -> None:
    """The second is told who has it; a lock of a dead process is no lock."""
    with lock_data_dir(tmp_path):
        code = "from supervisor.valkey import *; import sys; from pathlib import Path\nwith lock_data_dir(Path(sys.argv[1])): pass"
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
        assert f"is used by process {os.getpid()}" in other.stderr
    with lock_data_dir(tmp_path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotStart, match="cannot be used"), lock_data_dir(tmp_path / "file"):
        pass


async def test_it_ends_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    """SIGKILL to us: the kernel tells it to save and go."""
    code = (
        "import trio, sys\nfrom pathlib import Path\nfrom supervisor.valkey import open_valkey\n"
        "async def main():\n"
        "    async with open_valkey(Path(sys.argv[1]), 'everysec') as url:\n"
        "        print(url, flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    assert process.stdout is not None
    with process.stdout:
        url = process.stdout.readline().strip()
        async with open_redis(url) as client:
            pid = await _pid(client)
        process.kill()
        process.wait()
    await eventually(lambda: not Path(f"/proc/{pid}").exists())
