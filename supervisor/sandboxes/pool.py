"""The pool: the processes of all apps, lent for one run at a time.

A process belongs to one app, and to one generation of it, for its whole life. Which run gets which
process is decided in assignment.py, in one step at each change; process_tasks.py carries it out.
Here runs wait for their process.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio
from attrs import define, evolve, field, frozen

from resources.fence import fence
from resources.forever import keep_running

from ..config.model import App
from ..errors import AppFailed, BootFailed, NotDelivered, SandboxFault
from ..observe import Observer
from ..outcomes import Outcome
from .assignment import Assignment
from .cpu_watch import CpuWatch
from .crash_loops import CrashLoops
from .limit_usage import Usage
from .process_tasks import MakesJails, ProcessTasks
from .sandbox import Sandbox, with_another
from .slots import Request, Slot, State
from .spares import Spares

TEND = 1.0  # seconds between two looks at idle processes
WARM_RETRY = 10.0  # seconds after a failed boot until min_idle is tried again


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
class Pool:
    """Made by `open_pool`."""

    _nursery: trio.Nursery
    _walls: MakesJails
    _observe: Observer
    _most: int
    _spare: int
    crashes: CrashLoops = field(factory=CrashLoops, init=False)
    usage: Usage = field(factory=Usage, init=False)
    spares: Spares = field(init=False)
    _assignment: Assignment[Sandbox] = field(init=False)
    _tasks: ProcessTasks = field(init=False)
    cpu_watch: CpuWatch = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._assignment = Assignment(self._most, self.crashes.pause, self._can_adopt)
        self.cpu_watch = CpuWatch(
            lambda: [slot.held for slot in self._assignment.slots[State.BUSY]]
        )
        self.spares = Spares(
            self._spare, self._walls.kind, self._count_spares, self._start_spare, self._end_spares
        )
        self._tasks = ProcessTasks(
            nursery=self._nursery,
            walls=self._walls,
            observe=self._observe,
            assignment=self._assignment,
            crashes=self.crashes,
            usage=self.usage,
            spares_changed=self.spares.ring,
        )

    def update(self, apps: Mapping[str, App]) -> None:
        """Take the apps as they are now.

        Idle processes of older generations, and of apps that were removed, end; runs that wait for
        a removed app get an AppRemoved.
        """
        self.crashes.forgive()
        self.usage.forget(apps)
        keep_spares, now = False, trio.current_time()
        with fence("spares"):
            keep_spares = self.spares.update(apps)
        self._tasks.carry_out(self._assignment.update(apps, now, keep_spares=keep_spares))

    @asynccontextmanager
    async def lend(self, app: App) -> AsyncIterator[Sandbox]:
        """Lend a sandbox for one run. If the run is cancelled, or raises anything but NotDelivered,
        its process is ended.

        If cancelled while it waits for a process, it leaves nothing behind.

        Raises:
            BootFailed: There was no idle process and a new one did not come up.
            AppRemoved: A reload removed the app before it had a process for the run.
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
                sandbox.retire()  # its process still works: the other runs may end well
            else:
                self._tasks.cut(slot, with_another(error))
            raise
        finally:
            self._tasks.carry_out(self._assignment.give_back(slot, trio.current_time()))
            if slot.state is State.GONE and not slot.lent:
                self._tasks.count_end(slot)

    async def _wait_for_one(self, app: App) -> Slot[Sandbox]:
        lot = trio.lowlevel.ParkingLot()
        request = Request[Sandbox](app, lot.unpark_all)
        if self._tasks.is_closed:
            raise BootFailed("the pool is closed")
        self._tasks.carry_out(self._assignment.ask(request, trio.current_time()))
        try:
            while request.slot is None and request.failure is None:
                is_paused = request.not_before > trio.current_time()
                with trio.move_on_at(request.not_before if is_paused else math.inf) as pause:
                    await lot.park()
                if pause.cancelled_caught:
                    self._tasks.carry_out(self._assignment.settle(trio.current_time()))
        except BaseException:
            self._tasks.carry_out(self._assignment.withdraw(request, trio.current_time()))
            raise
        if request.slot is None:
            assert request.failure is not None
            raise request.failure
        return request.slot

    @property
    def apps(self) -> Mapping[str, App]:
        """The apps as `update` was given them."""
        return self._assignment.apps

    def kill(self, pid: int) -> bool:
        """End a process; its runs in progress end as killed_by_operator. Returns whether there was
        such a process.
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
        """Count the processes of an app."""
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
        """The processes that have no app yet."""
        spares = self._assignment.slots[State.SPARE]
        return [evolve(_status(slot.held, "spare"), app="") for slot in spares]

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
        task = self._tasks.start(slot)
        await task.settled.wait()
        if task.failure is not None:
            raise task.failure
        return True

    def _end_spares(self) -> None:
        self._tasks.carry_out(self._assignment.end_spares(trio.current_time()))

    async def tend(self) -> None:
        """End idle processes that are too old or not needed, boot what min_idle wants; for ever."""
        while True:
            now = trio.current_time()
            self._tasks.carry_out(self._assignment.tend(now))
            for app in list(self.apps.values()):
                if app.pool.min_idle and not self.crashes.is_tripped(app):
                    self._tasks.carry_out(self._assignment.warm(app, now, WARM_RETRY))
            await trio.sleep(TEND)

    def close(self) -> None:
        """Start nothing any more, and let nobody wait."""
        self._tasks.close()
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
    walls: MakesJails, max_processes: int, observe: Observer, spare: int = 0
) -> AsyncIterator[Pool]:
    """The pool of the host, with `spare` spare processes; at the end all are dead and reaped."""
    async with trio.open_nursery() as nursery:
        pool = Pool(nursery, walls, observe, max_processes, spare)
        nursery.start_soon(keep_running, "spares", pool.spares.run)
        nursery.start_soon(keep_running, "cpu", pool.cpu_watch.run)
        nursery.start_soon(keep_running, "pool", pool.tend)
        try:
            yield pool
        finally:
            pool.close()
            nursery.cancel_scope.cancel()
