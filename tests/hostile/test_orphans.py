"""When the supervisor is killed, nothing that it started goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from ..gateway_client import PATIENCE, connect
from ..programs import Server, bubblewrap, serve
from ..service import Folder

SPIN = "for (;;) {}"


def _descendants(pid: int) -> set[int]:
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        try:
            children = [
                int(child)
                for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            ]
        except OSError:
            continue
        found.update(children)
        waiting += children
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("level", ["standard", "strict"])
async def test_a_killed_supervisor_leaves_no_sandbox(level: str, tmp_path: Path) -> None:
    """kill -9: idle, spinning and stopped sandboxes, the search process and what wraps them are
    gone, long before a limit would end them. What is stopped takes no notice of a closed pipe.
    """
    if level == "strict":
        bubblewrap()
    folder = Folder(tmp_path)
    folder.text += f'[isolation]\nlevel = "{level}"\n'
    folder.app("idle", "api.done();", "pool = { min_idle = 2 }")
    folder.app("busy", SPIN, 'limits = { cpu = "1h", wall = "1h" }')
    with serve(folder.config, expect_code=None) as server:
        async with connect(server.gateway, "busy") as client:
            await client.send(
                {"type": "inbound", "id": "g", "msg": {"from_addr": "+1", "content": "x"}}
            )
            await client.expect("accepted")
            processes = await _three_sandboxes(server)
            for pid in sorted(processes)[::2]:
                os.kill(pid, signal.SIGSTOP)
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
    with trio.fail_after(PATIENCE):
        while any(_alive(pid) for pid in processes):
            await trio.sleep(0.01)


async def _three_sandboxes(server: Server) -> set[int]:
    """All descendants of the supervisor but Valkey, which saves what it has first; once three are
    Node.js.
    """
    with trio.fail_after(PATIENCE):
        while True:
            names = {}
            for pid in _descendants(server.process.pid):
                with_name = Path(f"/proc/{pid}/comm")
                names[pid] = with_name.read_text().strip() if with_name.exists() else ""
            if (
                sum(name in ("node", "node-MainThread", "MainThread") for name in names.values())
                >= 3
            ):
                await trio.sleep(0.3)  # let the spinning one spin
                return {pid for pid, name in names.items() if not name.startswith("valkey")}
            await trio.sleep(0.05)
