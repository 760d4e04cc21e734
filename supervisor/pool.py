"""Which sandbox: the processes of all apps, lent for one run at a time.

A process belongs to one app and one generation of it for its whole life. The state is the set of live sandboxes and which of
them are idle; it changes only in methods that do not wait.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import trio
from attrs import define, evolve, field, frozen

from .config.model import App
from .crashes import CrashLoops
from .errors import AppFailed, BootFailed, CannotStart, SandboxFault
from .hold import adopt, hold_sandbox
from .jail import Jail
from .observe import Observer
from .outcomes import Outcome
from .sandbox import Sandbox, with_another
from .spares import Spares
from .usage import Usage

CORES_FOR_HEAVY = max(1, (os.cpu_count() or 1) - 1)  # that starts, and runs that use much CPU, may keep busy
HEAVY_TURN = 0.2  # seconds that such a run goes on before the next one's turn
BOOT_TURN = 0.5  # seconds that a start keeps others waiting
TICK = 0.05  # seconds between two looks at the CPU time of busy sandboxes
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
class _Share:
    """The processes of one app."""

    idle: list[Sandbox] = field(factory=list)
    busy: set[Sandbox] = field(factory=set)
    lent: Counter[Sandbox] = field(factory=Counter)  # to how many runs each is
    news: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)  # one may be had, or may be started
    booting: int = 0
    no_warm_before: float = 0.0


@define(eq=False)
class Pool:
    """Made by `open_pool`."""

    _nursery: trio.Nursery
    _jail: Callable[[App], Jail]
    _observer: Observer
    _processes: trio.CapacityLimiter
    _boots: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(CORES_FOR_HEAVY), init=False)
    crashes: CrashLoops = field(factory=CrashLoops, init=False)
    usage: Usage = field(factory=Usage, init=False)
    spares: Spares = field(init=False)
    _apps: Mapping[str, App] = field(factory=dict, init=False)
    _shares: dict[str, _Share] = field(factory=lambda: defaultdict(_Share), init=False)
    _busy: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)

    def update(self, apps: Mapping[str, App]) -> None:
        """The apps as they are now: idle processes of older generations, or of apps that are gone, end."""
        self._apps = apps
        self.crashes.forgive()
        self.usage.forget(apps)
        self.spares.update(apps)
        for share in self._shares.values():
            for sandbox in list(share.idle):
                if not self._is_current(sandbox):
                    self._retire(share, sandbox)

    @asynccontextmanager
    async def lend(self, app: App) -> AsyncIterator[Sandbox]:
        """A sandbox for one run. A run that raises, or is cancelled, ends its process.

        Raises:
            BootFailed: There was no idle process, and a new one did not come up.
        """
        share = self._shares[app.name]
        sandbox = await self._find(share, app)
        share.busy.add(sandbox)
        share.lent[sandbox] += 1
        share.news.unpark_all()
        self._busy.unpark()
        try:
            yield sandbox
        except BaseException as error:
            if not sandbox.ended_for:
                sandbox.ended_for = error.outcome if isinstance(error, SandboxFault) else Outcome.SHUTDOWN
            if share.lent[sandbox] > 1 and isinstance(error, AppFailed):
                sandbox.retire()  # its process still talks: the others may come to their end
            else:
                sandbox.end(with_another(error))
            raise
        finally:
            share.lent[sandbox] -= 1
            if not share.lent[sandbox]:
                del share.lent[sandbox]
                share.busy.discard(sandbox)
                self._put_back(share, sandbox)
            share.news.unpark_all()

    async def _find(self, share: _Share, app: App) -> Sandbox:
        """An idle one, else a new one, else one that has other runs in hand."""
        most = app.pool.messages_in_flight
        while True:
            sandbox = self._take_idle(share, app)
            if sandbox is not None:
                return sandbox
            if most == 1:
                return await self._boot(share, app)
            fresh = [one for one in share.busy if one.can_share() and not self._is_worn(one)]
            if len(fresh) + len(share.idle) + share.booting < app.pool.max_processes:
                return await self._boot(share, app)
            fit = [one for one in fresh if share.lent[one] < most]
            if fit:
                return min(fit, key=lambda one: share.lent[one])
            await share.news.park()

    def kill(self, pid: int) -> bool:
        """End a process; the run it has in hand ends as killed_by_operator. Whether there was one."""
        for share in self._shares.values():
            for sandbox in (*share.idle, *share.busy):
                if sandbox.process.pid == pid:
                    sandbox.end(SandboxFault(Outcome.KILLED_BY_OPERATOR, f"process {pid} was killed by an operator"))
                    return True
        return False

    def statistics(self, app: str) -> PoolStatistics:
        """How many processes an app has."""
        share = self._shares.get(app, _Share())
        return PoolStatistics(len(share.busy), len(share.idle), share.booting)

    def sandboxes(self) -> list[SandboxStatus]:
        """The live processes of all apps."""
        return [
            _status(sandbox, state)
            for share in self._shares.values()
            for state, group in (("busy", share.busy), ("idle", share.idle))
            for sandbox in group
        ]

    def spare_processes(self) -> list[SandboxStatus]:
        """Those that have no app yet."""
        return [evolve(_status(sandbox, "spare"), app="") for sandbox in self.spares.ready]

    def _take_idle(self, share: _Share, app: App) -> Sandbox | None:
        """The one that was used last, so that those not needed grow old and end."""
        for sandbox in reversed(list(share.idle)):
            if sandbox.app.generation == app.generation and sandbox.is_clean():
                share.idle.remove(sandbox)
                return sandbox
            self._retire(share, sandbox)
        return None

    async def _boot(self, share: _Share, app: App) -> Sandbox:
        if pause := self.crashes.pause(app):
            await trio.sleep(pause)
        if self._processes.available_tokens == 0:
            self._evict(app.name)
        share.booting += 1
        began = trio.current_time()
        try:
            sandbox = await self._adopt(app) or await self._start(app)
        finally:
            share.booting -= 1
            share.news.unpark_all()
        seconds = trio.current_time() - began
        self._observer.sandbox_started(app.name, seconds)
        for line in self.usage.note(app, {"boot": seconds}).values():
            log.warning("app %s: %s", app.name, line)
        return sandbox

    async def _adopt(self, app: App) -> Sandbox | None:
        """A spare process, where there is one that fits."""
        sandbox = None if self.crashes.in_trouble(app) else self.spares.take(app)
        if sandbox is not None:
            try:
                await adopt(sandbox, app)
            except BaseException:
                sandbox.end()
                raise
        return sandbox

    async def _start(self, app: App) -> Sandbox:
        async with self._boot_turn():
            sandbox: Sandbox = await self._nursery.start(self._hold, app)
        return sandbox

    @asynccontextmanager
    async def _boot_turn(self) -> AsyncIterator[None]:
        """Starts are dear, and one of them keeps a core busy: there are fewer at a time than cores, so that those who run go on.

        A start that takes long gives its turn to the next one, and goes on.
        """
        turn = object()
        await self._boots.acquire_on_behalf_of(turn)
        held = True

        def give_back() -> None:
            nonlocal held
            if held:
                held = False
                self._boots.release_on_behalf_of(turn)

        async def hurry() -> None:
            await trio.sleep(BOOT_TURN)
            give_back()

        self._nursery.start_soon(hurry)
        try:
            yield
        finally:
            give_back()

    async def _hold(self, app: App, *, task_status: trio.TaskStatus[Sandbox]) -> None:
        async with self._processes:
            in_trouble = self.crashes.in_trouble(app)
            try:
                made = self._jail(app)
            except CannotStart as error:
                raise BootFailed(str(error)) from error
            await hold_sandbox(app, made, in_background=in_trouble, task_status=task_status)
        share = self._shares[app.name]
        for sandbox in list(share.idle):
            if sandbox.process.returncode is not None:
                share.idle.remove(sandbox)  # it ended by itself
                self._observer.sandbox_ended(app.name, Outcome.CRASHED)

    def _put_back(self, share: _Share, sandbox: Sandbox) -> None:
        if self._is_worn(sandbox) or not sandbox.is_clean():
            self._end_one(sandbox)
        else:
            share.idle.append(sandbox)

    def _is_worn(self, sandbox: Sandbox) -> bool:
        pool = sandbox.app.pool
        is_old = sandbox.runs >= pool.max_messages or trio.current_time() - sandbox.born > pool.max_age
        return is_old or not self._is_current(sandbox)

    def _is_current(self, sandbox: Sandbox) -> bool:
        app = self._apps.get(sandbox.app.name)
        return app is not None and app.generation == sandbox.app.generation

    def _retire(self, share: _Share, sandbox: Sandbox) -> None:
        share.idle.remove(sandbox)
        self._end_one(sandbox)

    def _end_one(self, sandbox: Sandbox) -> None:
        sandbox.end()
        self._observer.sandbox_ended(sandbox.app.name, sandbox.ended_for or "retired")

    def _evict(self, for_app: str) -> None:
        """Make room on the host: end a spare process, or the one that has been idle longest, of any other app."""
        if self.spares.end_one():
            return
        idle = [
            (sandbox.idle_since, name, sandbox)
            for name, share in self._shares.items()
            if name != for_app
            for sandbox in share.idle
        ]
        if idle:
            _, name, sandbox = min(idle, key=lambda item: item[0])
            self._retire(self._shares[name], sandbox)

    async def _watch_cpu(self) -> None:
        while True:
            busy = [sandbox for share in self._shares.values() for sandbox in share.busy]
            if not busy:
                await self._busy.park()
            for sandbox in busy:
                sandbox.check_cpu()
            self._take_turns([sandbox for sandbox in busy if sandbox.cpu.is_hungry])
            await trio.sleep(TICK)

    def _take_turns(self, heavy: list[Sandbox]) -> None:
        """Runs that use much CPU never have all cores together: some go on, the others stand still for a moment."""
        turn = int(trio.current_time() / HEAVY_TURN)
        for place, sandbox in enumerate(heavy):
            sandbox.cpu.pause(on=(place - turn * CORES_FOR_HEAVY) % len(heavy) >= CORES_FOR_HEAVY)

    async def _tend(self) -> None:
        """Idle processes that are too old or not needed end; those that min_idle wants are booted."""
        while True:
            now = trio.current_time()
            for name, share in list(self._shares.items()):
                self._tend_idle(share, now)
                if not (share.idle or share.busy or share.booting) and name not in self._apps:
                    del self._shares[name]
            for app in self._apps.values():
                if app.pool.min_idle:
                    self._tend_warm(app, self._shares[app.name], now)
            await trio.sleep(TEND)

    def _tend_idle(self, share: _Share, now: float) -> None:
        for sandbox in list(share.idle):
            pool = sandbox.app.pool
            spare = now - sandbox.idle_since > pool.idle_stop and len(share.idle) > pool.min_idle
            if spare or now - sandbox.born > pool.max_age or not sandbox.is_clean():
                self._retire(share, sandbox)

    def _tend_warm(self, app: App, share: _Share, now: float) -> None:
        if now >= share.no_warm_before and not self.crashes.is_tripped(app):
            for _ in range(self._missing(app, share)):
                self._nursery.start_soon(self._warm, share, app)

    def _missing(self, app: App, share: _Share) -> int:
        live = len(share.idle) + len(share.busy) + share.booting
        return min(app.pool.min_idle - len(share.idle) - share.booting, app.pool.max_processes - live)

    async def _warm(self, share: _Share, app: App) -> None:
        if self._missing(app, share) <= 0 or self._processes.available_tokens == 0:
            return
        try:
            sandbox = await self._boot(share, app)
        except BootFailed as failed:
            log.warning("app %s: no warm process: %s", app.name, failed.detail)
            share.no_warm_before = trio.current_time() + WARM_RETRY
        else:
            self._put_back(share, sandbox)


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
async def open_pool(walls: MakesJails, max_processes: int, observer: Observer, spare: int = 0) -> AsyncIterator[Pool]:
    """A pool for the whole host, with so many spare processes; at the end all processes are dead and reaped."""
    async with trio.open_nursery() as nursery:
        processes = trio.CapacityLimiter(max_processes)
        pool = Pool(nursery, walls.jail, observer, processes)
        pool.spares = Spares(spare, nursery, walls.blank, walls.kind, processes, pool._boot_turn)  # noqa: SLF001
        nursery.start_soon(pool.spares.run)
        nursery.start_soon(pool._watch_cpu)  # noqa: SLF001
        nursery.start_soon(pool._tend)  # noqa: SLF001
        try:
            yield pool
        finally:
            nursery.cancel_scope.cancel()
