"""One sandbox: a Node process of one app, from spawn to reaped, and the runs it handles in between.

Theory of operation. `hold_sandbox` is a task of the pool's, as long as the process: it boots it, hands the `Sandbox` out, drains
its stderr, and reaps it. `Sandbox.deliver` is one run: it writes the message, reads the commands and answers each in a task of
its own, until the app says done. Whoever finds a reason to end the process from outside (a limit, an operator) calls `end`: the
process dies, the reader in `deliver` sees the pipe close and raises that reason. A run that did not end well leaves the process
in an unknown state, so it is never used again; the pool sees to that.
"""

from __future__ import annotations

import resource
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

import trio
from attrs import define, field, frozen

from .config.model import App, Limits
from .errors import AppFailed, LimitHit, ProtocolViolation, SandboxFault, SandboxGone
from .exits import classify_exit
from .jail import cpu_rlimit
from .outcomes import Outcome
from .process import Process
from .protocol import (
    ConsoleLine,
    Done,
    Failed,
    Frame,
    Ready,
    Request,
    encode_config,
    encode_delivery,
    encode_initialize,
    encode_prepare,
    encode_reply,
    parse,
)
from .wire import Wire

HUNGRY_SECONDS = 0.01  # of CPU between two looks; one that uses less waits for others, and need not take turns
HEAVY_SECONDS = 0.05  # of CPU; a run that uses more gets what nobody else wants: ordinary ones use a few milliseconds
HEAPS = 16  # runs over which the smallest heap is what is alive, the rest garbage
BEYOND_PAUSE = 0.002  # seconds before each command beyond limits.commands_burst
STDERR_READ = 16 << 10
STDERR_KEPT = 64 << 10  # bytes of it that are kept, the newest
TOOLKITS = ("vumigo_v02", "lodash", "moment", "q", "jed")  # that spare processes have loaded
LAST_WORDS_SECONDS = 0.5  # to read what an ended process left in its stderr
ENDED_SECONDS = 1.0  # that a process which closed its stdout has to end

Reply = dict[str, Any] | None
"""The fields of the reply to what an app asks; None for what has none."""

Answer = Callable[[Request | ConsoleLine], Reply | Coroutine[Any, Any, Reply]]
"""Handles what an app asks: its reply, or, where that must be waited for, a coroutine of it."""


@frozen
class RunUse:
    """What a run that ended well has used."""

    commands: int
    cpu_seconds: float
    output_bytes: int
    calls_seconds: float  # in which at least one command was waited for


@define
class _Run:
    """The run in hand."""

    id: str
    limits: Limits
    answer: Answer
    cpu_before: float
    commands: int = 0
    in_flight: int = 0
    calls_since: float = 0.0  # when the first of those in flight was begun
    calls_seconds: float = 0.0
    waiting: deque[Request] = field(factory=deque)
    stderr_bytes: int = 0
    over: bool = False


@define(eq=False)
class Sandbox:
    """A booted process. At most one run at a time."""

    app: App
    process: Process
    _wire: Wire
    _clock: float | None = None  # seconds since 1970 at which the app's clock begins; None: the real time
    born: float = field(factory=trio.current_time, init=False)
    idle_since: float = field(factory=trio.current_time, init=False)
    runs: int = field(default=0, init=False)
    heaps: deque[int] = field(factory=lambda: deque(maxlen=HEAPS), init=False)  # bytes, at the ends of the newest runs
    silent: trio.Event = field(factory=trio.Event, init=False)  # stderr has been read to its end
    ended: trio.Event = field(factory=trio.Event, init=False)  # the process is reaped
    _stderr: bytearray = field(factory=bytearray, init=False)
    _reason: SandboxFault | None = field(default=None, init=False)
    _is_ending: bool = field(default=False, init=False)
    stands_back: bool = field(default=False, init=False)
    is_hungry: bool = field(default=False, init=False)  # it stands back, and used CPU when it last could
    _used_before: float = field(default=0.0, init=False)
    _is_paused: bool = field(default=False, init=False)
    _run: _Run | None = field(default=None, init=False)
    _config: Mapping[str, str] | None = field(default=None, init=False)  # as the process was told
    _burst: int = field(default=0, init=False)

    @property
    def is_busy(self) -> bool:
        """Whether a run is in hand."""
        return self._run is not None

    def is_clean(self) -> bool:
        """Whether it can take a run: alive, and silent since the last one."""
        return not self._is_ending and self.process.returncode is None and not self._wire.stray()

    def end(self, reason: SandboxFault | None = None) -> None:
        """Kill the process; the run in hand, if any, ends for this reason (the first one given)."""
        if self._reason is None:
            self._reason = reason
        self._is_ending = True
        self.process.kill()

    def check_cpu(self) -> None:
        """End the run in hand if it has used up its CPU time; one that uses much of it stands back for all others."""
        run = self._run
        if run is None:
            return
        used = self.process.cpu_seconds() - run.cpu_before
        if used > run.limits.cpu:
            self.end(LimitHit(Outcome.CPU, "cpu", f"{run.limits.cpu:g} s", f"{used:.2f} s"))
        elif used > HEAVY_SECONDS and not self.stands_back:
            self.stand_back()
        if not self._is_paused:
            self.is_hungry = self.stands_back and used - self._used_before > HUNGRY_SECONDS
            self._used_before = used

    def stand_back(self) -> None:
        """Take only the CPU time that nobody else wants, until a run has ended well."""
        self.stands_back = self.process.set_background(on=True)

    def step_forward(self) -> None:
        """Take its share of CPU time again."""
        if self.stands_back:
            self.stands_back = not self.process.set_background(on=False)

    def pause(self, *, on: bool) -> None:
        """Stop, or go on: those that stand back take turns."""
        if on is not self._is_paused:
            self._is_paused = on
            self.process.pause(on=on)

    def take_stderr(self) -> str:
        """What the process wrote there since the last call."""
        text = self._stderr.decode("utf-8", errors="replace").strip()
        self._stderr.clear()
        return text

    async def deliver(
        self,
        run_id: str,
        kind: str,
        payload: dict[str, object],
        limits: Limits,
        answer: Answer,
        config: Mapping[str, str] | None = None,
    ) -> RunUse:
        """Give the app one message or event and answer its commands until it says done.

        With its `config` the harness answers by itself what has only one answer, and tells us.

        Raises:
            SandboxFault: The run cannot go on; the process is of no more use.
        """
        run = self._run = _Run(run_id, limits, answer, self.process.cpu_seconds())
        self.runs += 1
        self._wire.begin_run(limits.line)
        self.process.set_rlimit(resource.RLIMIT_CPU, cpu_rlimit(run.cpu_before, limits.cpu))
        fault: SandboxFault | None = None
        try:
            async with trio.open_nursery() as commands:
                try:
                    await self._wire.send(self._news(config, limits) + encode_delivery(run_id, kind, payload))
                    await self._serve(run, commands)
                except AppFailed as failed:
                    fault = failed  # what it asked for before it failed is still carried out
                except SandboxFault as found:
                    fault = found
                    commands.cancel_scope.cancel()
                except SandboxGone:
                    fault = await self._why_gone()
                    commands.cancel_scope.cancel()
                run.over = True
        finally:
            self._run = None
            self.idle_since = trio.current_time()
            self.pause(on=False)
            self.is_hungry, self._used_before = False, 0.0
            if self.stands_back:
                # Not everyone may take that back: then the next run gets another process.
                self._is_ending = self._is_ending or not self.process.set_background(on=False)
                self.stands_back = False
        if fault is not None:
            raise fault
        used = self.process.cpu_seconds() - run.cpu_before
        return RunUse(run.commands, used, self._wire.received + run.stderr_bytes, run.calls_seconds)

    def _news(self, config: Mapping[str, str] | None, limits: Limits) -> bytes:
        if config is None or (config is self._config and limits.commands_burst == self._burst):
            return b""
        self._config, self._burst = config, limits.commands_burst
        return encode_config(config, limits.commands_burst)

    async def _serve(self, run: _Run, commands: trio.Nursery) -> None:
        """Read lines and act on them, until the run is done."""
        while True:
            lines = await self._wire.receive()
            self._check_output(run)
            has_begun_tasks = False
            for line in lines:
                if has_begun_tasks:
                    # Trio starts tasks in no particular order. The checkpoint lets the last command take its place in the
                    # store's queue before the next is begun: they are carried out in the order in which the app asked.
                    await trio.lowlevel.checkpoint()
                frame = parse(line, run.id, run.limits.json_depth)
                if isinstance(frame, Done):
                    if frame.heap:
                        self.heaps.append(frame.heap)
                    return
                has_begun_tasks = self._act(run, frame, commands)
            if not self._wire.send_pushed():
                commands.start_soon(self._send, b"")  # not here: an app that does not read must still be read

    def _act(self, run: _Run, frame: Frame, commands: trio.Nursery) -> bool:
        """Do what a line asks for. Whether a task was begun."""
        match frame:
            case Request():
                return self._begin(run, frame, commands)
            case ConsoleLine():
                coming = run.answer(frame)
                if isinstance(coming, Coroutine):
                    commands.start_soon(_wait_for, coming)
                return isinstance(coming, Coroutine)
            case Failed(kind, text):
                raise AppFailed(text if kind != "load" else f"the app cannot be loaded: {text}")
        raise ProtocolViolation("a line of the harness's that belongs to its boot")

    def _begin(self, run: _Run, request: Request, commands: trio.Nursery) -> bool:
        """Answer a command that can be answered at once, begin one that cannot, or let it wait. Whether a task was begun."""
        run.commands += 1
        if run.commands > run.limits.commands:
            raise LimitHit(Outcome.COMMANDS, "commands", str(run.limits.commands), f"the next, {request.name}")
        is_in_burst = run.commands <= run.limits.commands_burst
        if run.in_flight >= (run.limits.commands_in_flight if is_in_burst else 1):
            run.waiting.append(request)
            return False
        coming = run.answer(request) if is_in_burst and not self._wire.is_full else None
        if coming is not None and not isinstance(coming, Coroutine):
            if not request.is_told:
                self._wire.push(encode_reply(run.id, request, coming))
            return False
        if not run.in_flight:
            run.calls_since = trio.current_time()
        run.in_flight += 1
        commands.start_soon(self._answer, run, request, coming)
        return True

    async def _answer(self, run: _Run, request: Request, coming: Reply | Coroutine[Any, Any, Reply]) -> None:
        """Answer a command (`coming`: its answer, where that was begun), and then those that had to wait."""
        while True:
            if coming is None:
                coming = run.answer(request)
            reply = await coming if isinstance(coming, Coroutine) else coming
            if reply is not None and not request.is_told and not run.over:
                await self._send(encode_reply(run.id, request, reply))
            if not run.waiting or (run.commands > run.limits.commands_burst and run.in_flight > 1):
                run.in_flight -= 1
                if not run.in_flight:
                    run.calls_seconds += trio.current_time() - run.calls_since
                return  # beyond the burst all but one of these tasks end here: only so the order stays
            if run.commands > run.limits.commands_burst:
                await trio.sleep(BEYOND_PAUSE)
            request, coming = run.waiting.popleft(), None

    async def _send(self, line: bytes) -> None:
        with suppress(SandboxGone):  # the reader finds out why
            await self._wire.send(line)

    def _check_output(self, run: _Run) -> None:
        used = self._wire.received + run.stderr_bytes
        if used > run.limits.output:
            raise LimitHit(Outcome.OUTPUT, "output", f"{run.limits.output} bytes", f"{used} bytes")

    async def boot(self, modules_dir: str) -> None:
        """Hand over the app and wait until the harness is ready; `modules_dir` as the process sees it.

        Raises:
            SandboxFault: It said something else.
            SandboxGone: It ended.
        """
        app = self.app
        fields = {
            "javascript": app.source,
            "filename": app.javascript.name,
            "modules": app.modules,
            "modules_dir": modules_dir,
            "globals": app.globals,
            "clock": None if self._clock is None else round(self._clock * 1000),
        }
        await self._wire.send(encode_initialize(fields))
        await self._ready()

    async def prepare(self) -> None:
        """Have the toolkits loaded, and wait. Raises as `boot` does."""
        await self._wire.send(encode_prepare(TOOLKITS))
        await self._ready()

    async def _ready(self) -> None:
        (line,) = await self._wire.receive()
        if parse(line, None, self.app.limits.json_depth) != Ready():
            raise ProtocolViolation("the harness did not begin with js.ready")

    async def drain_stderr(self) -> None:
        """Read stderr as long as there is any: it counts as output, and its end is kept."""
        while True:
            try:
                data = await self.process.stderr.receive_some(STDERR_READ)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                self.silent.set()
                return
            self._stderr += data
            del self._stderr[:-STDERR_KEPT]
            run = self._run
            if run is not None:
                run.stderr_bytes += len(data)
                try:
                    self._check_output(run)
                except LimitHit as hit:
                    self.end(hit)

    async def _why_gone(self) -> SandboxFault:
        """Why the process closed its end of a pipe."""
        with trio.move_on_after(ENDED_SECONDS):
            await self.ended.wait()
        if self._reason is not None:
            return self._reason
        code = self.process.returncode
        if code is None:
            return ProtocolViolation("the process closed its pipes and did not end")
        return classify_exit(code, self.take_stderr(), self.app.limits)


async def _wait_for(coming: Coroutine[Any, Any, Any]) -> None:
    await coming
