"""The tasks that hold the processes, each from its start until it is reaped. They carry out what
assignment.py decided, and report to it what became of a process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import trio
from attrs import define, field

from resources.fence import fence

from ..config.model import App
from ..errors import BootFailed, CannotStart, SandboxFault
from ..jail.argv import Jail
from ..observe import Observer, ProcessEnded, ProcessStarted
from ..outcomes import Outcome
from .assignment import Assignment
from .cpu_watch import cores_for_heavy
from .crash_loops import CrashLoops
from .fairness import Turns
from .lifecycle import CAN_STAND_BACK, adopt, hold
from .limit_usage import Usage
from .run import INTERNAL
from .sandbox import Sandbox
from .slots import Slot, State, Todo

BOOT_SECONDS = 0.5  # for which a start keeps other starts waiting

log = logging.getLogger(__name__)


class MakesJails(Protocol):
    """The walls, as far as they matter here."""

    def jail(self, app: App) -> Jail:
        """For a process of an app."""

    def blank(self, like: App) -> Jail:
        """For a spare process, which will get an app of the kind of `like`."""

    def kind(self, app: App) -> object:
        """A key that is equal for apps that can use the same spare processes."""


@define(eq=False)
class ProcessTask:
    """The task of one process, as others see it.

    Attributes:
        scope: Cancelled to cut its start off.
        settled: Set when it is ready, or never will be.
        adopting: If a spare process is given to an app: set when it has the app, or never will.
        failure: Why it did not become ready.
    """

    scope: trio.CancelScope = field(factory=trio.CancelScope)
    settled: trio.Event = field(factory=trio.Event)
    adopting: trio.Event | None = None
    failure: BootFailed | None = None


@define(eq=False)
class ProcessTasks:
    """The tasks of all processes of the pool.

    Attributes:
        spares_changed: Called when there may be fewer spare processes, or room for more.
    """

    _nursery: trio.Nursery
    _walls: MakesJails
    _observe: Observer
    _assignment: Assignment[Sandbox]
    _crashes: CrashLoops
    _usage: Usage
    _spares_changed: Callable[[], None]
    _tasks: dict[Slot[Sandbox], ProcessTask] = field(factory=dict, init=False)
    _boots: Turns = field(factory=lambda: Turns(cores_for_heavy(), BOOT_SECONDS), init=False)
    _is_closed: bool = field(default=False, init=False)

    def close(self) -> None:
        """Carry out nothing more: everything ends."""
        self._is_closed = True

    @property
    def is_closed(self) -> bool:
        """Whether everything ends."""
        return self._is_closed

    def carry_out(self, todo: Todo[Sandbox]) -> None:
        """Do what a step decided: end processes, give spare ones to their apps, start new ones."""
        if self._is_closed:
            return
        for slot in todo.ended:
            self.cut(slot)
        for slot in todo.adopted:
            self._tasks[slot].adopting = trio.Event()
            self._nursery.start_soon(self._adopt, slot)
            self._spares_changed()
        for slot in todo.started:
            self.start(slot)

    def start(self, slot: Slot[Sandbox]) -> ProcessTask:
        """Start a process, in a task of its own."""
        task = self._tasks[slot] = ProcessTask()
        self._nursery.start_soon(self._keep, slot, task)
        return task

    def cut(self, slot: Slot[Sandbox], reason: SandboxFault | None = None) -> None:
        """End a process, or its start."""
        with fence("process", f"app {slot.app.name}"):
            if slot.process is not None:
                slot.process.end(reason)
        if slot.process is None and slot in self._tasks:
            self._tasks[slot].scope.cancel()

    def count_end(self, slot: Slot[Sandbox]) -> None:
        """Count a process that has ended, by why it did: an outcome, by itself, or not needed."""
        sandbox = slot.process
        if sandbox is not None and slot.was_ready and not self._is_closed:
            by_itself = Outcome.CRASHED if not sandbox.is_ending else "retired"
            with fence("process", f"app {slot.app.name}"):
                reason = sandbox.ended_for or by_itself
                self._observe(ProcessEnded(slot.app.name, reason))

    async def _keep(self, slot: Slot[Sandbox], task: ProcessTask) -> None:
        """Hold a process from its start until it is reaped. An error ends only this process."""
        failure = BootFailed(INTERNAL)
        try:
            with fence("process", f"app {slot.app.name}"), task.scope:
                try:
                    await self._hold(slot)
                except (BootFailed, CannotStart) as error:
                    failure = error if isinstance(error, BootFailed) else BootFailed(str(error))
            if task.adopting is not None:
                await task.adopting.wait()  # its reason says more
        finally:
            self._failed(slot, failure)
            del self._tasks[slot]
            self.carry_out(self._assignment.ended(slot, trio.current_time()))
            if not slot.lent:
                self.count_end(slot)
            if slot.is_spare:
                self._spares_changed()

    async def _hold(self, slot: Slot[Sandbox]) -> None:
        app, turn = slot.app, None
        is_spare = slot.is_spare
        in_background = CAN_STAND_BACK if is_spare else self._crashes.in_trouble(app)
        # A start keeps a core busy for a while. There are fewer starts at a time than cores, so
        # that runs go on. A spare that starts in the background may take long, and must not keep
        # apps' processes from starting.
        if not (is_spare and CAN_STAND_BACK):
            turn = await self._boots.take(app.name)
        began = trio.current_time()

        def ready(sandbox: Sandbox) -> None:
            self._boots.give_back(turn)
            self._ready(slot, sandbox, began)

        try:
            jail = self._walls.blank(app) if is_spare else self._walls.jail(app)
            await hold(
                app, jail, ready, in_background=in_background, is_spare=is_spare, clock=app.clock
            )
        finally:
            self._boots.give_back(turn)

    async def _adopt(self, slot: Slot[Sandbox]) -> None:
        """Give a spare process its app."""
        task, sandbox, began = self._tasks[slot], slot.held, trio.current_time()
        assert task.adopting is not None
        failure = BootFailed(INTERNAL)
        try:
            with fence("process", f"app {slot.app.name}: a spare one"):
                try:
                    await adopt(sandbox, slot.app)
                except BootFailed as error:
                    failure = error
                else:
                    self._ready(slot, sandbox, began)
                    return
            self._failed(slot, failure)
            self.cut(slot)
        finally:
            task.adopting.set()

    def _ready(self, slot: Slot[Sandbox], sandbox: Sandbox, began: float) -> None:
        """A process has booted, or knows its app."""
        if not sandbox.is_clean():
            sandbox.end()
            slot.process = sandbox
            self._failed(slot, BootFailed("the process went on after it was ready"))
            return
        now = trio.current_time()
        self.carry_out(self._assignment.booted(slot, sandbox, now))
        self._tasks[slot].settled.set()
        if not slot.is_spare:
            with fence("process", f"app {slot.app.name}"):
                self._observe(ProcessStarted(slot.app.name, now - began))
                for line in self._usage.note(slot.app, {"boot": now - began}).values():
                    log.warning("app %s: %s", slot.app.name, line)

    def _failed(self, slot: Slot[Sandbox], failure: BootFailed) -> None:
        """A process will not become ready; does nothing if it was."""
        task, is_start = self._tasks[slot], slot.state in {State.BOOTING, State.SPARE_BOOTING}
        if is_start:
            task.failure = failure
        was_reported = self._assignment.failed(slot, failure, trio.current_time())
        if is_start and not slot.is_spare and not was_reported and not self._is_closed:
            log.warning("app %s: no warm process: %s", slot.app.name, failure.detail)
        task.settled.set()
