"""A service that is out of file descriptors: what needs one fails alone, and all goes on when there
are some again.
"""

from __future__ import annotations

import os
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from resources import fence

from ..gateway_client import Client, connect, inbound
from ..service import ECHO, Folder, eventually, running

PATIENCE = 60.0


@contextmanager
def descriptors(more: int) -> Iterator[None]:
    """Let there be at most `more` descriptors beyond those in use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(int(one) for one in os.listdir("/proc/self/fd")) + 1
    held = [os.dup(0)]
    while held[-1] < most:  # no number below it is free
        held.append(os.dup(0))
    os.close(held.pop())
    resource.setrlimit(resource.RLIMIT_NOFILE, (most + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in held:
            os.close(one)


@asynccontextmanager
async def none_left() -> AsyncIterator[None]:
    """Take all that is free, and what becomes free: a connection that ends leaves one behind."""
    async with trio.open_nursery() as nursery:
        with ExitStack() as held:
            nursery.start_soon(_take, held)
            await trio.testing.wait_all_tasks_blocked()
            yield
            nursery.cancel_scope.cancel()


async def _take(held: ExitStack) -> None:
    while True:
        with suppress(OSError):
            while True:
                held.callback(os.close, os.dup(0))
        await trio.sleep(0.001)


async def outcome_of(client: Client, name: str) -> str:
    await client.send(inbound(name, name))
    answer = await client.expect_that(lambda frame: frame.get("id") == name, PATIENCE)
    if answer["type"] != "accepted":
        return str(answer["code"])
    return str((await client.expect("outcome", PATIENCE, message_id=name))["outcome"])


async def test_without_descriptors_a_start_of_a_process_fails_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it is that the last one is missing for: the run ends as `boot` or well, the next one
    with enough of them well.
    """
    folder = Folder(tmp_path)
    folder.text += (
        "[node]\nspare = 0\n[defaults.pool]\nmax_messages = 1\ncrash_backoff ="
        " '1ms'\ntrip_after = 1000\n"
    )
    folder.app("phone", ECHO)
    async with running(folder) as service, connect(service.gateway_url) as client:
        assert await outcome_of(client, "before") == "ok"
        outcomes = []
        before = dict(fence.tally)
        for more in range(16):
            with descriptors(more):
                outcomes.append(await outcome_of(client, f"m{more}"))
            assert await outcome_of(client, f"after{more}") == "ok"
        assert set(outcomes) <= {"boot", "ok"}
        assert outcomes[0] == "boot"
        assert outcomes[-1] == "ok"
        assert "Too many open files" in "".join(
            entry.message for entry in await service.stores.logbook.newest("acct", "phone", 1000)
        )
        assert dict(fence.tally) == before, caplog.text


async def test_without_descriptors_the_store_and_the_search_process_come_back(
    tmp_path: Path,
) -> None:
    """They die while there is none to start them again with: that is waited for."""
    folder = Folder(tmp_path)
    folder.app("phone", ECHO)
    async with running(folder) as service, connect(service.gateway_url) as client:
        assert await outcome_of(client, "before") == "ok"
        with descriptors(0):
            search = service.search._running
            assert search is not None
            search.process.kill()
            await eventually(lambda: service.search._running is None, PATIENCE)
            killed = await _store_pid(service)
            async with none_left():
                os.kill(killed, 9)
                meanwhile = await outcome_of(client, "meanwhile")
                # "ok" only of a machine so busy that the store had the descriptors first.
                assert meanwhile in ("unavailable", "boot") or await _store_pid(service) != killed
                await trio.sleep(0.5)
        with trio.fail_after(PATIENCE):
            number = 0
            while await outcome_of(client, f"after{number}") != "ok":
                number += 1
                await trio.sleep(0.1)
        assert await _store_pid(service) != killed
        await eventually(lambda: service.search._running is not None, PATIENCE)


async def _store_pid(service: object) -> int:
    info = await service.stores.redis.execute("INFO", "server")  # type: ignore[attr-defined]
    return int(info.split(b"process_id:")[1].split()[0])
