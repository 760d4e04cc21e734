"""A child process from spawn to reaped.

Spawned by `subprocess.Popen` on Trio's own thread: `trio.lowlevel.open_process` forks in a worker thread, and whatever follows
the life of the parent *thread* (PR_SET_PDEATHSIG, bubblewrap's --die-with-parent) would end the child with it, ten seconds
later. The call blocks for about half a millisecond. The end is awaited on a pidfd.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import trio
from attrs import define, field

REAP_SECONDS = 5.0
SIGNALLED = 128  # a shell's, and bubblewrap's, exit code for a signal is this much higher
PAGE = os.sysconf("SC_PAGE_SIZE")

log = logging.getLogger(__name__)


class SpawnFailed(Exception):
    """The program could not be started; the text says which and why."""


@define(eq=False)
class Process:
    """A running child with three pipes, in a session of its own. Made by `open_process`."""

    _popen: subprocess.Popen[bytes]
    _pidfd: int
    stdin: trio.lowlevel.FdStream
    stdout: trio.lowlevel.FdStream
    stderr: trio.lowlevel.FdStream
    _is_wrapped: bool
    _inner: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._inner = self.pid

    @property
    def pid(self) -> int:
        """The process id; also that of its session and group."""
        return self._popen.pid

    @property
    def inner(self) -> int:
        """The process id of the program itself, where that is a process below the one that we started."""
        return self._inner

    def find_inner(self) -> None:
        """Look for the program below its wrapper, which has started it by now; from here on CPU, memory and limits are its own."""
        while self._is_wrapped and (children := _children(self._inner)):
            self._inner = children[0]

    @property
    def returncode(self) -> int | None:
        """None while it runs; else the exit code, or minus the signal."""
        code = self._popen.poll()
        return SIGNALLED - code if self._is_wrapped and code is not None and code > SIGNALLED else code

    def kill(self) -> None:
        """SIGKILL to the whole group; does nothing once it is reaped."""
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM to the process alone."""
        if self._popen.poll() is None:
            self._popen.terminate()

    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far."""
        try:
            # CLOCK_PROCESS_CPUTIME_ID of another process, as clock_getcpuclockid(3) has it.
            return time.clock_gettime(~self._inner << 3 | 2)
        except OSError:
            return 0.0  # it has ended

    def rss_bytes(self) -> int:
        """Resident memory."""
        try:
            with open(f"/proc/{self._inner}/statm", "rb") as statm:  # noqa: PTH123
                return int(statm.read().split()[1]) * PAGE
        except (OSError, IndexError):
            return 0  # it has ended

    def set_rlimit(self, kind: int, limit: tuple[int, int]) -> None:
        """Change a resource limit of the running process, where we may: of another user's only with CAP_SYS_RESOURCE."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            resource.prlimit(self._inner, kind, limit)

    def set_background(self, *, on: bool) -> bool:
        """Let it have only the CPU time that nobody else wants, or its share again. Whether that could be done."""
        policy = os.SCHED_IDLE if on else os.SCHED_OTHER
        try:
            for thread in os.listdir(f"/proc/{self._inner}/task"):  # noqa: PTH208
                os.sched_setscheduler(int(thread), policy, os.sched_param(0))
        except OSError:
            return False  # it has ended, or the kernel does not let us take back what we did
        return True

    def pause(self, *, on: bool) -> None:
        """Stop the program where it stands, or let it go on."""
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self._inner, signal.SIGSTOP if on else signal.SIGCONT)

    async def wait(self) -> int:
        """Wait until it has ended, and reap it."""
        while (code := self.returncode) is None:
            await trio.lowlevel.wait_readable(self._pidfd)
        return code


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:  # noqa: PTH123
            return [int(child) for child in file.read().split()]
    except OSError:
        return []  # it has ended


def hide_memory() -> None:
    """PR_SET_DUMPABLE 0: processes of the same user cannot read our memory, environment or descriptors."""
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)


@asynccontextmanager
async def open_process(
    argv: Sequence[str],
    env: Mapping[str, str],
    rlimits: Mapping[int, tuple[int, int]],
    cwd: str = "/",
    *,
    user: int | None = None,
    is_wrapped: bool = False,
) -> AsyncIterator[Process]:
    """Spawn; at the end the whole group is dead and reaped.

    The rlimits are set right after the spawn, which is in time: no code of an app is there before we send it.

    Args:
        argv: The program and its arguments.
        env: All of its environment.
        rlimits: To be set from outside.
        cwd: Where it starts.
        user: The user, and group, to start it as.
        is_wrapped: It is a wrapper, which tells of a signal that ended its program by an exit code above 128; see `find_inner`.

    Raises:
        SpawnFailed: There is no such program, or no more room for processes.
    """
    try:
        popen = subprocess.Popen(  # noqa: ASYNC220
            argv,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            umask=0o077,
            bufsize=0,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
    except OSError as error:
        raise SpawnFailed(f"cannot start {argv[0]}: {error.strerror}") from error
    assert popen.stdin is not None
    assert popen.stdout is not None
    assert popen.stderr is not None
    # No checkpoint since the spawn, so no cancellation can lose the process.
    with contextlib.ExitStack() as closing:
        pidfd = os.pidfd_open(popen.pid)
        closing.callback(os.close, pidfd)
        pipes = [trio.lowlevel.FdStream(os.dup(pipe.fileno())) for pipe in (popen.stdin, popen.stdout, popen.stderr)]
        for pipe in (popen.stdin, popen.stdout, popen.stderr):
            pipe.close()
        for stream in pipes:
            closing.callback(stream.close)
        process = Process(popen, pidfd, pipes[0], pipes[1], pipes[2], is_wrapped)
        try:
            for kind, limit in rlimits.items():
                process.set_rlimit(kind, limit)
            yield process
        finally:
            process.kill()
            with trio.move_on_after(REAP_SECONDS, shield=True) as reaping:
                await process.wait()
            if reaping.cancelled_caught:
                log.critical("process %d was killed and does not end", process.pid)
