"""The embedded Valkey's files: synced, repaired, rewritten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resources.stores.redis import Redis, open_redis
from supervisor.store import append_only as aof
from supervisor.store import upkeep
from supervisor.store.valkey import FOLDER, open_valkey

from ...service import ECHO, Folder, eventually, running


async def setting(client: Redis, name: str) -> str:
    return str((await client.execute("CONFIG", "GET", name))[1].decode())


async def test_fsync_is_what_the_config_says(tmp_path: Path) -> None:
    """always: the server syncs before it answers. everysec: it never syncs, so that it always
    writes before it answers, and we do.
    """
    for name, more, expected in (("a", "", "no"), ("b", '[redis]\nfsync = "always"\n', "always")):
        folder = Folder(tmp_path / name)
        folder.path.mkdir()
        folder.app("phone", ECHO)
        folder.text += more
        async with running(folder) as service:
            assert await setting(service.stores.redis, "appendfsync") == expected


async def test_what_was_written_is_synced_every_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The increment that the server writes to; once for what was written, and not again until there
    is more.
    """
    synced, looks = list[Path](), 0
    real, increments = upkeep.sync_file, aof.increments

    def sync(file: Path) -> None:
        real(file)
        synced.append(file)

    def look(folder: Path) -> dict[str, int]:
        nonlocal looks
        looks += 1
        return increments(folder)

    async def a_few_looks() -> None:
        wanted = looks + 3
        await eventually(lambda: looks > wanted, 60)

    monkeypatch.setattr(upkeep, "sync_file", sync)
    monkeypatch.setattr(aof, "increments", look)
    monkeypatch.setattr(upkeep, "SYNC_SECONDS", 0.01)
    async with open_valkey(tmp_path, "everysec") as url, open_redis(url) as client:
        await a_few_looks()
        for n in range(3):
            before = len(synced)
            await client.execute("SET", "k", n)
            await a_few_looks()
            assert len(synced) == before + 1
    assert set(synced) == {tmp_path / FOLDER / aof.FOLDER / "appendonly.aof.1.incr.aof"}
    synced.clear()
    looks = 0
    async with open_valkey(tmp_path, "always") as url, open_redis(url) as client:
        await client.execute("SET", "k", 1)
    assert looks == 0


async def test_a_sync_that_fails_is_said_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk fails, or there is no descriptor: the store goes on."""
    tries = 0

    def fail(file: Path) -> None:
        nonlocal tries
        tries += 1
        raise OSError(5, "Input/output error", str(file))

    monkeypatch.setattr(upkeep, "sync_file", fail)
    monkeypatch.setattr(upkeep, "SYNC_SECONDS", 0.01)
    async with open_valkey(tmp_path, "everysec") as url, open_redis(url) as client:
        await client.execute("SET", "k", 1)
        await eventually(lambda: tries > 3, 60)
        assert await client.execute("GET", "k") == b"1"
    assert caplog.text.count("may not be on disk") == 1


HOLE = b"\0" * 777


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        (lambda data: data + b"\0" * 4096, 0),
        (lambda data: data[:-3], 1),
        (lambda data: data + b"garbage", 0),
        (lambda data: data + b"*3\r\n$3\r\nSET\r\n$1\r\nk", 0),
        (
            lambda data: data.replace(
                b"*3\r\n$3\r\nSET\r\n$2\r\nk5", HOLE + b"*3\r\n$3\r\nSET\r\n$2\r\nk5"
            ),
            0,
        ),
    ],
    ids=["zeros", "cut", "garbage", "half a command", "a hole"],
)
async def test_damaged_files_are_repaired_at_the_start(
    tmp_path: Path, damage: Any, lost: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What was damaged is kept aside and reported; what follows a hole is not lost."""
    async with open_valkey(tmp_path, "everysec") as url, open_redis(url) as client:
        for n in range(10):
            await client.execute("SET", f"k{n}", n)
    file = tmp_path / FOLDER / aof.FOLDER / "appendonly.aof.1.incr.aof"
    damaged = damage(file.read_bytes())
    file.write_bytes(damaged)
    async with open_valkey(tmp_path, "everysec") as url, open_redis(url) as client:
        assert await client.execute("DBSIZE") == 10 - lost
        await client.execute("SET", "more", 1)
    assert "bytes were damaged and are removed" in caplog.text
    (copies,) = aof.copies(tmp_path / FOLDER)
    assert (copies / file.name).read_bytes() == damaged
    async with open_valkey(tmp_path, "everysec") as url, open_redis(url) as client:
        assert await client.execute("DBSIZE") == 11 - lost


async def test_a_lost_manifest_does_not_begin_an_empty_store(tmp_path: Path) -> None:
    """Left to itself the server would, over the files that are there."""
    async with open_valkey(tmp_path, "everysec") as url, open_redis(url) as client:
        await client.execute("SET", "kept", 1)
    (tmp_path / FOLDER / aof.FOLDER / aof.MANIFEST).unlink()
    async with open_valkey(tmp_path, "everysec") as url, open_redis(url) as client:
        assert await client.execute("GET", "kept") == b"1"


async def test_files_grow_and_are_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When they have doubled; without room for it, that is reported instead."""
    monkeypatch.setattr(upkeep, "SYNC_SECONDS", 0.01)
    monkeypatch.setattr(upkeep, "REWRITE_FROM", 100_000)
    async with open_valkey(tmp_path, "everysec", reserve=0) as url, open_redis(url) as client:
        for n in range(300):
            await client.execute("SET", "k", "v" * 1000 + str(n))
        await eventually(lambda: aof.look(tmp_path / FOLDER).bases[0].seq > 1, 60)
        assert await client.execute("GET", "k") == b"v" * 1000 + b"299"


async def test_files_are_not_rewritten_where_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It would fill the disk that it should relieve."""
    monkeypatch.setattr(upkeep, "SYNC_SECONDS", 0.01)
    monkeypatch.setattr(upkeep, "REWRITE_FROM", 100_000)
    async with open_valkey(tmp_path, "everysec", reserve=1 << 60) as url, open_redis(url) as client:
        for n in range(300):
            await client.execute("SET", "k", "v" * 1000 + str(n))
        await eventually(lambda: "should be rewritten" in caplog.text, 60)
        assert b"aof_rewrite_in_progress:0" in await client.execute("INFO", "persistence")
    assert [base.seq for base in aof.look(tmp_path / FOLDER).bases] == [1]
