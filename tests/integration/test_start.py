"""How a server starts: as patient as it is later, and with an ear for signals from its first
instruction.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import trio

from resources.stores.redis import Unavailable
from supervisor import stores
from supervisor.config import load
from supervisor.errors import CannotStart
from supervisor.runs.dispatcher import Dispatcher
from supervisor.service import open_service
from supervisor.store.patience import until_answered

from ..gateway_client import connect
from ..programs import JSBOX, READY
from ..service import ECHO, Folder, eventually, running

PATIENCE = 60.0


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.app("phone", ECHO)
    return folder


def processes(what: str) -> set[int]:
    """Children of ours whose command line has this in it."""
    found = set()
    for entry in os.listdir("/proc"):
        try:
            stat = Path(f"/proc/{entry}/stat").read_text()
            if int(stat.rpartition(")")[2].split()[1]) == os.getpid():
                line = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                if what in line:
                    found.add(int(entry))
        except (OSError, ValueError, IndexError):
            continue
    return found


async def kill_each(
    what: str, others: set[int], delays: tuple[float, ...], killed: list[int]
) -> None:
    """Kill a child, and those that come in its place, each after its delay in seconds; but
    not these others.
    """
    for delay in delays:
        while not (found := processes(what) - others - set(killed)):
            await trio.sleep(0.002)
        await trio.sleep(delay)
        for pid in found:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)


@pytest.mark.parametrize(
    "what",
    ["valkey-server", "resources.stores.search.process"],
    ids=["the store", "the search process"],
)
async def test_what_dies_during_the_start_is_started_again(folder: Folder, what: str) -> None:
    """At any moment, four times in a row; then the service is there, and answers."""
    killed: list[int] = []
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill_each, what, processes(what), (0.0, 0.0, 0.02, 0.1), killed)
            async with running(folder) as service, connect(service.gateway_url) as client:
                while len(killed) < 4:
                    await trio.sleep(0.01)
                await until_answered("a test", partial(service.stores.redis.execute, "PING"), print)
                _, replies = await client.say("hello")
                assert [reply["content"] for reply in replies] == ["you said hello"]


@pytest.mark.parametrize("step", ["open_message_ids", "recover"])
async def test_a_store_that_goes_away_between_two_steps_is_waited_for(
    folder: Folder, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each question that the start has of it is asked again."""
    asked = 0
    owner: Any = stores if step == "open_message_ids" else Dispatcher
    real = getattr(owner, step)

    async def away_twice(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise Unavailable("Redis did not answer: it was killed", sent=True)
        return await real(*arguments)

    monkeypatch.setattr(owner, step, away_twice)
    async with running(folder):
        pass
    assert asked >= 3


async def test_a_store_of_ones_own_that_is_away_is_one_clear_line(folder: Folder) -> None:
    """Nobody waits for an address that may be wrong."""
    folder.text += '[redis]\nurl = "redis://127.0.0.1:1"\n'
    file = folder.config
    with pytest.RaisesGroup(
        pytest.RaisesExc(CannotStart, match=r"redis.url: Redis cannot be reached"),
        flatten_subgroups=True,
    ):
        async with open_service(load(file), partial(load, file)):
            pass


class LoadingServer:
    """Says that it loads its data, as often as it is asked to; then it is the Redis behind it."""

    def __init__(self, path: Path, times: int) -> None:
        self.path, self.left, self.heard = path, times, 0

    async def serve(self, *, task_status: trio.TaskStatus[str]) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        task_status.started(f"redis://127.0.0.1:{port}")
        await trio.serve_listeners(self._client, listeners)

    async def _client(self, stream: trio.SocketStream) -> None:
        if self.left:
            self.left -= 1
            try:
                while await stream.receive_some():
                    self.heard += 1
                    await stream.send_all(b"-LOADING Valkey is loading the dataset in memory\r\n")
            except trio.BrokenResourceError:
                pass
            return
        async with (
            await trio.open_unix_socket(str(self.path)) as behind,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(_copy, stream, behind, nursery.cancel_scope)
            nursery.start_soon(_copy, behind, stream, nursery.cancel_scope)


async def _copy(
    source: trio.SocketStream, target: trio.SocketStream, over: trio.CancelScope
) -> None:
    try:
        while data := await source.receive_some():
            await target.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    over.cancel()


async def test_a_store_of_ones_own_that_loads_is_waited_for(folder: Folder, valkey: str) -> None:
    """However often it says so: beyond the client's own patience too."""
    server = LoadingServer(Path(valkey.removeprefix("unix://")), 12)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(server.serve)
            folder.text += f'[redis]\nurl = "{url}"\n'
            async with running(folder):
                pass
            nursery.cancel_scope.cancel()
    assert server.left == 0
    assert server.heard >= 12


@contextmanager
def starting(folder: Folder) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A `jsbox serve` that listens to signals, and may not have started yet; killed at the end
    where it still runs. It leaves no process and no temporary file.
    """
    log, temporary = folder.path / "serve.log", Path(tempfile.mkdtemp())
    temporary.chmod(0o755)  # every user can get at it, as at /tmp
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*JSBOX, "serve", "-c", str(folder.config)],
            stderr=stderr,
            text=True,
            start_new_session=True,
            env=os.environ | {"TMPDIR": str(temporary)},
        )
    try:
        listens = 1 << (signal.SIGHUP - 1) | 1 << (signal.SIGTERM - 1)
        deadline = time.monotonic() + PATIENCE
        while listens & ~caught(process.pid):
            assert process.poll() is None
            assert time.monotonic() < deadline
        yield process, log
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        left = list(temporary.iterdir())
        shutil.rmtree(temporary)
    assert left == []
    found = subprocess.run(
        ["ps", "-o", "pid,args", "-s", str(process.pid)], capture_output=True, text=True
    ).stdout
    assert len(found.splitlines()) == 1, found


def caught(pid: int) -> int:
    """The signals that a process has a handler of its own for."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(
        next(line for line in status.splitlines() if line.startswith("SigCgt:")).split()[1], 16
    )


def wait_for(log: Path, text: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def test_a_hangup_at_any_moment_of_the_start_is_a_reload_after_it(folder: Folder) -> None:
    """From the first instruction on: one every few milliseconds, until it is ready. Then the config
    is read again.
    """
    with starting(folder) as (process, log):
        while not READY.search(log.read_text()):
            assert process.poll() is None, log.read_text()
            process.send_signal(signal.SIGHUP)
            time.sleep(0.005)
        wait_for(log, "the config was reloaded", process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, log.read_text()


@pytest.mark.parametrize(
    "share",
    [0.5, *(pytest.param(one, marks=pytest.mark.slow) for one in (0.0, 0.1, 0.3, 0.7, 0.9))],
)
def test_a_termination_at_any_moment_of_the_start_is_a_good_end(
    folder: Folder, share: float
) -> None:
    """Exit code 0, and neither a process nor a file left, wherever in the start it comes: a share
    of how long one takes here.
    """
    with starting(folder) as (process, log):
        time.sleep(share * start_takes())
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, log.read_text()
        assert "Traceback" not in log.read_text()


@cache
def start_takes() -> float:
    """About the seconds that a start takes here: three times those of `jsbox version`."""
    began = time.monotonic()
    subprocess.run([*JSBOX, "version"], stdout=subprocess.DEVNULL, check=True)
    return (time.monotonic() - began) * 3


def test_systemd_is_told_what_a_start_waits_for(folder: Folder, tmp_path: Path) -> None:
    """And gives more time for it. The store's server here is one that takes its time before it is
    the real one.
    """
    path = tmp_path / "notify"
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import sys, time, runpy\n"
        "import supervisor.store.valkey as valkey\n"
        "valkey.TELL_SECONDS = 0.05\n"
        "real = valkey._state\n"
        "count = iter(range(100))\n"
        "valkey._state = lambda path: real(path) if next(count) > 20 else 'it has loaded 43%"
        " of 900 MiB, 12 s are left'\n"
        "sys.argv = ['jsbox', *sys.argv[1:]]\n"
        "runpy.run_module('supervisor', run_name='__main__', alter_sys=False)\n"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(PATIENCE)
        process = subprocess.Popen(
            [sys.executable, str(slow), "serve", "-c", str(folder.config)],
            env=os.environ
            | {"NOTIFY_SOCKET": str(path), "PYTHONPATH": str(Path(__file__).parents[2])},
            stderr=subprocess.DEVNULL,
        )
        try:
            said = []
            while not said or "READY=1" not in said[-1]:
                said.append(manager.recv(4096).decode())
        finally:
            process.terminate()
            assert process.wait(PATIENCE) == 0
    waiting = [one for one in said if "43% of 900 MiB, 12 s are left" in one]
    assert waiting
    assert all("EXTEND_TIMEOUT_USEC=" in one for one in waiting)


async def test_a_cleaner_of_tmp_keeps_no_process_from_starting(folder: Folder) -> None:
    """It takes the folder of compiled toolkits away while the service runs."""
    folder.text += "[node]\nspare = 0\n"
    file = folder.config
    async with (
        open_service(load(file), partial(load, file)) as service,  # with walls of its own
        connect(service.gateway_url) as client,
    ):
        for _ in range(2):
            assert service.walls.compiled is not None
            shutil.rmtree(service.walls.compiled)
            for process in service.pool.sandboxes():
                service.pool.kill(process.pid)
            _, replies = await client.say("hello", "new")
            assert [reply["content"] for reply in replies] == ["you said hello"]
            await eventually(lambda: service.walls.compiled is not None)
