"""From an accepted message to the outcome of its run: admits messages, orders and starts runs, and
announces how each ended.

Nothing here belongs to a gateway connection: a run goes on when the connection that brought its
message is gone, and what is in the journal is run whether or not anybody still waits for it. The
state is what waits in the lanes and what is in progress. It changes only in methods that do not
wait, and a run leaves nothing in it, however it ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence

import trio
from attrs import define, evolve, field

from resources.fence import fence, note
from resources.stores.fencing import fenced
from resources.stores.journal import Entry, Journal, KeptOutcome

from ..config.model import App
from ..outcomes import Outcome
from ..sandboxes.crash_loops import CrashState
from ..sandboxes.pool import Pool
from .brought import told_of
from .dead_letters import DeadLetterBox
from .failures import Failures, explain
from .handling import Handler
from .jobs import Ended, Job, Key, Program, Then, nothing
from .lanes import Lanes
from .outages import Outages
from .partitions import Partitions
from .recovery import Recovery

log = logging.getLogger(__name__)

__all__ = ["Dispatcher", "Ended", "Program", "Then", "nothing"]


@define(eq=False)
class Dispatcher:
    """Made by `open_dispatcher`."""

    _nursery: trio.Nursery
    _pool: Pool
    _journal: Journal
    _handler: Handler
    box: DeadLetterBox
    failures: Failures
    _announce: Callable[[Ended, Then], None]
    partitions: Partitions | None = field(default=None, init=False)
    """If several servers share the work."""
    programs: Mapping[str, Program] = field(factory=dict, init=False)
    outages: Outages = field(init=False)
    _alone: Recovery = field(init=False)  # keeps a journal that is not shared
    _lanes: dict[str, Lanes[Job]] = field(factory=dict, init=False)
    _by_channel: dict[str, list[Program]] = field(factory=dict, init=False)
    _known: set[Key] = field(factory=set, init=False)  # everything waiting or in progress
    _quiet: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _ending: int = field(default=0, init=False)  # runs that have ended, which is not recorded yet
    _draining: bool = field(default=False, init=False)
    _is_stopped: bool = field(default=False, init=False)  # by an operator

    def __attrs_post_init__(self) -> None:
        self._alone = Recovery(self._journal, self.box, self)
        self.outages = Outages(self._journal.redis, self._resume)

    @property
    def recovery(self) -> Recovery | Partitions:
        """What keeps the journals and the line in step."""
        return self._alone if self.partitions is None else self.partitions

    def update(self, programs: Mapping[str, Program]) -> None:
        """Change the apps; holds from the next run.

        What waits for an app that is gone stays in the journal, and is run when the app is back.
        Whoever waits for it here is told at once.
        """
        before, self.programs = self.programs, programs
        self._by_channel = {}
        for program in programs.values():
            for channel in set(program.app.endpoints.values()):
                self._by_channel.setdefault(channel, []).append(program)
        apps = {name: program.app for name, program in programs.items()}
        self._pool.update(apps)
        self.failures.update(apps)
        for name, program in before.items():
            if not _is_same(program, programs.get(name)):
                self._hand_back(name)
        self.recovery.look_soon(
            [name for name, new in programs.items() if not _is_same(before.get(name), new)]
        )
        for name in list(self._lanes):
            self._start_some(name)

    def that_send_over(self, channel: str) -> Sequence[Program]:
        """Return the apps that have an endpoint on a channel."""
        return self._by_channel.get(channel, ())

    def has_room(self, app: str, more: int = 1) -> bool:
        """Whether `more` messages may wait for this app; none may if it is not in the config."""
        program = self.programs.get(app)
        return program is not None and self.waiting(app) + more <= program.app.pool.queue

    def waiting(self, app: str) -> int:
        """Return the number of messages that wait for this app."""
        lanes = self._lanes.get(app)
        here = lanes.waiting if lanes is not None else 0
        return here if self.partitions is None else max(here, self.partitions.brought.waiting(app))

    def oldest(self, app: str) -> float:
        """Return the seconds that the oldest message of an app has waited; 0 if none waits."""
        lanes = self._lanes.get(app)
        if lanes is None or not lanes.waiting:
            return 0.0
        return trio.current_time() - min(job.since for job in lanes.heads())

    def submit(self, entry: Entry, place: str, then: Then = nothing) -> None:
        """Put an entry of the journal in line, unless it is waiting or in progress already.

        `then` is called once: when its run has ended and what it sent was handed out, or at once if
        its app has left the config meanwhile, so that the entry stays in the journal.
        """
        if self.partitions is None:
            self.take_on(Job(entry, place, then))
        else:
            self.partitions.submit(entry, place, then)

    def submit_again(self, entry: Entry, place: str) -> None:
        """Put an entry in line that is in the journal once more."""
        self.submit(entry, place)
        if self.partitions is not None:
            self.partitions.missed_by_all()

    def take_on(self, job: Job) -> None:
        """Put a job in line; see `submit`."""
        entry = job.entry
        if self.is_known(job.key):
            return
        program = self.programs.get(entry.app)
        if program is None or program.app.account != entry.account:
            if self.partitions is not None:
                self.partitions.let_go(job)
            self._tell(Ended(entry, Outcome.SHUTDOWN), job)
            return
        self._known.add(job.key)
        self._lanes.setdefault(entry.app, Lanes()).put(entry.lane, job)
        self._start_some(entry.app)

    def is_known(self, key: Key) -> bool:
        """Whether an entry waits or is in progress."""
        return key in self._known

    def expect(self, entry: Entry, place: str) -> bool:
        """Whether an entry of the journal that was accepted before has still to end, as far as we
        know. If another server runs it, its end is announced here too, unless too much is expected.
        """
        key = (entry.account, entry.app, place)
        others = self.partitions
        return others.brought.expect(key, entry) if others is not None else self.is_known(key)

    def tell(self, ended: Ended) -> None:
        """Announce how an entry ended that was not run."""
        with fence("run", f"{ended.entry.app}: the end of {ended.entry.kind} {ended.entry.id}"):
            self._announce(ended, nothing)

    def tell_of(self, job: Job, ended: Ended) -> None:
        """Announce how a job ended that was not run here, or whose end was recorded."""
        self._tell(ended, job)

    def drop_waiting(self, app: str, matches: Callable[[Job], bool]) -> None:
        """Leave what waits for an app and matches to the journal."""
        lanes = self._lanes.get(app)
        for lane, job in [] if lanes is None else lanes.all():
            if matches(job) and lanes is not None:
                lanes.remove(lane, job)
                self._known.discard(job.key)
                if self.partitions is not None:
                    self.partitions.let_go(job)

    async def recover(self) -> int:
        """At the start: put in line everything that the journals still have; return the number of
        entries. Waits for the store.
        """
        return await self.recovery.start()

    def settle_soon(self) -> None:
        """Look in the journals for what was accepted while the connection to the store was lost."""
        if self.partitions is None:
            self.recovery.look_soon(self.programs)
        else:
            self.partitions.doubt()

    async def drain(self, seconds: float) -> None:
        """Start no more runs; wait at most `seconds` for those in progress. What waits stays in the
        journal.
        """
        self._draining = self._is_stopped = True
        with trio.move_on_after(seconds):
            while self._ending or any(lanes.in_progress for lanes in self._lanes.values()):
                await self._quiet.park()
            if self.partitions is not None:
                await self.partitions.brought.all_ended()

    def stop(self) -> None:
        """Start no more runs, and do not count it against those in progress that they are cut off:
        an operator ends the service.
        """
        self._draining = self._is_stopped = True

    def is_tripped(self, app: str) -> bool:
        """Whether no runs of an app are started until a reload, because too many in a row ended
        with their process.
        """
        program = self.programs.get(app)
        return program is not None and self._pool.crashes.is_tripped(program.app)

    def broken(self, app: str) -> str:
        """Return what is wrong in the files of an app, so that it cannot run until a reload; empty
        if nothing.
        """
        program = self.programs.get(app)
        return "" if program is None else program.broken

    def state(self, app: App) -> CrashState:
        """Return how an app is doing; its state may also be `broken` or `failing`."""
        found = self._pool.crashes.state(app)
        if broken := self.broken(app.name):
            return evolve(found, state="broken", last=broken)
        failed = self.failures.state(app)
        if failed is not None and found.state == "running":
            return evolve(found, state="failing", last=explain(app, failed))
        return found

    def set_broken(self, app: App, why: str) -> bool:
        """Run an app no more, until a reload, for this reason; what waits for it stays in line.
        Returns whether it is still the app that runs, and was not broken before.
        """
        program = self.programs.get(app.name)
        if program is None or program.broken or program.app.generation != app.generation:
            return False
        self.programs = {**self.programs, app.name: evolve(program, broken=why)}
        return True

    def _hand_back(self, name: str) -> None:
        """Leave what waits for an app that is gone to the journal."""
        lanes = self._lanes.get(name)
        jobs = [] if lanes is None else lanes.clear()
        if jobs:
            log.warning(
                "app %s left the config: %d messages stay in its journal until it is back",
                name,
                len(jobs),
            )
        for job in jobs:
            self._known.discard(job.key)
            if self.partitions is not None:
                self.partitions.let_go(job)
            self._tell(Ended(job.entry, Outcome.SHUTDOWN), job)
        if self.partitions is not None:
            self.partitions.brought.leave(name)
        self._forget_if_quiet(name)

    def _start_some(self, name: str) -> None:
        program, lanes = self.programs.get(name), self._lanes.get(name)
        while (
            program is not None
            and lanes is not None
            and lanes.waiting
            and not program.broken
            and self._may_start(program.app, lanes.in_progress)
        ):
            taken = lanes.take()
            if taken is None:
                break
            lane, job = taken
            self._nursery.start_soon(self._run_job, program, lane, job)

    def _may_start(self, app: App, in_progress: int) -> bool:
        most = app.pool.max_processes * app.pool.messages_in_flight
        return (
            not self._draining
            and in_progress < most
            and not self.is_tripped(app.name)
            and not self.outages.holds(app.account)
        )

    def _resume(self, account: str) -> None:
        """Start what waits for the apps of an account that is no longer held back."""
        for name, program in self.programs.items():
            if program.app.account == account:
                self._start_some(name)

    async def _run_job(self, program: Program, lane: Hashable, job: Job) -> None:
        """One run, from its turn to its end in the journal."""
        ended = Ended(job.entry, Outcome.SHUTDOWN)
        try:
            if job.fence is None:
                ended = await self._handler.handle(program, job)
            else:
                with fenced(job.fence):
                    ended = await self._handler.handle(program, job)
            if ended.outcome is Outcome.SHUTDOWN:
                self._hand_back_begun(job)
            elif job.fence is None:
                await job.try_post_again(self._journal.connection)
                self._alone.ended(job)
                self._finish(job, told_of(ended))
        except BaseException:
            self._cut_off(job)
            raise
        finally:
            self._let_go(lane, job, ended)

    def _let_go(self, lane: Hashable, job: Job, ended: Ended) -> None:
        """Give back all that a run had; it has ended, however it did."""
        self._lanes[job.entry.app].finish(lane)
        if self.partitions is not None and ended.outcome is not Outcome.SHUTDOWN:
            # Not waited for here: whatever the user's next message asks the store for comes after.
            self._ending += 1
            self._nursery.start_soon(self._record, self.partitions, job, ended)
        else:
            self._known.discard(job.key)
            if self.partitions is not None:
                self.partitions.let_go(job)
            self._tell(ended, job)
        if ended.outcome is Outcome.SHUTDOWN and not self._draining:
            self.recovery.look_soon([job.entry.app])  # the app may be back already
        self._start_some(job.entry.app)
        self._forget_if_quiet(job.entry.app)
        self._quiet.unpark_all()

    async def _record(self, partitions: Partitions, job: Job, ended: Ended) -> None:
        """Record the end of a run of a partition, and announce it."""
        try:
            await partitions.record(job, ended)
        finally:
            self._known.discard(job.key)
            self._ending -= 1
            self._quiet.unpark_all()

    def _cut_off(self, job: Job) -> None:
        """Keep a run in the journal that the end of the service cuts off."""
        self._draining = True  # what starts now would be cut off as well
        if self._is_stopped:
            self._hand_back_begun(job)

    def _hand_back_begun(self, job: Job) -> None:
        """Have the journal forget that a run began: what cut it off is no fault of its own."""
        if job.is_begun:
            self._journal.hand_back_soon(job.entry, job.place, _not_handed_back)

    def _finish(self, job: Job, outcome: KeptOutcome | None) -> None:
        """Strike the entry from the journal; if that cannot be done now, have it done later.

        Not waited for: whatever the store is asked from now on, for example by the user's next
        message, comes after it.
        """

        def failed(_: Exception) -> None:
            self._alone.owe(job, outcome)

        try:
            is_posted = self._journal.finish_soon(job.entry, job.place, failed, outcome)
        except Exception as error:  # noqa: BLE001  # a fence, without the cost of one for each run
            note("run", error, f"app {job.entry.app}, the end of {job.entry.kind} {job.entry.id}")
            is_posted = False
        if not is_posted:
            self._alone.owe(job, outcome)

    def _tell(self, ended: Ended, job: Job) -> None:
        """Announce how a run ended; whoever waits for it is told once, whatever goes wrong here."""
        then = job.then if job.then is nothing else job.then_once
        try:
            self._announce(ended, then)
        except Exception as error:  # noqa: BLE001  # a fence, without the cost of one for each run
            note(
                "run", error, f"app {job.entry.app}, the outcome of {job.entry.kind} {job.entry.id}"
            )
            self.tell(Ended(job.entry, None))  # forgets the way back to its sender
            then()

    def _forget_if_quiet(self, name: str) -> None:
        """Forget an app that is gone and has no run in progress."""
        lanes = self._lanes.get(name)
        if name in self.programs or lanes is None:
            return
        if not lanes.waiting and not lanes.in_progress:
            del self._lanes[name]


def _is_same(old: Program | None, new: Program | None) -> bool:
    """Whether what waits for an app may still be run: the app is there, and of the same account."""
    return old is not None and new is not None and old.app.account == new.app.account


def _not_handed_back(error: Exception) -> None:
    log.warning(
        "the journal has not noted that a run was cut off, by no fault of its own: %s", error
    )
