"""A disk that gets full, for real: a file system of its own for data_dir, filled through the
service and from outside.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import httpx2 as httpx
import pytest
import trio
from attrs import define, field

from ..gateway_client import Client, connect, inbound
from ..programs import JSBOX, Server, mkfs_ext4, serve
from ..service import Folder

PATIENCE = 90.0
MIB = 1 << 20

# Writes ten values of 60,000 random characters under keys of its own, and replies with what came of
# it.
WRITER = """
var text = function () {
    var parts = [];
    while (parts.length < 6000) { parts.push(Math.random().toString(36).slice(2, 12)); }
    return parts.join('').slice(0, 60000);
};
api.on_inbound_message = function (command) {
    var left = 10, failed = '';
    var next = function (reply) {
        if (reply && !reply.success) { failed = failed || reply.reason; }
        if (left === 0 || failed) {
            api.request('outbound.reply_to', {content: failed || 'stored',
                in_reply_to: command.msg.message_id},
                function () { api.done(); });
            return;
        }
        left -= 1;
        api.request('kv.set', {key: command.msg.content + ':' + left, value: text()}, next);
    };
    next();
};
"""


@define
class Volume:
    """A file system of 300 MiB that nobody else sees, kept by a process. A file takes half of
    it.
    """

    kind: Literal["tmpfs", "ext4"]
    path: Path
    holder: subprocess.Popen[bytes]

    @property
    def program(self) -> tuple[str, ...]:
        """`jsbox`, where the file system is to be seen."""
        return ("nsenter", "-m", "-t", str(self.holder.pid), *JSBOX)

    @property
    def inside(self) -> Path:
        """The folder, seen from here."""
        return Path(f"/proc/{self.holder.pid}/root{self.path}")

    def fill(self) -> None:
        """To the last byte."""
        with (self.inside / "filler").open("ab", buffering=0) as file:
            for size in (MIB, 4096, 512, 1):
                try:
                    while file.write(b"x" * size):
                        pass
                except OSError:
                    continue

    def clear(self) -> None:
        (self.inside / "filler").unlink()

    def make_room(self) -> None:
        """As an operator would."""
        (self.inside / "ballast").unlink()


@contextmanager
def volume(kind: Literal["tmpfs", "ext4"], path: Path) -> Iterator[Volume]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    path.mkdir()
    mount = f"mount -t tmpfs -o size=300m,mode=700 tmpfs {path}"
    if kind == "ext4":
        mkfs_ext4()
        image = path.with_suffix(".img")
        mount = (
            f"truncate -s 330M {image} && mkfs.ext4 -q -m 0 {image} && mount -o loop {image} {path}"
        )
    script = (
        f"mount --make-rprivate / && {mount} && head -c 150M /dev/zero >{path}/ballast &&"
        f" echo there && exec sleep infinity"
    )
    holder = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stderr is not None
    try:
        if holder.stdout.readline() != b"there\n":
            said = holder.stderr.read().decode()
            assert said.startswith(("mount: ", "unshare: ")), said
            pytest.skip(f"{kind} cannot be mounted here: {said}")
        yield Volume(kind, path, holder)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        holder.stderr.close()


@define
class Traffic:
    """What was sent, and what came of it."""

    accepted: set[str] = field(factory=set)
    rejected: dict[str, str] = field(factory=dict)
    outcomes: dict[str, str] = field(factory=dict)
    replies: dict[str, str] = field(factory=dict)

    async def send(self, client: Client, name: str) -> None:
        """One message of a user of its own, and its answer."""
        await client.send(inbound(name, name))
        answer = await client.expect_that(lambda frame: frame.get("id") == name, PATIENCE)
        if answer["type"] == "accepted":
            self.accepted.add(name)
        else:
            self.rejected[name] = f"{answer['code']}: {answer['detail']}"
            assert answer["retry_after"], answer

    async def end(self, client: Client) -> None:
        """Wait until all that was accepted has an outcome, and take it in."""
        with trio.fail_after(PATIENCE):
            while True:
                for frame in [*client.frames]:
                    client.frames.remove(frame)
                    if frame["type"] == "outcome":
                        self.outcomes[frame["message_id"]] = frame["outcome"]
                    elif frame["type"] == "outbound":
                        self.replies[frame["msg"]["in_reply_to"]] = frame["msg"]["content"]
                if self.accepted <= set(self.outcomes):
                    return
                await trio.sleep(0.05)


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


async def admin(server: Server, path: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(server.admin + path, timeout=PATIENCE)


async def until(server: Server, code: int) -> str:
    """What /readyz says, once it answers with this code."""
    with trio.fail_after(PATIENCE):
        while (answer := await admin(server, "/readyz")).status_code != code:
            assert server.process.poll() is None, server.log.read_text()
            await trio.sleep(0.05)
    return answer.text


async def free_bytes(server: Server) -> float:
    (line,) = (
        one
        for one in (await admin(server, "/metrics")).text.splitlines()
        if one.startswith("jsbox_disk_free")
    )
    return float(line.split()[1])


def keys_there(volume: Volume, wanted: set[str]) -> set[str]:
    """Which of the values that were stored the store's files have, read by a server of their
    own.
    """
    code = (
        "import sys, trio\nfrom pathlib import Path\nfrom resources.stores.redis import"
        " open_redis\n"
        "from supervisor.store.valkey import reach_valkey\n"
        "async def main():\n"
        "    async with reach_valkey(Path(sys.argv[1]), 'everysec') as url, open_redis(url) as"
        " client:\n"
        "        print(*[key.decode() for key in await client.execute('ZRANGE',"
        " 'jsbox:{acme}:kvkeys', 0, -1)])\n"
        "trio.run(main)\n"
    )
    enter = ("nsenter", "-m", "-t", str(volume.holder.pid))
    done = subprocess.run(
        [*enter, JSBOX[0], "-c", code, str(volume.path)], capture_output=True, text=True, check=True
    )
    return wanted & {f"{name}" for name in done.stdout.split()}


def values_of(names: set[str]) -> set[str]:
    return {f"{name}:{n}" for name in names for n in range(10)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "fsync"),
    [
        ("tmpfs", "everysec"),
        pytest.param("ext4", "everysec", marks=pytest.mark.slow),
        pytest.param("ext4", "always", marks=pytest.mark.slow),
    ],
)
async def test_an_app_cannot_fill_the_disk(
    folder: Folder, kind: Literal["tmpfs", "ext4"], fsync: str
) -> None:
    """It writes until there is only the reserve left: then it is told so, and so are gateways,
    /readyz and the log. The store never meets a full disk. When there is room again all goes on by
    itself, and a restart finds everything.
    """
    folder.text += f'[redis]\nfsync = "{fsync}"\n'
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


@pytest.mark.parametrize(
    ("kind", "fsync"),
    [
        pytest.param("ext4", "everysec", marks=pytest.mark.slow),
        pytest.param("tmpfs", "everysec", marks=pytest.mark.slow),
        pytest.param("tmpfs", "always", marks=pytest.mark.slow),
        pytest.param("ext4", "always", marks=pytest.mark.slow),
    ],
)
async def test_a_disk_that_somebody_else_fills(
    folder: Folder, kind: Literal["tmpfs", "ext4"], fsync: str
) -> None:
    """To the last byte, at once, while messages are handled: the service lives and says so, and
    goes on when there is room; what was accepted is run to its end, and what apps were told is
    stored is there after a restart. Three times.
    """
    folder.text += f'[redis]\nfsync = "{fsync}"\n'
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
                    os.killpg(server.process.pid, signal.SIGKILL)
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
            async with connect(server.gateway) as client:
                await traffic.send(client, "before")
                await traffic.end(client)
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
