"""The doctor's checks of the disk: free space, damage to the store's files and to indexes."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import cast

import pytest
import trio
from attrs import evolve

from resources.stores.redis import open_redis
from resources.stores.search import INDEXES
from resources.stores.search.changes import Changes
from resources.stores.search.index import AccountIndex
from resources.stores.search.walls import landlock_version
from supervisor.config import Config, load
from supervisor.config.accounts import Account
from supervisor.config.model import RedisServer
from supervisor.config.units import Size
from supervisor.store import append_only as aof
from supervisor.store.valkey import FOLDER, open_valkey
from supervisor.tools import doctor, doctor_search

from ...programs import free_ports
from ...resources.search.changing import ContactsThatChange
from ...resources.search.indexes import people
from ...service import ECHO, Folder, running


async def stored(folder: Path) -> Config:
    """A data directory with a store in it."""
    async with open_valkey(folder, "everysec") as url, open_redis(url) as client:
        await client.execute("SET", "k", "v")
        (check,) = doctor.check_files(Config(data_dir=folder))
        assert check.text.endswith("is in use, and not checked")
    return Config(data_dir=folder)


async def test_undamaged_files_are_reported_as_such(tmp_path: Path) -> None:
    """If there is no store, there is no check of it."""
    assert list(doctor.check_files(Config(data_dir=tmp_path / "none"))) == []
    assert list(doctor.check_files(Config(data_dir=tmp_path, redis=RedisServer("redis://x")))) == []
    config = await stored(tmp_path)
    (check,) = doctor.check_files(config)
    assert (check.status, check.text) == ("ok", f"0 MiB in {tmp_path / FOLDER}, undamaged")


async def test_damaged_files_are_found_before_the_start_repairs_them(tmp_path: Path) -> None:
    """A check changes nothing. After the repair it reports the copy that was kept."""
    config = await stored(tmp_path)
    file = tmp_path / FOLDER / aof.FOLDER / "appendonly.aof.1.incr.aof"
    with file.open("ab") as opened:
        opened.write(b"\0" * 50)
    before = file.read_bytes()
    (check,) = doctor.check_files(config)
    assert check.status == "failed"
    assert f"50 of {len(before)} bytes are damaged; 0 of them held commands" in check.text
    assert "the next start repairs it" in check.remedy
    assert file.read_bytes() == before
    async with open_valkey(tmp_path, "everysec"):
        pass
    whole, kept = doctor.check_files(config)
    assert whole.status == "ok"
    assert (kept.status, kept.text[:24]) == ("note", "1 repairs have kept 0 Mi")
    (tmp_path / FOLDER / aof.FOLDER / aof.MANIFEST).unlink()
    assert next(iter(doctor.check_files(config))).status == "failed"


@pytest.mark.parametrize(
    ("reserve", "url", "status"),
    [(1, "embedded", "ok"), (1 << 60, "embedded", "failed"), (1 << 60, "redis://x", "ok")],
)
def test_a_disk_with_less_than_the_reserve_is_a_failure(
    tmp_path: Path, reserve: int, url: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the embedded store, nothing would be accepted."""
    monkeypatch.setattr(doctor, "DISK_LOW", 1 if status == "ok" else 1 << 61)
    config = Config(data_dir=tmp_path)
    config = evolve(config, redis=evolve(config.redis, url=url, disk_reserve=Size(reserve)))
    (check,) = doctor.check_disk(config)
    assert check.status == status
    assert ("redis.disk_reserve" in check.text) == (status == "failed")


def test_search_indexes_are_checked(tmp_path: Path) -> None:
    """Of the accounts that have one: whole, damaged, and not ours to write."""
    root = tmp_path / INDEXES
    contacts = ContactsThatChange()
    for contact in people(300):
        contacts.write(contact)
    for account in ("acct", "other"):
        index = AccountIndex.open(root, account, cast("Changes", contacts))
        index.catch_up(lambda done, left: None)
        del index
    config = Config(data_dir=tmp_path, accounts={"acct": Account(), "other": Account(),
        "none": Account()})  # fmt: skip
    assert [check.status for check in doctor.check_indexes(config)] == ["ok", "ok"]
    victim = next((root / "a-other" / "index").glob("*.pos"))
    os.truncate(victim, victim.stat().st_size - 1)
    whole, damaged = doctor.check_indexes(config)
    assert (whole.name, whole.status) == ("search index of acct", "ok")
    assert (damaged.name, damaged.status) == ("search index of other", "note")
    assert f"{victim} is cut short" in damaged.text
    assert "builds it anew" in damaged.remedy


def test_the_walls_of_the_search_process_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a process of its own; what is lacking is said."""
    config = Config(data_dir=tmp_path)
    engine, walls = doctor_search.check_search(config)
    assert engine.status == "ok"
    assert (walls.name, walls.status) == (
        "search walls",
        "ok" if landlock_version() > 5 else "note",
    )
    lacking = (sys.executable, "-c", "print('[\"Landlock (it is disabled)\"]')")
    monkeypatch.setattr(doctor_search, "WALLS", lacking)
    _, walls = doctor_search.check_search(config)
    assert walls.status == "note"
    assert walls.text == "the search process lacks Landlock (it is disabled)"
    monkeypatch.setattr(doctor_search, "WALLS", (sys.executable, "-c", "raise SystemExit(3)"))
    _, walls = doctor_search.check_search(config)
    assert walls.status == "failed"


async def test_ports_of_the_jsbox_that_runs_here_are_no_fault(tmp_path: Path) -> None:
    """Only if it answers at the admin port of the config; any other program in the way is one."""
    gateway, admin = free_ports(2)
    folder = Folder(tmp_path)
    for name, port in (("gateway", gateway), ("admin", admin)):
        folder.text = folder.text.replace(f'{name} = "127.0.0.1:0"', f'{name} = "127.0.0.1:{port}"')
    folder.app("phone", ECHO)
    async with running(folder):
        checks = await trio.to_thread.run_sync(list, doctor.check_ports(load(folder.config)))
        assert [check.status for check in checks] == ["ok", "ok"]
        assert "used by the jsbox that runs here" in checks[0].text
    with socket.create_server(("127.0.0.1", gateway)):
        first, second = doctor.check_ports(load(folder.config))
    assert (first.status, second.status) == ("failed", "ok")
