"""One sandbox: a Node process of one app, from spawn to reaped, and the runs it handles in between.

Theory of operation. `hold_sandbox` is a task of the pool's, as long as the process: it boots it,
hands the `Sandbox` out, drains its stderr, and reaps it. `Sandbox.deliver` is one run: it writes
the message, reads the commands and has each answered (`Run`), until the app says done. If an app
wants that (pool.messages_in_flight), several runs are in progress at a time: one of them reads for
all. Whoever finds a reason to end the process from outside (a limit, an operator) calls `end`: the
process dies, the reader in `deliver` sees the pipe close and raises that reason. A run that did not
end well leaves the process in an unknown state, so it is never used again; the pool sees to that.
"""

from __future__ import annotations

import resource
from collections import deque
from collections.abc import Mapping

import trio
from attrs import define, field

from resources.fence import fence, note

from ..config.model import App, Limits
from ..errors import (
    AppFailed,
    LimitHit,
    NotDelivered,
    ProtocolViolation,
    SandboxFault,
    SandboxGone,
)
from ..host.pipes import Wire
from ..host.process import Process
from ..jail.argv import cpu_rlimit
from ..outcomes import Outcome
from .cpu import Cpu
from .exits import classify_exit
from .protocol import (
    ConsoleLine,
    Done,
    Ready,
    Turn,
    encode_config,
    encode_delivery,
    encode_initialize,
    encode_prepare,
    parse,
    parse_named,
    wrong_run,
)
from .run import INTERNAL, Answer, Run, RunUse

PAST = 64  # runs that ended, of which a late line is known
HEAPS = 8  # measurements of which the smallest is what is alive of the heap, the rest garbage
# lines that are acted on until others have their turn: some 20 us each, if they are short
LINES_AT_ONCE = 32
STDERR_READ = 16 << 10
STDERR_KEPT = 64 << 10  # bytes of it that are kept, the newest
TOOLKITS = ("vumigo_v02", "lodash", "moment", "q", "jed")  # that spare processes have loaded
ENDED_SECONDS = 1.0  # that a process which closed its stdout has to end


@define(eq=False)
class Sandbox:
    """A booted process, and the runs that it has in hand."""

    app: App
    process: Process
    _wire: Wire
    # seconds since 1970 at which the app's clock begins; None: the real time
    _clock: float | None = None
    born: float = field(factory=trio.current_time, init=False)
    idle_since: float = field(factory=trio.current_time, init=False)
    runs: int = field(default=0, init=False)
    ended_for: str = field(default="", init=False)  # the outcome of the run that it was ended for
    # bytes, at the ends of the newest runs
    heaps: deque[int] = field(factory=lambda: deque(maxlen=HEAPS), init=False)
    cpu: Cpu = field(init=False)
    silent: trio.Event = field(factory=trio.Event, init=False)  # stderr has been read to its end
    ended: trio.Event = field(factory=trio.Event, init=False)  # the process is reaped
    _stderr: bytearray = field(factory=bytearray, init=False)
    _reason: SandboxFault | None = field(default=None, init=False)
    _reason_of: Run | None = field(default=None, init=False)  # whose it is; None: everybody's
    _is_ending: bool = field(default=False, init=False)
    _is_retiring: bool = field(default=False, init=False)  # it takes no more runs
    _runs: dict[str, Run] = field(factory=dict, init=False)
    _past: deque[str] = field(
        factory=lambda: deque(maxlen=PAST), init=False
    )  # runs that have ended, where there may be several
    # the run that has it, as the harness says where there are several
    _turn: str = field(default="", init=False)
    _is_reading: bool = field(default=False, init=False)
    _is_gone: bool = field(default=False, init=False)  # there is nothing more to read
    _read: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _config: Mapping[str, str] | None = field(default=None, init=False)  # as the process was told
    _burst: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.cpu = Cpu(self.process)

    @property
    def _is_shared(self) -> bool:
        """Whether several runs may be in hand."""
        return self.app.pool.messages_in_flight > 1

    def is_clean(self) -> bool:
        """Whether it can take a run when none is in progress: alive, and silent since the last one."""
        return self.can_share() and not self._wire.has_stray()

    @property
    def is_ending(self) -> bool:
        """Whether it was told to end; if not, one that ends does so by itself."""
        return self._is_ending

    def can_share(self) -> bool:
        """Whether it can take one more beside those in progress."""
        return not self._is_ending and not self._is_retiring and self.process.returncode is None

    def retire(self) -> None:
        """Take no more runs; those in progress may end."""
        self._is_retiring = True

    def end(self, reason: SandboxFault | None = None, run: Run | None = None) -> None:
        """Kill the process; what is in hand ends for this reason (the first one given). With `run`
        it is that one's, and the others crash.
        """
        if self._reason is None:
            self._reason, self._reason_of = reason, run
        self._is_ending = True
        self.process.kill()

    def check_cpu(self) -> None:
        """End what uses up its CPU time; what uses much of it stands back for all others.

        Of one run all that the process used since it began counts; of several what was used since
        the process last said something, since nobody can tell from outside which of them used it.
        """
        if not self._runs:
            return
        self.cpu.share(self._runs.values())
        run = self._blamed()
        used = self.cpu.since_heard if self._is_shared else run.cpu_seconds
        if used > run.limits.cpu:
            self.end(LimitHit(Outcome.CPU, "cpu", f"{run.limits.cpu:g} s", f"{used:.2f} s"), run)
        else:
            self.cpu.judge(used)

    def _blamed(self) -> Run:
        """Of the runs in hand, the one that does what the process does."""
        return self._runs.get(self._turn) or next(iter(self._runs.values()))

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
            NotDelivered: The message cannot be sent; the process is as it was.
            SandboxFault: The run cannot go on; the process is of no more use.
        """
        what = f"app {self.app.name}, run {run_id}"
        with fence("run", what) as caught:
            news = self._news(config, limits)
            line = encode_delivery(run_id, kind, payload)
        if caught.error is not None:
            raise NotDelivered(INTERNAL)
        if news:
            self._config, self._burst = config, limits.commands_burst
        run = None
        with fence("run", what) as caught:
            run = await self._run(run_id, news + line, limits, answer)
        if run is None or caught.error is not None:
            raise SandboxFault(Outcome.CRASHED, INTERNAL)
        if run.fault is not None:
            raise run.fault
        return RunUse(run.commands, run.cpu_seconds, run.output, run.calls_seconds)

    def _news(self, config: Mapping[str, str] | None, limits: Limits) -> bytes:
        if config is None or (config is self._config and limits.commands_burst == self._burst):
            return b""
        return encode_config(config, limits.commands_burst)

    async def _run(self, run_id: str, line: bytes, limits: Limits, answer: Answer) -> Run:
        """A run from its first line to its end, well or at fault."""
        self.cpu.share(self._runs.values())
        if not self._runs:
            self._wire.begin_run(limits.line)
            self.cpu.hear()
        self.runs += 1
        self.process.set_rlimit(resource.RLIMIT_CPU, cpu_rlimit(self.cpu.seen, limits.cpu))
        try:
            async with trio.open_nursery() as tasks:
                run = Run(run_id, self.app.name, limits, answer, tasks, self._wire)
                self._runs[run_id] = run
                try:
                    await self._wire.send(line)
                    await self._serve(run)
                except SandboxFault as found:
                    run.settle(found)
                except SandboxGone:
                    run.settle(await self._why_gone(run))
                if run.fault is not None and not isinstance(run.fault, AppFailed):
                    # what an app asked for before it failed is still carried out
                    tasks.cancel_scope.cancel()
                run.over = True
        finally:
            self.cpu.share(self._runs.values())
            self._runs.pop(run_id, None)
            self._past.append(run_id)
            if not self._runs:
                self.idle_since = trio.current_time()
                # Not everyone may take back that a process stands back: then the next run gets
                # another one.
                self._is_ending = not self.cpu.rest() or self._is_ending
        return run

    async def _serve(self, run: Run) -> None:
        """Have lines read and acted on, until the run is settled: by us, or by another run's task
        that reads at the moment.
        """
        while not run.is_settled:
            if self._is_gone:
                raise SandboxGone("the pipe was closed")
            if self._is_reading:
                await self._read.park()
                continue
            self._is_reading = True
            try:
                await self._read_some(run)
            except SandboxGone:
                self._is_gone = True
                raise
            finally:
                self._is_reading = False
                self._read.unpark_all()

    async def _read_some(self, run: Run) -> None:
        lines = await self._wire.receive()
        if self._is_shared:
            self.cpu.share(self._runs.values())
            self.cpu.hear()
        elif self._wire.received > run.limits.output:
            run.count(self._wire.received - run.output)  # also what is no line yet
        has_begun_task = False
        for number, line in enumerate(lines, 1):
            if has_begun_task or number % LINES_AT_ONCE == 0:
                # Trio starts tasks in no particular order. The checkpoint lets the last command
                # take its place in the store's queue before the next is begun: they are carried out
                # in the order in which the app asked.
                await trio.lowlevel.checkpoint()
            has_begun_task = self._take(line, run.limits.json_depth)
        if not self._wire.send_pushed():
            # not here: an app that does not read must still be read
            run.tasks.start_soon(run.send, b"")

    def _take(self, line: bytes, depth_max: int) -> bool:
        """Do what a line asks for. Returns whether a task was begun."""
        named, frame = parse_named(line, depth_max)
        run = self._runs.get(named) if isinstance(named, str) else None
        if run is None and named in self._past and self._is_shared:
            self.retire()  # one that is over spoke: its neighbours must not suffer for that
            return False
        if run is None:
            raise wrong_run(line, named, *self._runs)
        if run.is_settled:
            return False
        try:
            run.count(len(line) + 1)
            if isinstance(frame, Turn):
                self._turn = run.id
                return False
            if isinstance(frame, Done):
                if frame.heap:
                    self.heaps.append(frame.heap)
                run.settle()
                return False
            return run.act(frame)
        except SandboxFault as fault:
            run.settle(fault)
        except Exception as error:  # noqa: BLE001  # who reads may be another run: this one's alone ends
            note("run", error, f"app {self.app.name}, run {run.id}")
            run.settle(SandboxFault(Outcome.CRASHED, INTERNAL))
        return False

    async def boot(self, modules_dir: str) -> None:
        """Hand over the app and wait until the harness is ready; `modules_dir` as the process sees
        it.

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
            "messages_in_flight": app.pool.messages_in_flight,
            "clock": None if self._clock is None else round(self._clock * 1000),
        }
        await self._wire.send(encode_initialize(fields))
        await self._ready()

    async def prepare(self) -> None:
        """Have the toolkits loaded, and wait. Raises as `boot` does."""
        await self._wire.send(encode_prepare(TOOLKITS))
        await self._ready()

    async def _ready(self) -> None:
        """Wait until the harness is ready. What toolkits print before that, or with it, belongs to
        nobody's run.
        """
        self._wire.begin_run(self.app.limits.line)
        is_ready = False
        while not is_ready:
            for line in await self._wire.receive():
                frame = parse(line, None, self.app.limits.json_depth)
                if isinstance(frame, Ready) and not is_ready:
                    is_ready = True
                elif not isinstance(frame, ConsoleLine):
                    raise ProtocolViolation("the harness did not begin with js.ready")
            if is_ready and self._wire.has_rest:
                raise ProtocolViolation("the harness went on after js.ready")
            if self._wire.received > self.app.limits.output:
                measured = f"{self._wire.received} bytes before it was ready"
                allowed = f"{self.app.limits.output} bytes"
                raise LimitHit(Outcome.OUTPUT, "output", allowed, measured)

    async def drain_stderr(self) -> None:
        """Read stderr as long as there is any: it counts as output, and its end is kept."""
        try:
            while True:
                try:
                    data = await self.process.stderr.receive_some(STDERR_READ)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
                if not data:
                    return
                self._stderr += data
                del self._stderr[:-STDERR_KEPT]
                if self._runs:
                    run = self._blamed()
                    try:
                        run.count(len(data))
                    except LimitHit as hit:
                        self.end(hit, run)
        finally:
            self.silent.set()

    async def _why_gone(self, run: Run) -> SandboxFault:
        """Why the process closed its end of a pipe, as far as it concerns a run."""
        with trio.move_on_after(ENDED_SECONDS):
            await self.ended.wait()
        if self._reason is None:
            code = self.process.returncode
            self._reason_of = self._blamed()
            self._reason = (
                ProtocolViolation("the process closed its pipes and did not end")
                if code is None
                else classify_exit(code, self.take_stderr(), self.app.limits)
            )
        return self._reason if self._reason_of in {None, run} else with_another(self._reason)


def with_another(reason: BaseException) -> SandboxFault:
    """What becomes of the other runs of a process that had to be ended for one of them."""
    what = "it was cut off"
    if isinstance(reason, SandboxFault):
        what = f"{reason.outcome}: {reason.detail}"
    detail = f"its process had another run in hand, which ended it ({what})"
    return SandboxFault(Outcome.CRASHED, detail)
