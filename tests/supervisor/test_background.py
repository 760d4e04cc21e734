"""What goes on in the background: an error that nobody expected is logged and counted, and the task
is started again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define, field

from resources import fence, forever
from resources.stores.keyspace import Keyspace
from resources.stores.room import Room
from supervisor import background
from supervisor.config import load
from supervisor.conversation_metrics import ConversationReporter
from supervisor.errors import CannotStart
from supervisor.host.systemd import Systemd
from supervisor.jail import probe
from supervisor.service import open_service
from supervisor.store import disk, upkeep, valkey
from supervisor.store.disk import Disk

from ..service import ECHO, Folder, eventually, running

PATIENCE = 60.0


class Surprise(Exception):
    """Nobody expects it."""


@define
class Fault:
    """Raises instead of doing, as often as it is asked to; then does, and counts it."""

    real: Callable[..., Any]
    left: int = 1
    done: int = field(default=0, init=False)

    def of(self, owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> Fault:
        fault = self

        async def later(*arguments: Any, **named: Any) -> Any:
            if fault.left:
                fault.left -= 1
                raise Surprise
            fault.done += 1
            return await fault.real(*arguments, **named)

        def now(*arguments: Any, **named: Any) -> Any:
            if fault.left:
                fault.left -= 1
                raise Surprise
            fault.done += 1
            return fault.real(*arguments, **named)

        is_async = (
            getattr(self.real, "__code__", None) is not None and self.real.__code__.co_flags & 0x80
        )
        monkeypatch.setattr(owner, name, later if is_async else now)
        return self


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(forever, "BACKOFF", (0.001, 0.01))
    monkeypatch.setattr(background, "COMPILE_AFTER", 0.01)
    monkeypatch.setattr(background, "LAG_TICK", 0.01)
    monkeypatch.setattr(disk, "EVERY", 0.01)
    monkeypatch.setattr(upkeep, "SYNC_SECONDS", 0.01)
    monkeypatch.setattr("resources.stores.keyspace.COUNT_EVERY", 0.01)
    folder = Folder(tmp_path)
    folder.app("phone", ECHO)
    return folder


@pytest.mark.parametrize(
    ("where", "owner", "name"),
    [
        ("disk", Disk, "look"),
        ("compile", background, "compile_toolkits"),
        ("conversation metrics", ConversationReporter, "run"),
        ("keyspace", Keyspace, "count"),
        ("valkey upkeep", upkeep.Upkeep, "_sync"),
        ("valkey", valkey, "end_leftover"),
        ("valkey", valkey, "_state"),
        ("valkey", valkey._Server, "_run"),
    ],
)
async def test_a_task_that_fails_is_started_again(
    folder: Folder, where: str, owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times in a row, whether the service is being started or runs; then it does what it is
    there for.
    """
    fault = Fault(getattr(owner, name), 3).of(owner, name, monkeypatch)
    before = fence.tally[where]
    if owner is Disk:
        fault.left = 0  # the start looks once by itself
    async with running(folder) as found:
        if owner is Disk:
            fault.left, fault.done = 3, 0
        await eventually(lambda: fault.left == 0 and fault.done > 0, PATIENCE)
        assert fence.tally[where] == before + 3
        assert await found.stores.redis.execute("PING") == b"PONG"


async def test_the_lag_is_watched_again(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gauge that cannot be set."""
    async with running(folder) as found:
        before = fence.tally["lag"]
        fault = Fault(found.prometheus.loop_lag.set, 3).of(
            found.prometheus.loop_lag, "set", monkeypatch
        )
        await eventually(lambda: fault.done > 0, PATIENCE)
        assert fence.tally["lag"] == before + 3


async def test_the_watchdog_is_notified_again(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else systemd would kill a healthy service."""
    told: list[dict[str, str]] = []
    manager = Systemd(str(tmp_path / "notify"), watchdog=0.03)
    fault = Fault(lambda _, **words: told.append(words), 0).of(Systemd, "tell", monkeypatch)
    file = folder.config
    async with open_service(load(file), partial(load, file), manager):
        before = fence.tally["watchdog"]
        fault.left = 3
        await eventually(lambda: fault.left == 0, PATIENCE)
        told.clear()
        await eventually(lambda: {"WATCHDOG": "1"} in told, PATIENCE)
        assert fence.tally["watchdog"] == before + 3
    manager.close()  # the logged tracebacks keep it alive


async def test_a_probe_that_fails_is_no_proof(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service does not start on a jail that was not seen to hold, whatever the reason."""
    Fault(probe.probe).of(probe, "probe", monkeypatch)
    expected = pytest.RaisesExc(CannotStart, match=r"the probe can be carried out: Surprise")
    file = folder.config
    with pytest.RaisesGroup(expected, flatten_subgroups=True):
        async with open_service(load(file), partial(load, file)):
            pass


async def test_a_disk_that_does_not_answer_is_said_so_and_nobody_waits_for_it(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system over a network, say: neither /readyz nor the end of the service hangs."""
    over = trio.Event()

    def hang(_: Path) -> int:
        trio.from_thread.run(over.wait)
        return 1 << 40

    monkeypatch.setattr(disk, "LATE", 0.05)
    async with running(folder) as found:
        monkeypatch.setattr(disk, "free_bytes", hang)
        await eventually(lambda: "has not answered for" in found.disk.problem, PATIENCE)
        over.set()
        await eventually(lambda: not found.disk.problem, PATIENCE)


async def test_a_disk_that_cannot_be_looked_at_is_a_problem(tmp_path: Path) -> None:
    """Its folder was removed under us."""
    gone = Disk(tmp_path / "gone", Room(1))
    await gone.look()
    assert (
        gone.problem
        == f"data_dir {tmp_path / 'gone'} cannot be looked at: No such file or directory"
    )
