"""Which sandbox: the processes of all apps, lent for one run at a time.

A process belongs to one app and one generation of it for its whole life. What is decided is decided
in assignment.py, in one step at each change; here is what waits: runs for their process, and a task
for each process, from its start until it is reaped.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import trio
from attrs import define, evolve, field, frozen

from resources.fence import fence, keep_running

from ..config.model import App
from ..errors import (
    AppFailed,
    BootFailed,
    CannotStart,
    NotDelivered,
    SandboxFault,
)
from ..jail.argv import Jail
from ..observe import Observer
from ..outcomes import Outcome
from .assignment import Assignment
from .cpu_watch import CORES_FOR_HEAVY, CpuWatch
from .crash_loops import CrashLoops
from .fairness import Turns
from .lifecycle import CAN_STAND_BACK, adopt, hold
from .limit_usage import Usage
from .run import INTERNAL
from .sandbox import Sandbox, with_another
from .slots import Request, Slot, State, Todo
from .spares import Spares

BOOT_TURN = 0.5  # seconds that a start keeps others waiting
TEND = 1.0  # seconds between two looks at idle ones
WARM_RETRY = 10.0  # seconds after a failed boot until min_idle is tried again

log = logging.getLogger(__name__)


class MakesJails(Protocol):
    """Isolation, as the pool sees it."""

    def jail(self, app: App) -> Jail:
        """For a process of an app."""

    def blank(self, like: App) -> Jail:
        """For a process that has no app yet, and will have one of the kind of `like`."""

    def kind(self, app: App) -> object:
        """What apps have in common that can take the same blank process."""


@frozen
class SandboxStatus:
    """One live process, as an operator sees it."""

    app: str
    pid: int
    state: str  # busy | idle | spare: it has no app yet
    age_seconds: float
    runs: int
    rss_bytes: int
    cpu_seconds: float


@frozen
class PoolStatistics:
    """The processes of one app."""

    busy: int
    idle: int
    booting: int


@define(eq=False)
class _Life:
    """What waits for a process."""

    scope: trio.CancelScope = field(factory=trio.CancelScope)  # cancelled to cut its start off
    settled: trio.Event = field(factory=trio.Event)  # it is ready, or will never be
    adopting: trio.Event | None = None  # set when it knows its app, or will never
    failure: BootFailed | None = None


@define(eq=False)
class Pool:
    """Made by `open_pool`."""

    _nursery: trio.Nursery
    _walls: MakesJails
    _observer: Observer
    _most: int
    _spare: int
    crashes: CrashLoops = field(factory=CrashLoops, init=False)
    usage: Usage = field(factory=Usage, init=False)
    spares: Spares = field(init=False)
    _assignment: Assignment[Sandbox] = field(init=False)
    _lives: dict[Slot[Sandbox], _Life] = field(factory=dict, init=False)
    _boots: Turns = field(factory=lambda: Turns(CORES_FOR_HEAVY, BOOT_TURN), init=False)
    cpu_watch: CpuWatch = field(init=False)
    _is_closed: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._assignment = Assignment(self._most, self.crashes.pause, self._can_adopt)
        self.cpu_watch = CpuWatch(
            lambda: [slot.held for slot in self._assignment.slots[State.BUSY]]
        )
        self.spares = Spares(
            self._spare, self._walls.kind, self._count_spares, self._start_spare, self._end_spares
        )

    def update(self, apps: Mapping[str, App]) -> None:
        """The apps as they are now.

        Idle processes of older generations, or of apps that are gone, end; who waits for such an
        app gets a BootFailed.
        """
        self.crashes.forgive()
        self.usage.forget(apps)
        keep_spares, now = False, trio.current_time()
        with fence("spares"):
            keep_spares = self.spares.update(apps)
        self._do(self._assignment.update(apps, now, keep_spares=keep_spares))

    @asynccontextmanager
    async def lend(self, app: App) -> AsyncIterator[Sandbox]:
        """A sandbox for one run. A run that raises, or is cancelled, ends its process, whatever it
        raises; but for NotDelivered.

        Cancelled while it waits, it leaves nothing.

        Raises:
            BootFailed: There was no idle process, and a new one did not come up; or the app is
                gone.
        """
        slot = self._assignment.take(app) or await self._wait_for_one(app)
        sandbox = slot.held
        self.cpu_watch.wake()
        try:
            yield sandbox
        except NotDelivered:
            raise
        except BaseException as error:
            if not sandbox.ended_for:
                sandbox.ended_for = _outcome_of(error)
            if slot.lent > 1 and isinstance(error, AppFailed):
                sandbox.retire()  # its process still talks: the others may come to their end
            else:
                self._cut(slot, with_another(error))
            raise
        finally:
            self._do(self._assignment.give_back(slot, trio.current_time()))
            if slot.state is State.GONE and not slot.lent:
                self._count_end(slot)

    async def _wait_for_one(self, app: App) -> Slot[Sandbox]:
        lot = trio.lowlevel.ParkingLot()
        request = Request[Sandbox](app, lot.unpark_all)
        if self._is_closed:
            raise BootFailed("the pool is closed")
        self._do(self._assignment.ask(request, trio.current_time()))
        try:
            while request.slot is None and request.failure is None:
                is_paused = request.not_before > trio.current_time()
                with trio.move_on_at(request.not_before if is_paused else math.inf) as pause:
                    await lot.park()
                if pause.cancelled_caught:
                    self._do(self._assignment.settle(trio.current_time()))
        except BaseException:
            self._do(self._assignment.withdraw(request, trio.current_time()))
            raise
        if request.slot is None:
            assert request.failure is not None
            raise request.failure
        return request.slot

    @property
    def apps(self) -> Mapping[str, App]:
        """The apps as `update` was told."""
        return self._assignment.apps

    def kill(self, pid: int) -> bool:
        """End a process; the run in progress in it ends as killed_by_operator. Returns whether
        there was one.
        """
        for slot in (*self._assignment.slots[State.IDLE], *self._assignment.slots[State.BUSY]):
            sandbox = slot.held
            if sandbox.process.pid == pid:
                detail = f"process {pid} was killed by an operator"
                if not slot.lent:
                    sandbox.ended_for = Outcome.KILLED_BY_OPERATOR
                sandbox.end(SandboxFault(Outcome.KILLED_BY_OPERATOR, detail))
                return True
        return False

    def statistics(self, app: str) -> PoolStatistics:
        """How many processes an app has."""
        share = self._assignment.slots.shares.get(app)
        if share is None:
            return PoolStatistics(0, 0, 0)
        states = (State.BUSY, State.IDLE, State.BOOTING)
        return PoolStatistics(*(len(share.slots[state]) for state in states))

    def sandboxes(self) -> list[SandboxStatus]:
        """The live processes of all apps."""
        return [
            _status(slot.held, state.value)
            for share in self._assignment.slots.shares.values()
            for state in (State.BUSY, State.IDLE)
            for slot in share.slots[state]
        ]

    def spare_processes(self) -> list[SandboxStatus]:
        """Those that have no app yet."""
        spares = self._assignment.slots[State.SPARE]
        return [evolve(_status(slot.held, "spare"), app="") for slot in spares]

    # What was decided.

    def _do(self, todo: Todo[Sandbox]) -> None:
        if self._is_closed:
            return  # everything ends
        for slot in todo.ended:
            self._cut(slot)
        for slot in todo.adopted:
            self._lives[slot].adopting = trio.Event()
            self._nursery.start_soon(self._adopt, slot)
            self.spares.ring()
        for slot in todo.started:
            self._keep_soon(slot)

    def _cut(self, slot: Slot[Sandbox], reason: SandboxFault | None = None) -> None:
        """End a process, or its start."""
        with fence("process", f"app {slot.app.name}"):
            if slot.process is not None:
                slot.process.end(reason)
        if slot.process is None and slot in self._lives:
            self._lives[slot].scope.cancel()

    # The lives of processes.

    def _keep_soon(self, slot: Slot[Sandbox]) -> _Life:
        life = self._lives[slot] = _Life()
        self._nursery.start_soon(self._keep, slot, life)
        return life

    async def _keep(self, slot: Slot[Sandbox], life: _Life) -> None:
        """Hold a process from its start until it is reaped. Whatever goes wrong here ends this one
        alone.
        """
        failure = BootFailed(INTERNAL)
        try:
            with fence("process", f"app {slot.app.name}"), life.scope:
                try:
                    await self._hold(slot)
                except (BootFailed, CannotStart) as error:
                    failure = error if isinstance(error, BootFailed) else BootFailed(str(error))
            if life.adopting is not None:
                await life.adopting.wait()  # which has the better reason
        finally:
            self._failed(slot, failure)
            del self._lives[slot]
            self._do(self._assignment.ended(slot, trio.current_time()))
            if not slot.lent:
                self._count_end(slot)
            if slot.is_spare:
                self.spares.ring()

    async def _hold(self, slot: Slot[Sandbox]) -> None:
        app, turn = slot.app, None
        is_spare = slot.is_spare
        in_background = CAN_STAND_BACK if is_spare else self.crashes.in_trouble(app)
        # Starts are dear, and one of them keeps a core busy: there are fewer at a time than cores,
        # so that those who run go on. One that takes only the time that nobody else wants may take
        # long: it must not keep apps' from starting.
        if not (is_spare and CAN_STAND_BACK):
            turn = await self._boots.take(app.name)
        began = trio.current_time()

        def ready(sandbox: Sandbox) -> None:
            self._boots.give_back(turn)
            self._ready(slot, sandbox, began)

        try:
            jail = self._walls.blank(app) if is_spare else self._walls.jail(app)
            await hold(app, jail, ready, in_background=in_background, is_spare=is_spare)
        finally:
            self._boots.give_back(turn)

    async def _adopt(self, slot: Slot[Sandbox]) -> None:
        life, sandbox, began = self._lives[slot], slot.held, trio.current_time()
        assert life.adopting is not None
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
            self._cut(slot)
        finally:
            life.adopting.set()

    def _ready(self, slot: Slot[Sandbox], sandbox: Sandbox, began: float) -> None:
        if not sandbox.is_clean():
            sandbox.end()
            slot.process = sandbox
            self._failed(slot, BootFailed("the process went on after it was ready"))
            return
        now = trio.current_time()
        self._do(self._assignment.booted(slot, sandbox, now))
        self._lives[slot].settled.set()
        if not slot.is_spare:
            with fence("process", f"app {slot.app.name}"):
                self._observer.sandbox_started(slot.app.name, now - began)
                for line in self.usage.note(slot.app, {"boot": now - began}).values():
                    log.warning("app %s: %s", slot.app.name, line)

    def _failed(self, slot: Slot[Sandbox], failure: BootFailed) -> None:
        """A start has come to nothing, if it was one still."""
        life, is_start = self._lives[slot], slot.state in {State.BOOTING, State.SPARE_BOOTING}
        if is_start:
            life.failure = failure
        is_told = self._assignment.failed(slot, failure, trio.current_time())
        if is_start and not slot.is_spare and not is_told and not self._is_closed:
            log.warning("app %s: no warm process: %s", slot.app.name, failure.detail)
        life.settled.set()

    def _count_end(self, slot: Slot[Sandbox]) -> None:
        """A process has ended: for an outcome, by itself, or because it was not needed."""
        sandbox = slot.process
        if sandbox is not None and slot.was_ready and not self._is_closed:
            by_itself = Outcome.CRASHED if not sandbox.is_ending else "retired"
            with fence("process", f"app {slot.app.name}"):
                self._observer.sandbox_ended(slot.app.name, sandbox.ended_for or by_itself)

    # Spare processes.

    def _can_adopt(self, app: App) -> bool:
        return self.spares.fits(app) and not self.crashes.in_trouble(app)

    def _count_spares(self) -> int:
        slots = self._assignment.slots
        return len(slots[State.SPARE]) + len(slots[State.SPARE_BOOTING])

    async def _start_spare(self, like: App) -> bool:
        slot = self._assignment.start_spare(like)
        if slot is None:
            return False
        life = self._keep_soon(slot)
        await life.settled.wait()
        if life.failure is not None:
            raise life.failure
        return True

    def _end_spares(self) -> None:
        self._do(self._assignment.end_spares(trio.current_time()))

    async def tend(self) -> None:
        """Idle processes that are too old or not needed end; those that min_idle wants are booted."""
        while True:
            now = trio.current_time()
            self._do(self._assignment.tend(now))
            for app in list(self.apps.values()):
                if app.pool.min_idle and not self.crashes.is_tripped(app):
                    self._do(self._assignment.warm(app, now, WARM_RETRY))
            await trio.sleep(TEND)

    def close(self) -> None:
        """Nothing is started any more, and nobody waits."""
        self._is_closed = True
        self._assignment.refuse_all(BootFailed("the pool is closed"))


def _outcome_of(error: BaseException) -> Outcome:
    if isinstance(error, SandboxFault):
        return error.outcome
    return Outcome.CRASHED if isinstance(error, Exception) else Outcome.SHUTDOWN


def _status(sandbox: Sandbox, state: str) -> SandboxStatus:
    return SandboxStatus(
        app=sandbox.app.name,
        pid=sandbox.process.pid,
        state=state,
        age_seconds=trio.current_time() - sandbox.born,
        runs=sandbox.runs,
        rss_bytes=sandbox.process.rss_bytes(),
        cpu_seconds=sandbox.process.cpu_seconds(),
    )


@asynccontextmanager
async def open_pool(
    walls: MakesJails, max_processes: int, observer: Observer, spare: int = 0
) -> AsyncIterator[Pool]:
    """A pool for the whole host, with so many spare processes; at the end all processes are dead
    and reaped.
    """
    async with trio.open_nursery() as nursery:
        pool = Pool(nursery, walls, observer, max_processes, spare)
        nursery.start_soon(keep_running, "spares", pool.spares.run)
        nursery.start_soon(keep_running, "cpu", pool.cpu_watch.run)
        nursery.start_soon(keep_running, "pool", pool.tend)
        try:
            yield pool
        finally:
            pool.close()
            nursery.cancel_scope.cancel()
