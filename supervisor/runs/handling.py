"""One run, from its turn to its outcome. Whatever goes wrong in it, in the app or in our code, ends
this run and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from itertools import count
from logging import ERROR, INFO, WARNING
from typing import Any

import trio
from attrs import define, field

from resources.contract import Caller
from resources.fence import fence, note
from resources.messages import for_app, go_metadata, is_session_start
from resources.stores.journal import Entry, Journal
from resources.stores.logbook import Logbook, Pen
from resources.stores.redis import StoreError

from ..config.model import App
from ..errors import AppRemoved, InternalError, LimitHit, SandboxFault
from ..observe import CommandServed, LimitNear, Observer, Phases, RunEnded, RunUsed
from ..outcomes import Outcome
from ..sandboxes.fairness import Turns
from ..sandboxes.pool import Pool
from ..sandboxes.protocol import ConsoleLine, Request
from ..sandboxes.run import Reply, RunUse
from ..sandboxes.sandbox import HEAPS, Sandbox
from .aftermath import Aftermath
from .failures import Failures
from .foresight import READ, Foreseen, Foresight
from .history import History
from .jobs import Ended, Job, Program
from .router import INTERNAL, Router
from .traces import Trace

MEMORY_EVERY = 16  # runs of a process; its memory is measured once in them

log = logging.getLogger(__name__)


@define(eq=False)
class _Run:
    """What a run has done so far.

    Attributes:
        boot: Seconds that it waited for a process.
        calls: Seconds that it waited for its commands.
        is_counted: Its end has been counted.
        foreseen: What was read before the app asked, and not asked for yet.
        is_known: What it first waited for has been noted.
    """

    job: Job
    caller: Caller
    trace: Trace
    began: float = field(factory=trio.current_time)
    commands: int = 0
    boot: float = 0.0
    held: float = 0.0
    calls: float = 0.0
    is_counted: bool = False
    foreseen: Foreseen | None = None
    is_known: bool = False

    @property
    def unanswered(self) -> bool:
        """Whether a user waits for a reply that the app did not give."""
        entry = self.job.entry
        return (
            is_session_start(entry.payload) and entry.kind == "message" and not self.caller.replied
        )


@define(eq=False)
class Handler:
    """Handles messages and events of all apps."""

    _pool: Pool
    _router: Router
    _journal: Journal
    _logbook: Logbook
    _aftermath: Aftermath
    _history: History
    _observe: Observer
    _turns: Turns
    _doubt: Callable[[App, SandboxFault], None]
    _failures: Failures
    _foresight: Foresight
    _run_ids: Any = field(factory=lambda: count(1), init=False)

    async def handle(self, program: Program, job: Job) -> Ended:
        """Handle an accepted message or event. An error nobody expected ends it as `crashed`.

        The outcome is `shutdown` if a reload removed the app before the run had a process.

        Cancellation: the process that handles it ends.
        """
        app, entry = program.app, job.entry
        run: _Run | None = None
        try:
            run = _Run(job, self._caller(program, job), self._history.begin(entry, app))
            if entry.kind == "event" and not await self._wants_event(program):
                return Ended(entry, None)
            return await self._take_turn(program, run)
        except Exception as error:  # noqa: BLE001  # a fence, without the cost of one for each run
            note("run", error, _what(entry))
        except BaseExceptionGroup:
            with fence("run", _what(entry)):  # its errors stay here, a cancellation goes on
                raise
        return await self._crashed(app, entry, run)

    def _caller(self, program: Program, job: Job) -> Caller:
        app, entry = program.app, job.entry
        caller = Caller(
            run=f"r{next(self._run_ids)}",
            account=app.account,
            app=app.name,
            channel=entry.channel,
            message=entry.payload if entry.kind == "message" else None,
            settings=program.settings,
            log=Pen(self._logbook, app.account, app.name, app.log.kept),
            origin=entry.origin_at(job.place),
            fence=job.fence,
        )
        job.connection, job.posted = self._journal.connection, caller.posted
        return caller

    async def _take_turn(self, program: Program, run: _Run) -> Ended:
        turn = await self._turns.take(program.app.name)
        run.began = trio.current_time()
        try:
            await self._begin(run.job)
            ended = await self._run(program, run, turn)
        finally:
            self._turns.give_back(turn)
        self._close(program.app, run, ended.outcome)
        return ended

    async def _begin(self, job: Job) -> None:
        """Have the journal note that the run begins, so that it is known to have been in progress
        if we die in it.

        Not waited for, since it is sent before anything that the app could ask for. But an entry
        that may have killed a supervisor before is not run until its count is in the store.
        """
        job.is_begun = True
        if not job.is_recovered:
            job.is_begun = self._journal.begin_soon(job.entry, job.place, _not_noted)
            return
        try:
            await self._journal.begin(job.entry, job.place)
        except StoreError as error:
            job.is_begun = error.sent
            _not_noted(error)

    async def _run(self, program: Program, run: _Run, turn: object) -> Ended:
        app, caller, entry = program.app, run.caller, run.job.entry
        payload = _for_app(entry, app)
        if entry.kind == "message":
            caller.message = payload
        began = trio.current_time()
        run.trace.payload = payload
        fault = await self._execute(app, run, payload, turn)
        ms = (trio.current_time() - began) * 1000
        if not run.is_known and fault is None:
            self._foresight.learn(app, run.trace.user, None)
        outcome = Outcome.NO_REPLY if run.unanswered else Outcome.OK
        if fault is not None:
            outcome = fault.outcome
        detail = run.trace.detail = "" if fault is None else fault.detail
        if isinstance(fault, AppRemoved):
            return Ended(entry, outcome, round(ms, 1))  # the app is not at fault, and may be back
        if fault is not None:
            self._doubt(app, fault)
        if outcome is not Outcome.OK:
            await self._aftermath.report(caller, entry, outcome, fault)
        self._failures.note(app, outcome, detail)
        if self._pool.crashes.note(app, outcome, detail):
            text = (
                f"[tripped] {app.pool.trip_after} runs in a row ended with their process"
                " (pool.trip_after): none is started until a reload"
            )
            log.error("app %s: %s", app.name, text)
            await self._aftermath.say(caller, ERROR, text)
        if run.unanswered:
            await self._aftermath.fall_back(app, caller)
        return Ended(entry, outcome, round(ms, 1), run.commands)

    async def _execute(
        self, app: App, run: _Run, payload: dict[str, Any], turn: object
    ) -> SandboxFault | None:
        """Run it in a sandbox; return what went wrong, or None."""
        caller = run.caller

        def answer(asked: Request | ConsoleLine) -> Reply | Coroutine[Any, Any, Reply]:
            try:
                return self._ask(app, run, turn, asked)
            except Exception as error:  # noqa: BLE001  # a fence that costs a command nothing
                note("command", error, f"app {app.name}")
                return {"success": False, "reason": INTERNAL}

        limits = app.limits
        asked, pause = trio.current_time(), self._pool.crashes.pause(app)
        try:
            async with self._pool.lend(app) as sandbox:
                began = trio.current_time()
                run.held = min(pause, began - asked)
                run.boot = began - asked - run.held
                run.trace.start(sandbox.process.pid)
                with trio.move_on_after(limits.wall) as wall:
                    foreseen = await self._foresee(app, run)
                    used = await sandbox.deliver(
                        caller.run, run.job.entry.kind, payload, limits, answer, app.config,
                        foreseen,
                    )  # fmt: skip
                    run.calls += used.calls_seconds
                ran = trio.current_time() - began
                said = sandbox.take_stderr()
                if said:
                    await self._aftermath.say(caller, WARNING, said)
                if wall.cancelled_caught:
                    raise _wall_hit(limits.wall)  # inside `lend`, so that its process ends
                await self._note_use(app, caller, sandbox, used, ran)
        except SandboxFault as fault:
            return fault
        return None

    def _ask(
        self, app: App, run: _Run, turn: object, asked: Request | ConsoleLine
    ) -> Reply | Coroutine[Any, Any, Reply]:
        """Do what an app asks for."""
        caller, trace = run.caller, run.trace
        step = trace.begin(asked)
        if isinstance(asked, ConsoleLine):
            if caller.log.soon(asked.level, asked.text):
                return None
            return self._aftermath.say(caller, asked.level, asked.text)
        run.commands += 1
        if not run.is_known and (not asked.is_told or asked.name == READ):
            run.is_known = True
            self._foresight.learn(app, trace.user, asked)
            if (foreseen := self._was_foreseen(run, asked)) is not None:
                return trace.was_known(step, foreseen.reply, foreseen.seconds)
        if asked.name.startswith("http."):
            self._turns.give_back(turn)  # from here on it mostly waits for others
        reply = self._router.route(caller, asked, app.limits, app.http.timeout)
        return reply if step is None else trace.answered(step, reply)

    async def _foresee(self, app: App, run: _Run) -> tuple[str, Any] | None:
        """Read what the app will probably ask for first; return its key and value."""
        if run.job.entry.kind != "message" or app.pool.messages_in_flight > 1:
            run.is_known = True
            return None
        began = trio.current_time()
        run.foreseen = found = await self._foresight.read(app, run.trace.user)
        run.calls = trio.current_time() - began
        return None if found is None else (found.key, found.reply["value"])

    def _was_foreseen(self, run: _Run, asked: Request) -> Foreseen | None:
        """What was read for a command that the harness has answered. Counts the command."""
        foreseen, run.foreseen = run.foreseen, None
        if foreseen is None or not asked.is_told or asked.fields.get("key") != foreseen.key:
            return None
        app = run.job.entry.app
        self._observe(CommandServed(app, asked.name, "success", foreseen.seconds))
        return foreseen

    async def _note_use(
        self, app: App, caller: Caller, sandbox: Sandbox, used: RunUse, wall: float
    ) -> None:
        """Note what a run used; warn in the app's log if it came close to a limit."""
        values = {
            "wall": wall,
            "cpu": used.cpu_seconds,
            "output": used.output_bytes,
            "commands": used.commands,
        }
        if sandbox.runs % MEMORY_EVERY == 1:
            values["memory"] = sandbox.process.rss_bytes()
            if len(sandbox.heaps) == HEAPS:
                values["heap"] = min(sandbox.heaps)
        self._observe(RunUsed(app.name, used.cpu_seconds))
        for name, line in self._pool.usage.note(app, values).items():
            self._observe(LimitNear(app.name, name))
            await self._aftermath.say(caller, WARNING, line)

    def _close(self, app: App, run: _Run, outcome: Outcome | None) -> None:
        """Keep the trace of a run that has ended, and count it."""
        own = trio.current_time() - run.began - run.held - run.boot - run.calls
        queue = run.began - run.job.since
        phases = Phases(queue=queue, held=run.held, boot=run.boot, app=own, calls=run.calls)
        run.trace.queue, run.trace.held = phases.queue, phases.held
        run.trace.boot, run.trace.total = phases.boot, phases.total
        run.trace.outcome = outcome
        self._history.end(run.trace, app)
        run.is_counted = True
        self._observe(RunEnded(app.name, run.job.entry.kind, outcome or Outcome.OK, phases))

    async def _crashed(self, app: App, entry: Entry, run: _Run | None) -> Ended:
        """End a run in which a bug of ours showed like any other, as far as possible."""
        if run is None:
            return Ended(entry, Outcome.CRASHED)
        what = _what(entry)
        run.trace.detail = INTERNAL
        run.trace.forget_values()  # a recording may be what it failed at
        with fence("run", what):
            await self._aftermath.report(run.caller, entry, Outcome.CRASHED, InternalError())
        with fence("run", what):
            if run.unanswered:
                await self._aftermath.fall_back(app, run.caller)
        with fence("run", what):
            if not run.is_counted:
                self._close(app, run, Outcome.CRASHED)
        ms = (trio.current_time() - run.began) * 1000
        return Ended(entry, Outcome.CRASHED, round(ms, 1), run.commands)

    async def _wants_event(self, program: Program) -> bool:
        """Whether the app gets events: `events`, or as in the old system `process_events` of its
        JSON config.
        """
        app = program.app
        if app.events != "app":
            wants = app.events == "always"
        else:
            try:
                config = app.own_config()
                wants = isinstance(config, dict) and bool(config.get("process_events"))
            except ValueError as error:
                await self._aftermath.say_for(
                    app,
                    ERROR,
                    f"The config key 'config' is not JSON ({error}); an event is ignored.",
                )
                return False
        if not wants:
            await self._aftermath.say_for(app, INFO, f"Ignoring event for conversation: {app.name}")
        return wants


def _what(entry: Entry) -> str:
    return f"app {entry.app}, {entry.kind} {entry.id}"


def _for_app(entry: Entry, app: App) -> dict[str, Any]:
    if entry.kind == "message":
        return for_app(entry.payload, app.account, app.name)
    helper = entry.payload["helper_metadata"] | {"go": go_metadata(app.account, app.name)}
    return entry.payload | {"helper_metadata": helper}


def _not_noted(error: Exception) -> None:
    log.warning("the journal has not noted that a run began: %s", error)


def _wall_hit(seconds: float) -> SandboxFault:
    return LimitHit(Outcome.WALL, "wall", f"{seconds:g} s", "a run that was not done by then")
