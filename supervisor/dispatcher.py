"""From an accepted message to the outcome of its run: admits, orders, runs, and says how it ended.

Nothing here belongs to a gateway connection: a run goes on when the connection that brought its message is gone, and what is in
the journal is run whether or not anybody still waits for it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import trio
from attrs import define, field, frozen

from resources.contract import Caller
from resources.messages import for_app, go_metadata, is_session_start
from resources.stores.journal import Entry, Journal
from resources.stores.logbook import Logbook, Pen
from resources.stores.outbox import Outbox
from resources.stores.redis import StoreError

from .config.model import App
from .errors import LimitHit, SandboxFault
from .history import History
from .lanes import Lanes, lane_of
from .observe import Observer, Phases
from .outcomes import Outcome
from .pool import Pool
from .protocol import ConsoleLine, Request
from .router import Router
from .runs import Reply, RunUse
from .sandbox import HEAPS, Sandbox
from .traces import Trace
from .turns import Turns
from .words import Words

INFO, WARNING, ERROR = 20, 30, 40
TURNS = (os.cpu_count() or 1) + 1  # runs of all apps that begin together; the others wait for theirs
TURN_SECONDS = 0.02  # that a run keeps others waiting: several times what an ordinary one takes
MEMORY_EVERY = 16  # runs of a process between two looks at its memory
SETTLE_RETRY = 1.0  # seconds between attempts to finish journal entries whose runs have ended

log = logging.getLogger(__name__)


@frozen
class Program:
    """An app as it runs now: its config, and the settings that its resources see."""

    app: App
    settings: Mapping[type, Any]


@frozen
class Ended:
    """How a run ended: milliseconds it took, and commands. `outcome` is None where there was no run to do."""

    entry: Entry
    outcome: Outcome | None
    ms: float = 0.0
    commands: int = 0


Then = Callable[[], None]
"""What is to be done when a run has ended and all that it sent was handed out."""


def nothing() -> None:
    """Nobody waits for this run."""


@frozen
class _Job:
    """An accepted message or event."""

    entry: Entry
    place: str
    then: Then
    since: float


@define
class _Use:
    """What a run has done so far, and the seconds it waited for a process and for its commands."""

    trace: Trace
    commands: int = 0
    boot: float = 0.0
    calls: float = 0.0


@define(eq=False)
class Dispatcher:
    """Made by `open_dispatcher`."""

    _nursery: trio.Nursery
    _pool: Pool
    _router: Router
    _journal: Journal
    _logbook: Logbook
    _words: Words
    _history: History
    _observer: Observer
    _announce: Callable[[Ended, Then], None]
    programs: Mapping[str, Program] = field(factory=dict, init=False)
    _lanes: dict[str, Lanes[_Job]] = field(factory=dict, init=False)
    _by_channel: dict[str, list[Program]] = field(factory=dict, init=False)
    _turns: Turns = field(factory=lambda: Turns(TURNS, TURN_SECONDS), init=False)
    _known: set[tuple[str, str]] = field(factory=set, init=False)  # app and place of everything waiting or in hand
    _owed: list[_Job] = field(factory=list, init=False)  # runs that ended and could not be struck from the journal
    _ended_meanwhile: set[tuple[str, str]] | None = field(default=None, init=False)  # during `recover`
    _settling: trio.Lock = field(factory=trio.Lock, init=False)
    _run_ids: Any = field(factory=lambda: count(1), init=False)
    _quiet: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _draining: bool = field(default=False, init=False)

    def update(self, programs: Mapping[str, Program]) -> None:
        """The apps as they are now; holds from the next run."""
        self.programs = programs
        self._by_channel = {}
        for program in programs.values():
            for channel in set(program.app.endpoints.values()):
                self._by_channel.setdefault(channel, []).append(program)
        self._pool.update({name: program.app for name, program in programs.items()})
        for name in self._lanes:
            self._start_some(name)

    def that_send_over(self, channel: str) -> Sequence[Program]:
        """The apps that have an endpoint on a channel."""
        return self._by_channel.get(channel, ())

    def has_room(self, app: str, more: int = 1) -> bool:
        """Whether so many messages may still wait for this app."""
        lanes = self._lanes.get(app)
        waiting = lanes.waiting if lanes is not None else 0
        return waiting + more <= self.programs[app].app.pool.queue

    def waiting(self, app: str) -> int:
        """How many messages wait for this app."""
        lanes = self._lanes.get(app)
        return lanes.waiting if lanes is not None else 0

    def oldest(self, app: str) -> float:
        """Seconds that the oldest of them has waited; 0 where none does."""
        lanes = self._lanes.get(app)
        since = min((job.since for job in lanes.heads()), default=None) if lanes is not None and lanes.waiting else None
        return 0.0 if since is None else trio.current_time() - since

    def submit(self, entry: Entry, place: str, then: Then = nothing) -> None:
        """Take on an entry that stands in the journal; one that is waiting or in hand already is left alone."""
        key = (entry.app, place)
        if key in self._known:
            return
        self._known.add(key)
        lanes = self._lanes.setdefault(entry.app, Lanes())
        lanes.put(lane_of(entry), _Job(entry, place, then, trio.current_time()))
        self._start_some(entry.app)

    async def recover(self) -> int:
        """Take on everything that the journals still have and nobody knows of: after a start, or a lost connection."""
        found = 0
        # A page of the journal is a moment old when it is here: what has ended since it was asked for is in it, too.
        ended = self._ended_meanwhile = {(job.entry.app, job.place) for job in self._owed}
        try:
            for program in self.programs.values():
                app = program.app
                async for place, entry in self._journal.unfinished(app.account, app.name):
                    key = (app.name, place)
                    if key not in self._known and key not in ended:
                        self.submit(entry, place)
                        found += 1
        finally:
            self._ended_meanwhile = None
        return found

    async def drain(self, seconds: float) -> None:
        """Start no more runs; wait for those in hand, at most so long. The others stay in the journal."""
        self._draining = True
        with trio.move_on_after(seconds):
            while any(lanes.in_hand for lanes in self._lanes.values()):
                await self._quiet.park()

    def _start_some(self, name: str) -> None:
        program = self.programs.get(name)
        lanes = self._lanes[name]
        while program is not None and self._may_start(program.app, lanes.in_hand):
            taken = lanes.take()
            if taken is None:
                break
            lane, job = taken
            self._nursery.start_soon(self._run_job, program, lane, job)

    def _may_start(self, app: App, in_hand: int) -> bool:
        most = app.pool.max_processes * app.pool.messages_in_flight
        return not self._draining and in_hand < most and not self.is_tripped(app.name)

    def is_tripped(self, app: str) -> bool:
        """Whether no runs of an app are started, since too many in a row ended with their process; until a reload."""
        return self._pool.crashes.is_tripped(self.programs[app].app)

    async def _run_job(self, program: Program, lane: Hashable, job: _Job) -> None:
        """One run, from its turn to its end in the journal."""
        entry = job.entry
        ended = Ended(entry, Outcome.SHUTDOWN)
        try:
            if entry.kind == "event" and not await self._wants_event(program):
                ended = Ended(entry, None)
            else:
                use = _Use(self._history.begin(entry, program.app))
                turn = await self._turns.take(entry.app)
                began = trio.current_time()
                try:
                    ended = await self._run(program, entry, use, turn)
                finally:
                    self._turns.give_back(turn)
                app = trio.current_time() - began - use.boot - use.calls
                phases = Phases(began - job.since, use.boot, app, use.calls)
                self._observer.run_ended(entry.app, entry.kind, ended.outcome or Outcome.OK, phases)
                use.trace.queue, use.trace.boot, use.trace.total = phases.queue, phases.boot, phases.total
                use.trace.outcome = ended.outcome
                self._history.end(use.trace, program.app)
            self._finish(job)
        finally:
            self._known.discard((entry.app, job.place))
            if self._ended_meanwhile is not None:
                self._ended_meanwhile.add((entry.app, job.place))
            lanes = self._lanes[entry.app]
            lanes.finish(lane)
            self._announce(ended, job.then)
            self._start_some(entry.app)
            self._quiet.unpark_all()

    async def _run(self, program: Program, entry: Entry, use: _Use, turn: object) -> Ended:
        app = program.app
        run_id = f"r{next(self._run_ids)}"
        payload = (
            for_app(entry.payload, app.account, app.name) if entry.kind == "message" else _event_for_app(entry, app)
        )
        caller = Caller(
            run=run_id,
            account=app.account,
            app=app.name,
            channel=entry.channel,
            message=payload if entry.kind == "message" else None,
            settings=program.settings,
            log=Pen(self._logbook, app.account, app.name, app.log.kept),
        )
        began = trio.current_time()
        use.trace.payload = payload
        fault = await self._execute(app, caller, entry.kind, payload, use, turn)
        ms = (trio.current_time() - began) * 1000
        unanswered = is_session_start(entry.payload) and entry.kind == "message" and not caller.replied
        outcome = fault.outcome if fault is not None else Outcome.NO_REPLY if unanswered else Outcome.OK
        use.trace.detail = "" if fault is None else fault.detail
        if outcome is not Outcome.OK:
            await self._words.report(caller, entry, outcome, fault)
        if self._pool.crashes.note(app, outcome, "" if fault is None else fault.detail):
            text = f"[tripped] {app.pool.trip_after} runs in a row ended with their process (pool.trip_after): none is started until a reload"
            log.error("app %s: %s", app.name, text)
            await self._words.say(caller, ERROR, text)
        if unanswered:
            await self._words.fall_back(app, caller)
        return Ended(entry, outcome, round(ms, 1), use.commands)

    async def _execute(
        self, app: App, caller: Caller, kind: str, payload: dict[str, Any], use: _Use, turn: object
    ) -> SandboxFault | None:
        """Run it in a sandbox. Returns what went wrong, if anything."""

        def answer(asked: Request | ConsoleLine) -> Reply | Coroutine[Any, Any, Reply]:
            step = use.trace.begin(asked)
            if isinstance(asked, ConsoleLine):
                if caller.log.soon(asked.level, asked.text):
                    return None
                return self._words.say(caller, asked.level, asked.text)
            use.commands += 1
            if asked.name.startswith("http."):
                self._turns.give_back(turn)  # what comes next is waiting for others
            reply = self._router.route(caller, asked, app.limits, app.http.timeout)
            return reply if step is None else use.trace.answered(step, reply)

        limits = app.limits
        asked = trio.current_time()
        try:
            async with self._pool.lend(app) as sandbox:
                began = trio.current_time()
                use.boot = began - asked
                use.trace.start(sandbox.process.pid)
                with trio.move_on_after(limits.wall) as wall:
                    used = await sandbox.deliver(caller.run, kind, payload, limits, answer, app.config)
                    use.calls = used.calls_seconds
                ran = trio.current_time() - began
                said = sandbox.take_stderr()
                if said:
                    await self._words.say(caller, WARNING, said)
                if wall.cancelled_caught:
                    raise _wall_hit(limits.wall)  # inside: a run that was cut off ends its process
                await self._note_use(app, caller, sandbox, used, ran)
        except SandboxFault as fault:
            return fault
        return None

    async def _note_use(self, app: App, caller: Caller, sandbox: Sandbox, used: RunUse, wall: float) -> None:
        """Keep what a run used; a word in the app's log where it came close to a limit."""
        values = {"wall": wall, "cpu": used.cpu_seconds, "output": used.output_bytes, "commands": used.commands}
        if sandbox.runs % MEMORY_EVERY == 1:
            values["memory"] = sandbox.process.rss_bytes()
            if len(sandbox.heaps) == HEAPS:
                values["heap"] = min(sandbox.heaps)
        self._observer.run_used(app.name, used.cpu_seconds)
        for name, line in self._pool.usage.note(app, values).items():
            self._observer.limit_near(app.name, name)
            await self._words.say(caller, WARNING, line)

    async def _wants_event(self, program: Program) -> bool:
        """Whether the app is to see events: as it was, by `process_events` in its own JSON config."""
        app = program.app
        if app.events != "app":
            wants = app.events == "always"
        else:
            try:
                config = app.own_config()
                wants = isinstance(config, dict) and bool(config.get("process_events"))
            except ValueError as error:
                await self._words.say_for(
                    app, ERROR, f"The config key 'config' is not JSON ({error}); an event is ignored."
                )
                return False
        if not wants:
            await self._words.say_for(app, INFO, f"Ignoring event for conversation: {app.name}")
        return wants

    def _finish(self, job: _Job) -> None:
        """Strike the entry from the journal; where that cannot be done now, later.

        Nothing waits for it: whatever is asked of the store from now on, by the user's next message for one, comes after it.
        """

        def failed(_: Exception) -> None:
            self._owed.append(job)

        if not self._journal.finish_soon(job.entry, job.place, failed):
            self._owed.append(job)

    async def settle(self) -> None:
        """After a lost connection: finish what is owed, then look for what was accepted without our knowing."""
        async with self._settling:
            while True:
                try:
                    while self._owed:
                        await self._journal.finish(self._owed[-1].entry, self._owed[-1].place)
                        self._owed.pop()
                    found = await self.recover()
                except StoreError:
                    await trio.sleep(SETTLE_RETRY)
                else:
                    if found:
                        log.info("found %d entries in the journal that were not in hand", found)
                    return

    def settle_soon(self) -> None:
        """Settle in the background."""
        self._nursery.start_soon(self.settle)


def _event_for_app(entry: Entry, app: App) -> dict[str, Any]:
    helper = entry.payload["helper_metadata"] | {"go": go_metadata(app.account, app.name)}
    return entry.payload | {"helper_metadata": helper}


def _wall_hit(seconds: float) -> SandboxFault:
    return LimitHit(Outcome.WALL, "wall", f"{seconds:g} s", "a run that was not done by then")


@asynccontextmanager
async def open_dispatcher(
    pool: Pool,
    router: Router,
    journal: Journal,
    logbook: Logbook,
    outbox: Outbox,
    history: History,
    observer: Observer,
    announce: Callable[[Ended, Then], None],
) -> AsyncIterator[Dispatcher]:
    """A dispatcher that announces how each run ended; at its end the runs still in hand are cut off, and stay in the journal."""
    async with trio.open_nursery() as nursery:
        words = Words(logbook, outbox, observer)
        dispatcher = Dispatcher(nursery, pool, router, journal, logbook, words, history, observer, announce)
        try:
            yield dispatcher
        finally:
            nursery.cancel_scope.cancel()
