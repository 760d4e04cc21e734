"""`jsbox logs` without a server: read from the store, which stays as it is."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from resources.stores.redis import open_redis
from supervisor.config import Config
from supervisor.config.model import RedisServer
from supervisor.store.copies import open_copy, remove_copies
from supervisor.store.ownership import lock_data_dir, owner_of
from supervisor.store.reading import open_reading
from supervisor.store.valkey import FOLDER, open_valkey

from ...gateway_client import connect
from ...service import ECHO
from .operator import operating

LOGGING = "api.log_info('one\\nforged', function () { " + ECHO + " });"


def contents(folder: Path) -> dict[str, str]:
    """What is in a data directory: each file, by its digest."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


async def test_a_log_is_read_without_the_server(tmp_path: Path) -> None:
    """As with it, also while somebody else has the lock of the data directory, as a service that
    starts; and a follower is told that nothing can be followed.
    """
    async with operating(tmp_path, app=LOGGING) as jsbox:
        async with connect(jsbox.service.gateway_url) as client:
            await client.say("hi", "new")
        shown = await jsbox("logs", "phone")
        assert "INFO     one\n    forged\n" in shown.stdout
        data = jsbox.service.config.data_dir
    before = contents(data)
    with lock_data_dir(data):
        before["lock"] = contents(data)["lock"]
        read = await jsbox("logs", "phone")
    assert (read.exit_code, read.stdout) == (0, shown.stdout)
    assert "the log is read from the store" in read.stderr
    assert contents(data) == before
    none = await jsbox("logs", "phone", "--level", "critical")
    assert (none.exit_code, none.stdout) == (0, "")
    for arguments, code, text in (
        (("nobody",), 1, "there is no app 'nobody'"),
        (("phone", "--since", "yesterday"), 1, "expected a time with its zone"),
        (("phone", "-f"), 4, "cannot be reached"),
    ):
        failed = await jsbox("logs", *arguments)
        assert (failed.exit_code, text in failed.stderr) == (code, True), failed.output
    assert contents(data) == before
    (data / FOLDER).rename(tmp_path / "elsewhere")
    gone = await jsbox("logs", "phone")
    assert (gone.exit_code, "there is no store in" in gone.stderr) == (1, True)


async def test_a_live_server_is_asked_and_no_second_one_started(tmp_path: Path) -> None:
    """Nothing is copied; what it wrote last is seen."""
    config = Config(data_dir=tmp_path)
    async with open_valkey(tmp_path, "everysec") as url, open_redis(url) as writer:
        await writer.execute("SET", "k", "v")
        owner = await trio.to_thread.run_sync(owner_of, tmp_path / FOLDER)
        async with open_reading(config) as read, open_redis(read) as reader:
            assert await reader.execute("GET", "k") == b"v"
            assert not list(tmp_path.glob("reading-*"))
            info = (await reader.execute("INFO", "server")).decode()
        assert f"process_id:{owner}\r" in info
    async with open_reading(Config(redis=RedisServer("redis://example.org:1"))) as read:
        assert read == "redis://example.org:1"


KILLED = """
import sys, time
from pathlib import Path
from supervisor.store.copies import open_copy
with open_copy(Path(sys.argv[1])) as copy:
    (copy / "file").write_text("x")
    print(copy.name, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_reader_leaves_is_removed(tmp_path: Path) -> None:
    """By the next one and by a start of the service; what is in use, or is no folder, stays."""
    target = tmp_path / "elsewhere"
    target.mkdir()
    (tmp_path / "reading-link").symlink_to(target)
    (tmp_path / "reading-file").touch()

    def copies() -> set[str]:
        return {one.name for one in tmp_path.glob("reading-*")} - {"reading-link", "reading-file"}

    argv = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        name = reader.stdout.readline().strip()
        with open_copy(tmp_path) as mine:
            remove_copies(tmp_path)
            assert copies() == {name, mine.name}, "both are in use"
        assert copies() == {name}
        reader.kill()
    remove_copies(tmp_path)
    assert copies() == set()
    (tmp_path / "reading-left").mkdir()
    with open_copy(tmp_path) as mine:
        assert copies() == {mine.name}
    assert target.is_dir()
    assert (tmp_path / "reading-file").exists()


@pytest.mark.parametrize("end", [b"*3\r\n$3\r\nSET\r\n$1\r\n", b"\0" * 50])
async def test_a_damaged_end_is_repaired_in_the_copy_only(tmp_path: Path, end: bytes) -> None:
    """As a power cut leaves it: the next start of the service repairs the store itself."""
    async with open_valkey(tmp_path, "everysec") as url, open_redis(url) as client:
        await client.execute("SET", "k", "v")
    (file,) = tmp_path.glob(f"{FOLDER}/*/*.incr.aof")
    with file.open("ab") as opened:
        opened.write(end)
    before = contents(tmp_path)
    async with open_reading(Config(data_dir=tmp_path)) as url, open_redis(url) as client:
        assert await client.execute("GET", "k") == b"v"
        await client.execute("SET", "k", "in the copy")
        await client.execute("BGREWRITEAOF")
    assert contents(tmp_path) == before
