"""Fixtures of all tests, and the check that a test leaves no process and no descriptor behind."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from resources.stores.redis import Redis, open_redis
from supervisor.scratch import LOCK

from .valkey_server import valkey_server


def _children() -> set[int]:
    """Processes whose parent is this one."""
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(entry))
    return found


def _descriptors() -> int:
    """But for the locks of temporary folders that all tests share (tests/apps.py)."""
    count = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            count += not os.readlink(f"/proc/self/fd/{descriptor}").endswith(f"/{LOCK}")
    return count


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test ends with the processes and descriptors that it began with."""
    processes, descriptors = _children(), _descriptors()
    yield
    if "server" in request.fixturenames or "valkey" in request.fixturenames:
        return  # a server that lives longer than one test was started by this one
    deadline = time.monotonic() + 2
    while True:
        left, more = _children() - processes, _descriptors() - descriptors
        if (not left and more <= 0) or time.monotonic() > deadline:
            break
        gc.collect()  # what a caught exception's traceback still holds
        time.sleep(0.02)
    assert not left
    assert more <= 0


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real Valkey on a unix socket, for the whole session."""
    with valkey_server(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture
async def redis(valkey: str) -> AsyncIterator[Redis]:
    """A client of an empty store."""
    async with open_redis(valkey) as client:
        await client.execute("FLUSHALL")
        yield client
