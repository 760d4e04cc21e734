"""A disk that gets full, for real: a file system of its own for data_dir, filled through the
service and from outside.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import trio

from ..gateway_client import Client, connect
from ..programs import serve
from ..service import Folder
from .disks import (
    MIB,
    PATIENCE,
    WRITER,
    Traffic,
    free_bytes,
    keys_there,
    kill_all,
    until,
    values_of,
    volume,
)


@pytest.fixture
def folder() -> Iterator[Folder]:
    """Where the supervisor, and the users that its apps run as, can read."""
    path = Path(
        subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip()
    )
    path.chmod(0o755)
    made = Folder(path)
    made.text = made.text.replace("version = 1\n", 'version = 1\ndata_dir = "data"\n')
    made.app("phone", WRITER, "limits = { output = '8MiB', wall = '120s' }", account="acme")
    made.text += '[accounts.acme]\nkv = { bytes_max = "1GiB" }\n'
    try:
        yield made
    finally:
        shutil.rmtree(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "fsync", "processes"),
    [
        ("tmpfs", "everysec", 1),
        ("tmpfs", "everysec", 3),
        ("ext4", "everysec", 1),
        ("ext4", "always", 1),
    ],
)
async def test_an_app_cannot_fill_the_disk(
    folder: Folder, kind: Literal["tmpfs", "ext4"], fsync: str, processes: int
) -> None:
    """It writes until there is only the reserve left: then it is told so, and so are gateways,
    /readyz and the log. The store never meets a full disk. When there is room again all goes on by
    itself, and a restart finds everything.
    """
    folder.text += f'[redis]\nfsync = "{fsync}"\n[cluster]\nprocesses = {processes}\n'
    traffic = Traffic()
    with volume(kind, folder.path / "data") as disk:
        with serve(folder.config, program=disk.program) as server:
            async with connect(server.gateway) as client:
                sent = 0
                while not traffic.rejected:
                    await traffic.send(client, f"m{sent}")
                    sent += 1
                    assert sent < 1000
                    if sent % 4 == 0:
                        await traffic.end(client)
                await traffic.end(client)
                assert len(traffic.accepted) > 20
                (refused,) = traffic.rejected.values()
                assert re.fullmatch(
                    r"unavailable: the server's disk is nearly full: \d+ MiB are free, 64 MiB .*",
                    refused,
                )
                text = await until(server, 503)
                assert "disk: the server's disk is nearly full" in text
                assert (
                    32 * MIB < await free_bytes(server) < 72 * MIB
                )  # with what must be free besides, before there is room again
                disk.make_room()
                await until(server, 200)
                await traffic.send(client, "after")
                assert "after" in traffic.accepted
                await traffic.end(client)
            log = server.log.read_text()
            assert "messages are rejected, and writes of apps refused" in log
            assert "there is room again" in log
            assert "MISCONF" not in log
        assert set(traffic.outcomes.values()) == {"ok"}
        assert set(traffic.replies) == traffic.accepted
        stored = {name for name, reply in traffic.replies.items() if reply == "stored"}
        refused_writes = set(traffic.replies.values()) - {"stored"}
        assert all("disk is nearly full" in reply for reply in refused_writes)
        with serve(folder.config, program=disk.program) as server:
            await until(server, 200)
            assert "repaired" not in server.log.read_text()
        assert keys_there(disk, values_of(stored)) == values_of(stored)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "fsync", "processes"),
    [
        ("ext4", "everysec", 1),
        ("tmpfs", "everysec", 1),
        ("tmpfs", "always", 1),
        ("ext4", "always", 1),
        ("tmpfs", "everysec", 3),
    ],
)
async def test_a_disk_that_somebody_else_fills(
    folder: Folder, kind: Literal["tmpfs", "ext4"], fsync: str, processes: int
) -> None:
    """To the last byte, at once, while messages are handled: the service lives and says so, and
    goes on when there is room; what was accepted is run to its end, and what apps were told is
    stored is there after a restart. Three times.
    """
    folder.text += f'[redis]\nfsync = "{fsync}"\n[cluster]\nprocesses = {processes}\n'
    traffic = Traffic()

    async def keep_sending(client: Client, over: trio.Event) -> None:
        number = 0
        while not over.is_set():
            number += 1
            await traffic.send(client, f"m{len(traffic.accepted)}-{number}")
            await trio.sleep(0.02)

    with volume(kind, folder.path / "data") as disk:
        for round_ in range(3):
            code = None if round_ == 1 else 0
            with serve(folder.config, program=disk.program, expect_code=code) as server:
                async with connect(server.gateway) as client:
                    over = trio.Event()
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(keep_sending, client, over)
                        wanted = len(traffic.accepted) + 3
                        with trio.fail_after(PATIENCE):
                            while len(traffic.accepted) < wanted:
                                await trio.sleep(0.01)
                        await trio.to_thread.run_sync(disk.fill)
                        await until(server, 503)
                        rejected = len(traffic.rejected) + 3
                        with trio.fail_after(PATIENCE):
                            while len(traffic.rejected) < rejected:
                                await trio.sleep(0.01)
                        disk.clear()
                        await until(server, 200)
                        over.set()
                    with trio.fail_after(PATIENCE):
                        while f"after{round_}" not in traffic.accepted:
                            await traffic.send(client, f"after{round_}")
                            await trio.sleep(0.1)
                    await traffic.end(client)
                # not an orderly end: whatever the files look like now is what the next one finds
                if round_ == 1:
                    kill_all(server.process.pid)
                    server.process.wait()
        stored = {name for name, reply in traffic.replies.items() if reply == "stored"}
        assert traffic.accepted <= set(traffic.outcomes)
        # Whether the journal had those was not known when they were refused: it had.
        for name in set(traffic.outcomes) - traffic.accepted:
            assert "unavailable: Redis did not answer" in traffic.rejected[name]
        assert keys_there(disk, values_of(stored)) == values_of(stored)


async def test_a_start_on_a_full_disk_is_patient(folder: Folder) -> None:
    """It serves what it has, takes nothing in, and says why; when there is room it takes in
    again.
    """
    traffic = Traffic()
    with volume("tmpfs", folder.path / "data") as disk:
        with serve(folder.config, program=disk.program) as server:
            await traffic.talk(server, "before")
        disk.fill()
        with serve(folder.config, program=disk.program) as server:
            assert "disk is nearly full" in await until(server, 503)
            async with connect(server.gateway) as client:
                await traffic.send(client, "full")
                assert "disk is nearly full" in traffic.rejected["full"]
                disk.clear()
                await until(server, 200)
                await traffic.send(client, "after")
                await traffic.end(client)
        assert traffic.accepted == {"before", "after"}
        assert keys_there(disk, values_of(traffic.accepted)) == values_of(traffic.accepted)


@pytest.mark.slow
async def test_a_start_of_several_processes_waits_until_there_is_room(folder: Folder) -> None:
    """Each needs its lease, which a store on a full disk does not write."""
    folder.text += "[cluster]\nprocesses = 3\n"
    traffic = Traffic()
    with volume("tmpfs", folder.path / "data") as disk:
        with serve(folder.config, program=disk.program) as server:
            await traffic.talk(server, "before")
        disk.fill()
        log = server.log
        log.write_text("")

        async def make_room() -> None:
            with trio.fail_after(PATIENCE):
                while "the start waits for the store" not in log.read_text():
                    await trio.sleep(0.05)
            assert "No space left on device" in log.read_text()
            assert "ready: gateway" not in log.read_text()
            disk.clear()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_room)
            serving = serve(folder.config, program=disk.program)
            server = await trio.to_thread.run_sync(serving.__enter__)
        try:
            await until(server, 200)
            await traffic.talk(server, "after")
        finally:
            await trio.to_thread.run_sync(serving.__exit__, None, None, None)
        assert traffic.accepted == {"before", "after"}
        assert keys_there(disk, values_of(traffic.accepted)) == values_of(traffic.accepted)
