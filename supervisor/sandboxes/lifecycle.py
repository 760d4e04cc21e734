"""The life of one process: spawned, made ready, handed out, reaped. A task of the pool holds it,
for as long as it lives.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import trio

from resources.fence import fence

from ..config.model import App
from ..errors import BootFailed, SandboxFault, SandboxGone
from ..host.lines import LineReader
from ..host.pipes import Wire
from ..host.process import Process, SpawnFailed, open_process
from ..jail.argv import Jail, unheld
from ..outcomes import Outcome
from .run import INTERNAL
from .sandbox import ENDED_SECONDS, Sandbox

# Whether a process may be started in the background: only root may bring it back afterwards.
CAN_STAND_BACK = os.geteuid() == 0
LAST_WORDS_SECONDS = 0.5  # to read the rest of an ended process's stderr


async def hold_sandbox(
    app: App,
    jail: Jail,
    *,
    clock: float | None = None,
    task_status: trio.TaskStatus[Sandbox] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Hold one sandbox from spawn to reaped: `hold`, for `Nursery.start`."""
    await hold(app, jail, task_status.started, clock=clock)


async def hold(
    app: App,
    jail: Jail,
    on_ready: Callable[[Sandbox], None],
    *,
    in_background: bool = False,
    is_spare: bool = False,
    clock: float | None = None,
) -> None:
    """Hold one sandbox from spawn to reaped; return when its process has ended. However this ends,
    also if cancelled, nothing is left of it.

    Args:
        app: Whose it is.
        jail: How it is started.
        on_ready: Called once, when it can take runs.
        in_background: Run at idle priority until a run of it ends well (Cpu.stand_back).
        is_spare: Load the toolkits and no app; `adopt` gives it an app whose jail is of the same
            kind.
        clock: Seconds since 1970 at which the app's clock begins; None: the real time.

    Raises:
        BootFailed: It was not ready in time, or ended before. Not raised after `on_ready`.
    """
    failure: BootFailed | None = None
    sandbox: Sandbox | None = None
    try:
        async with _open(jail) as process, trio.open_nursery() as nursery:
            sandbox = Sandbox(app, process, Wire(process, LineReader(app.limits.line)))
            nursery.start_soon(_drain_stderr, sandbox)
            if in_background:
                sandbox.cpu.stand_back()
            failure = await _boot(sandbox, jail, clock, is_spare=is_spare)
            if failure is None:
                on_ready(sandbox)
                await process.wait()
            with trio.move_on_after(LAST_WORDS_SECONDS):
                await sandbox.silent.wait()
            nursery.cancel_scope.cancel()
    except SpawnFailed as error:
        raise BootFailed(str(error)) from error
    finally:
        if sandbox is not None:
            sandbox.note_ended()  # also after an error here: runs may be waiting for it
    if failure is not None:
        raise failure


async def _drain_stderr(sandbox: Sandbox) -> None:
    with fence("process", f"app {sandbox.app.name}: its stderr") as caught:
        await sandbox.drain_stderr()
    if caught.error is not None:
        sandbox.end(SandboxFault(Outcome.CRASHED, INTERNAL))  # a full pipe would block it


def _open(jail: Jail) -> AbstractAsyncContextManager[Process]:
    return open_process(
        jail.argv, jail.env, {}, user=jail.user, is_wrapped=jail.is_wrapped, nice=jail.nice
    )


async def _boot(
    sandbox: Sandbox, jail: Jail, clock: float | None, *, is_spare: bool
) -> BootFailed | None:
    tell = sandbox.prepare if is_spare else partial(sandbox.boot, jail.modules_dir, clock)
    failure = await _make_ready(sandbox, tell)
    if failure is None:
        sandbox.process.find_inner()
        if jail.must_hold and (lacks := _lacks(sandbox.process.inner)):
            failure = BootFailed(lacks)
    if failure is not None:
        sandbox.end()
    return failure


def _lacks(pid: int) -> str:
    """Why it is not certain that the jail holds a process; empty if it is."""
    try:
        lacks = unheld(pid)
    except OSError as error:  # it has ended, or we have no descriptor left to look with
        return f"whether the jail holds cannot be seen: {error.strerror}"
    return f"the jail does not hold: {lacks}" if lacks else ""


async def _make_ready(sandbox: Sandbox, tell: Callable[[], Awaitable[None]]) -> BootFailed | None:
    """Send a process what it needs (`tell`) and wait until it is ready. If it fails, end it and
    return why.
    """
    seconds = sandbox.app.limits.boot
    detail = INTERNAL
    with fence("process", f"app {sandbox.app.name}: its start") as caught:
        try:
            with trio.fail_after(seconds):
                await tell()
        except trio.TooSlowError:
            detail = f"limits.boot = {seconds:g} s: the process was not ready in that time"
        except SandboxFault as fault:
            detail = fault.detail
        except SandboxGone:
            with trio.move_on_after(ENDED_SECONDS):
                await sandbox.silent.wait()
            detail = "the process ended while it booted"
        else:
            return None
    sandbox.end()
    said = "" if caught.error is not None else sandbox.take_stderr()
    return BootFailed(f"{detail}; it last wrote: {said[-2000:]}" if said else detail)


async def adopt(sandbox: Sandbox, app: App) -> None:
    """Give a spare process to an app, for good. If cancelled, the caller has to end it.

    Raises:
        BootFailed: It was not ready in time; it is ended.
    """
    sandbox.app = app
    sandbox.cpu.step_forward()
    failure = await _make_ready(sandbox, partial(sandbox.boot, ""))
    if failure is not None:
        raise failure
