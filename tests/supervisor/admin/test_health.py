"""/readyz names every problem; one app's problem is not the host's."""

from __future__ import annotations

from pathlib import Path

import httpx2 as httpx
import pytest
import trio

from resources.stores.logbook import LogEntry
from supervisor.admin import health
from supervisor.log_output import LogWriter
from supervisor.store import disk

from ...gateway_client import connect, inbound
from ...service import ECHO, Folder, eventually, running

DYING = "while (true) { api.log_info(new Array(10000).join('x')); }"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are not about a loop that is late because the machine is busy."""
    monkeypatch.setattr(health, "LAG_LATE", 1000.0)


async def ready(url: str, **params: str) -> tuple[int, list[str]]:
    async with httpx.AsyncClient(base_url=url) as admin:
        answer = await admin.get("/readyz", params=params)
        return answer.status_code, answer.text.splitlines()


async def test_all_well(folder: Folder) -> None:
    """ok; with `verbose` every check is named."""
    folder.app("phone", ECHO)
    async with running(folder) as service:
        assert await ready(service.admin_url) == (200, ["ok"])
        code, lines = await ready(service.admin_url, verbose="1")
        assert code == 200
        assert lines == [
            "ok", "server: ok", "redis: ok", "disk: ok", "search: ok", "loop: ok",
            "config: ok", "access: ok", "audit: ok",
            "app phone: state: ok", "app phone: queue: ok", "app phone: age: ok",
        ]  # fmt: skip


async def test_a_tripped_app_is_named_and_counts_where_it_is_asked_for(folder: Folder) -> None:
    """The host stays ready for the others."""
    folder.app(
        "bad", DYING, 'pool = { trip_after = 1 }\nlimits = { output = "64KiB", line = "32KiB" }'
    )
    folder.app("good", ECHO)
    async with running(folder) as service:
        async with connect(service.gateway_url, "bad") as client:
            await client.say("hi", "new")
        await eventually(
            lambda: (
                service.pool.crashes.state(service.config.apps["bad"]).state == "tripped"
                or service.pool.crashes.state(service.config.apps["bad"]).last
            )
        )
        service.pool.crashes._rows["bad"].crashes = 1
        code, lines = await ready(service.admin_url)
        assert code == 200
        assert lines[0] == "ready, but:"
        assert lines[1].startswith("app bad: state: it is tripped: limits.output")
        assert (await ready(service.admin_url, app="bad"))[0] == 503
        assert await ready(service.admin_url, app="good") == (200, ["ok"])
        assert (await ready(service.admin_url, app="nobody"))[0] == 404


async def test_what_apps_say_cannot_play_with_a_terminal(folder: Folder) -> None:
    """Whoever looks with curl sees the reason of an app as text."""
    folder.app("bad", "throw new Error('\\u001b[31m\\u202e');")
    async with running(folder) as service:
        async with connect(service.gateway_url, "bad") as client:
            for number in range(3):
                await client.send(inbound(f"m{number}"))
                await client.expect("outcome")
        _, lines = await ready(service.admin_url)
        assert any(line.endswith(r"Error: \x1b[31m\u202e") for line in lines), lines


async def test_logs_that_nobody_reads_are_named(folder: Folder) -> None:
    """While log.stdout is on."""
    folder.app("phone", ECHO)
    async with running(folder) as service:
        writer = LogWriter(None)
        service.log_writer, writer.form = writer, "text"
        writer.put("acct", "phone", LogEntry("2026", "INFO", "x"))
        expected = "log.stdout: the apps' logs cannot be printed: standard output is closed"
        assert expected in (await ready(service.admin_url))[1]
        writer.form = "off"
        assert await ready(service.admin_url) == (200, ["ok"])


async def test_a_full_and_old_queue_is_named(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many wait, of how many, how long, and how many processes are busy."""
    monkeypatch.setattr(health, "QUEUE_OLD", 0.1)
    folder.app(
        "phone",
        "command = null;",
        'pool = { queue = 2, max_processes = 1 }\nlimits = { wall = "2s" }',
    )
    async with running(folder) as service, connect(service.gateway_url) as client:
        for number in range(3):
            await client.send(
                {
                    "type": "inbound",
                    "id": f"g{number}",
                    "msg": {
                        "message_id": f"m{number}",
                        "from_addr": f"+2{number}",
                        "to_addr": "1",
                        "content": "x",
                    },
                }
            )
            await client.expect("accepted", id=f"g{number}")
        await eventually(lambda: service.dispatcher.waiting("phone") == 2)
        await trio.sleep(0.3)
        code, lines = await ready(service.admin_url)
        assert code == 200
        assert "app phone: queue: 2 messages wait, of 2 at most (pool.queue)" in lines
        assert any("1 of 1 processes (pool.max_processes) are busy" in line for line in lines)
        async with httpx.AsyncClient(base_url=service.admin_url) as admin:
            metrics = (await admin.get("/metrics")).text
        assert 'jsbox_queue_depth{app="phone"} 2.0' in metrics
        (oldest,) = (
            line for line in metrics.splitlines() if line.startswith("jsbox_queue_oldest_seconds")
        )
        assert float(oldest.split()[1]) > 0.1


async def test_a_full_disk_and_a_lost_search_process_are_named(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no room on the disk, accepted messages may be lost; without search only some commands
    fail.
    """
    folder.app("phone", ECHO)
    async with running(folder) as service:
        monkeypatch.setattr(health, "DISK_LOW", 1 << 60)
        code, lines = await ready(service.admin_url)
        assert (code, lines[0]) == (200, "ready, but:")
        assert "MiB are free in" in lines[1]
        monkeypatch.undo()
        monkeypatch.setattr(disk, "free_bytes", lambda _: 7 << 20)
        await service.disk.look()
        assert await ready(service.admin_url) == (
            503,
            [
                "not ready:",
                (
                    "disk: the server's disk is nearly full: 7 MiB are free,"
                    " 64 MiB are kept in reserve"
                ),
            ],
        )
        monkeypatch.undo()
        await service.disk.look()
        running_search = service.search._running
        service.search._running = None
        assert await ready(service.admin_url) == (
            200,
            ["ready, but:", "search: the search process is being started again"],
        )
        service.search._running = running_search
