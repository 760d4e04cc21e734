"""A child process from spawn to reaped.

`subprocess.Popen` spawns it on Trio's own thread. `trio.lowlevel.open_process` forks in a worker
thread; what is bound to the life of the parent *thread* (PR_SET_PDEATHSIG, bubblewrap's
--die-with-parent) would then kill the child when that thread ends, ten seconds later. The call
blocks for about half a millisecond. We wait for the child's end on a pidfd.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from attrs import define, field

REAP_SECONDS = 5.0  # from SIGKILL to the end
UNSEEN_REAP_SECONDS = 1.0  # the same for a child without a pidfd; this blocks the event loop
SIGNALLED = 128  # shells and bubblewrap add this to a signal's number in their exit code
PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes

log = logging.getLogger(__name__)


NEVER = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.ENOEXEC,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}
"""Why a program cannot be started, now or later, unless somebody changes the host."""
OOM_TRIES = 50  # to set a score, without a pause
OOM_SECONDS = 0.02  # then no more tries: on a busy machine the child may wait for its turn
OOM_SCORE = 1000  # of a child by default: when memory is short, the kernel kills it first


class SpawnFailed(Exception):
    """The program could not be started; the text says which and why.

    Attributes:
        is_final: Trying again will not help: there is no such program, or it may not be run. If
            not, the host is short of something (descriptors, processes, memory).
    """

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


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
        """The process id of the program itself; that of a descendant if we started a wrapper."""
        return self._inner

    def find_inner(self) -> None:
        """Find the program beneath its wrapper, which must have started it by now. From here on
        CPU, memory and limits are the program's.
        """
        while self._is_wrapped and (children := _children(self._inner)):
            self._inner = children[0]
            self.set_oom_score(OOM_SCORE)

    @property
    def returncode(self) -> int | None:
        """None while it runs, then the exit code, or minus the signal's number."""
        code = self._popen.poll()
        if self._is_wrapped and code is not None and code > SIGNALLED:
            return SIGNALLED - code
        return code

    @property
    def is_reaped(self) -> bool:
        """Whether it is known to have ended; `wait` finds out, so somebody must be waiting. Costs
        no system call, unlike `returncode`.
        """
        return self._popen.returncode is not None

    def kill(self) -> None:
        """Send SIGKILL to the whole group; does nothing once the process is reaped."""
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM to the process alone."""
        if self._popen.poll() is None:
            self._popen.terminate()

    def interrupt(self) -> None:
        """Send SIGINT to the program alone."""
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self._inner, signal.SIGINT)

    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far; 0 once it has ended."""
        try:
            # CLOCK_PROCESS_CPUTIME_ID of another process, see clock_getcpuclockid(3).
            return time.clock_gettime(~self._inner << 3 | 2)
        except OSError:
            return 0.0  # it has ended

    def rss_bytes(self) -> int:
        """Resident memory; 0 once it has ended."""
        try:
            with open(f"/proc/{self._inner}/statm", "rb") as statm:  # noqa: PTH123  # faster
                return int(statm.read().split()[1]) * PAGE
        except (OSError, IndexError):
            return 0  # it has ended

    def set_rlimit(self, kind: int, limit: tuple[int, int]) -> None:
        """Change a resource limit of the running process, if we may: another user's process needs
        CAP_SYS_RESOURCE.
        """
        with contextlib.suppress(ProcessLookupError, PermissionError):
            resource.prlimit(self._inner, kind, limit)

    def set_oom_score(self, score: int) -> None:
        """Set how soon the kernel kills it when memory is short (-1000: never, 1000: first). A
        higher score than it has is always allowed.

        It takes several tries: until its exec is over, the child is as hidden as we are.
        """
        tries, end = 0, time.monotonic() + OOM_SECONDS
        while self._popen.poll() is None and time.monotonic() < end:
            if write_oom_score(str(self._inner), score):
                return
            tries += 1
            if tries < OOM_TRIES:
                os.sched_yield()
            else:
                time.sleep(0.001)

    def stand_back(self, nice: int) -> None:
        """Lower the share of CPU of its session, if the kernel schedules by sessions (autogroup):
        it looks at a process's own niceness only within one. The kernel may refuse it: without
        CAP_SYS_ADMIN it allows one such change in 0.1 s.
        """
        if nice:
            with contextlib.suppress(OSError):
                Path(f"/proc/{self.pid}/autogroup").write_text(str(nice), encoding="ascii")

    def set_background(self, *, on: bool) -> bool:
        """Move it to the idle scheduling class, or back; return whether the kernel allowed it."""
        policy = os.SCHED_IDLE if on else os.SCHED_OTHER
        try:
            for thread in os.listdir(f"/proc/{self._inner}/task"):  # noqa: PTH208  # faster
                os.sched_setscheduler(int(thread), policy, os.sched_param(0))
        except OSError:
            return False  # it has ended, or we may not move it back
        return True

    def pause(self, *, on: bool) -> None:
        """Stop the program, or let it go on."""
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self._inner, signal.SIGSTOP if on else signal.SIGCONT)

    async def wait(self) -> int:
        """Wait until it has ended, and reap it; return its `returncode`."""
        while (code := self.returncode) is None:
            await trio.lowlevel.wait_readable(self._pidfd)
        return code


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:  # noqa: PTH123  # faster
            return [int(child) for child in file.read().split()]
    except OSError:
        return []  # it has ended


def write_oom_score(process: str, score: int) -> bool:
    """Set /proc/PROCESS/oom_score_adj; return whether that was allowed (to go below the score it
    was started with takes CAP_SYS_RESOURCE).
    """
    try:
        Path(f"/proc/{process}/oom_score_adj").write_text(str(score), encoding="ascii")
    except OSError:
        return False  # not allowed, or it has ended
    return True


@asynccontextmanager
async def open_process(
    argv: Sequence[str],
    env: Mapping[str, str],
    rlimits: Mapping[int, tuple[int, int]],
    cwd: str = "/",
    *,
    user: int | None = None,
    is_wrapped: bool = False,
    oom_score: int | None = OOM_SCORE,
    pass_fds: Sequence[int] = (),
    nice: int = 0,
) -> AsyncIterator[Process]:
    """Spawn a child; at the end the whole group is dead and reaped.

    The rlimits are set right after the spawn, so the child must not do anything risky before it
    hears from us.

    Args:
        argv: The program and its arguments.
        env: All of its environment.
        rlimits: Resource limits, set from outside.
        cwd: The folder it starts in.
        user: The user and group id to run it as; None: ours.
        is_wrapped: The program is a wrapper: its exit code is above 128 if a signal ended the
            program beneath; see `find_inner`.
        oom_score: See `Process.set_oom_score`; None: as ours.
        pass_fds: Descriptors that it gets under the same numbers.
        nice: See `Process.stand_back`.

    Raises:
        SpawnFailed: There is no such program, or no room for more processes or descriptors. Nothing
            is left behind.
    """
    # No checkpoint before the try block below, so that no cancellation can lose the process.
    with contextlib.ExitStack() as closing:
        process = _spawn(closing, argv, env, cwd, user, is_wrapped=is_wrapped, pass_fds=pass_fds)
        try:
            if oom_score is not None:
                process.set_oom_score(oom_score)
            for kind, limit in rlimits.items():
                process.set_rlimit(kind, limit)
            process.stand_back(nice)
            yield process
        finally:
            process.kill()
            with trio.move_on_after(REAP_SECONDS, shield=True) as reaping:
                await process.wait()
            if reaping.cancelled_caught:
                log.critical("process %d does not end, although it was killed", process.pid)


def _spawn(
    closing: contextlib.ExitStack,
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    user: int | None,
    *,
    is_wrapped: bool,
    pass_fds: Sequence[int],
) -> Process:
    """Spawn a child; `closing` closes its pipes and pidfd. A lack of descriptors is found before
    the spawn, except for the pidfd's.
    """
    try:
        with contextlib.ExitStack() as theirs:
            ends = [open_pipe(closing, theirs, child_reads=reads) for reads in (True, False, False)]
            (stdin, to_child), (stdout, from_child), (stderr, errors) = ends
            popen = subprocess.Popen(
                argv,
                env=dict(env),
                cwd=cwd,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                pass_fds=pass_fds,
                umask=0o077,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        # A ValueError is a NUL in a path.
        reason = error.strerror if isinstance(error, OSError) else str(error)
        is_final = not isinstance(error, OSError) or error.errno in NEVER
        raise SpawnFailed(f"cannot start {argv[0]}: {reason}", is_final=is_final) from error
    try:
        pidfd = os.pidfd_open(popen.pid)
    except OSError as error:
        _end_unseen(popen)
        raise SpawnFailed(f"cannot watch {argv[0]}: {error.strerror}") from error
    closing.callback(os.close, pidfd)
    return Process(popen, pidfd, to_child, from_child, errors, is_wrapped)


def open_pipe(
    ours: contextlib.ExitStack, theirs: contextlib.ExitStack, *, child_reads: bool
) -> tuple[int, trio.lowlevel.FdStream]:
    """Make a pipe to or from a child; return the child's end, and ours. The stacks close them.
    Raises OSError.
    """
    reading, writing = os.pipe()
    child_end, own_end = (reading, writing) if child_reads else (writing, reading)
    theirs.callback(os.close, child_end)
    try:
        stream = trio.lowlevel.FdStream(own_end)
    except BaseException:
        os.close(own_end)
        raise
    ours.callback(stream.close)
    return child_end, stream


def _end_unseen(popen: subprocess.Popen[bytes]) -> None:
    """Kill and reap a child that we have no pidfd for."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(popen.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        popen.wait(UNSEEN_REAP_SECONDS)
