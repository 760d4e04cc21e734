"""File systems of their own that tests fill, and what is written to them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import httpx2 as httpx
import pytest
import trio
from attrs import define, field

from ..gateway_client import Client, connect, inbound
from ..programs import JSBOX, Server, mkfs_ext4

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

    async def talk(self, server: Server, name: str) -> None:
        """One message, to its end, over a connection of its own."""
        async with connect(server.gateway) as client:
            await self.send(client, name)
            await self.end(client)

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
    """As any of its processes has measured."""
    lines = (await admin(server, "/metrics")).text.splitlines()
    return min(float(one.split()[1]) for one in lines if one.startswith("jsbox_disk_free"))


def kill_all(pid: int) -> None:
    """A process and all that it has started."""
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            kill_all(int(child))
        os.kill(pid, signal.SIGKILL)


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
