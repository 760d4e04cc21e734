"""One sandbox: a Node process of one app, and the runs it handles.

Theory of operation. `lifecycle.hold` is a task of the pool's that lasts as long as the process: it
boots it, hands the `Sandbox` out, drains its stderr, and reaps it. `Sandbox.deliver` is one run: it
sends the message, has the app's commands read (`Conversation`) and answered (`Run`), and returns
when the app says done. Whoever finds a reason to end the process from outside (a limit, an
operator) calls `end`: the process dies, the reader sees the pipe close, and `deliver` raises that
reason. A run that did not end well leaves the process in an unknown state, so it is never used
again; the pool sees to that.
"""

from __future__ import annotations

import resource
from collections import deque
from collections.abc import Mapping
from typing import Any

import trio
from attrs import define, field

from resources.fence import fence

from ..config.model import App, Limits
from ..config.node import TOOLKITS
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
from .conversation import Conversation, open_conversation
from .cpu import Cpu
from .exits import classify_exit
from .protocol import (
    ConsoleLine,
    Ready,
    encode_config,
    encode_delivery,
    encode_foreseen,
    encode_initialize,
    encode_prepare,
    parse,
)
from .run import INTERNAL, Answer, Run, RunUse

HEAPS = 8  # measurements, of which the smallest is the live heap; the rest is garbage
STDERR_READ = 16 << 10  # bytes at once
STDERR_KEPT = 64 << 10  # bytes, the newest
ENDED_SECONDS = 1.0  # for a process that closed its stdout to end


@define(eq=False)
class Sandbox:
    """A booted process.

    Attributes:
        app: Whose it is; of a spare process, an app of its kind.
        born: When it was started, on Trio's clock; `idle_since`: when its last run ended.
        runs: How many it has had, including those in progress.
        heaps: Bytes in V8's heap at the end of its newest runs.
        ended_for: The outcome that it was ended for; empty if there was none.
        silent: Set when its stderr has been read to the end.
        ended: Set when the process is reaped.
    """

    app: App
    process: Process
    _wire: Wire
    born: float = field(factory=trio.current_time, init=False)
    idle_since: float = field(factory=trio.current_time, init=False)
    runs: int = field(default=0, init=False)
    heaps: deque[int] = field(factory=lambda: deque(maxlen=HEAPS), init=False)
    ended_for: str = field(default="", init=False)
    silent: trio.Event = field(factory=trio.Event, init=False)
    ended: trio.Event = field(factory=trio.Event, init=False)
    cpu: Cpu = field(init=False)
    _conversation: Conversation = field(init=False)
    _stderr: bytearray = field(factory=bytearray, init=False)
    _reason: SandboxFault | None = field(default=None, init=False)  # why it was ended
    _reason_of: Run | None = field(default=None, init=False)  # the run at fault; None: all of them
    _is_ending: bool = field(default=False, init=False)
    _config: Mapping[str, str] | None = field(default=None, init=False)  # as the process knows it
    _burst: int = field(default=0, init=False)  # the same
    _cpu_rlimit: tuple[int, int] | None = field(default=None, init=False)  # as it was last set

    def __attrs_post_init__(self) -> None:
        self.cpu = Cpu(self.process)
        self._conversation = open_conversation(self.app, self._wire, self.cpu)

    def is_clean(self) -> bool:
        """Whether it can take a run when it has none: it lives, and has written nothing since."""
        # One that has ended has closed its pipe, which counts as stray.
        return self._takes_more and not self._wire.has_stray()

    @property
    def is_ending(self) -> bool:
        """Whether we ended it; if not, a process that ends does so by itself."""
        return self._is_ending

    def can_share(self) -> bool:
        """Whether it can take one more run beside those in progress."""
        return self._takes_more and self.process.returncode is None

    @property
    def _takes_more(self) -> bool:
        is_retiring = self._is_ending or self._conversation.is_retiring
        return not is_retiring and not self.process.is_reaped

    def retire(self) -> None:
        """Take no more runs; those in progress may end."""
        self._conversation.is_retiring = True

    def end(self, reason: SandboxFault | None = None, run: Run | None = None) -> None:
        """Kill the process. The runs in progress end for the first reason given; if `run` is given,
        only that one does, and the others end as crashed.
        """
        if self._reason is None:
            self._reason, self._reason_of = reason, run
        self._is_ending = True
        self.process.kill()

    def note_ended(self) -> None:
        """The process is reaped, or given up."""
        self.ended.set()
        self._conversation.cut_waiting()

    def check_cpu(self) -> None:
        """Look at the CPU time used: end a process that used it up, and move one that used much to
        the background.

        If there is one run, all that the process used since it began counts; if there are several,
        what it used since it last wrote something.
        """
        talk = self._conversation
        if not talk.runs:
            return
        talk.share_cpu()
        run, used = talk.blamed, talk.cpu_used()
        if used > run.limits.cpu:
            self.end(LimitHit(Outcome.CPU, "cpu", f"{run.limits.cpu:g} s", f"{used:.2f} s"), run)
        else:
            self.cpu.judge(used)

    def take_stderr(self) -> str:
        """What the process wrote to stderr since the last call, its end if it was long."""
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
        foreseen: tuple[str, Any] | None = None,
    ) -> RunUse:
        """Give the app one message or event and answer its commands until it says done.

        If `foreseen` is given, a key and its value, the harness answers kv.get of that key by
        itself, if the app waits for nothing else before. There must be one run at a time.
        If `config` is given, the harness answers config.get and the like by itself and reports it.
        If cancelled, the process is of no more use.

        Raises:
            NotDelivered: The message cannot be sent; the process is as it was.
            SandboxFault: The run cannot go on; the process is of no more use.
        """
        what = f"app {self.app.name}, run {run_id}"
        with fence("run", what) as caught:
            news = self._news(config, limits)
            line = encode_delivery(run_id, kind, payload)
            if foreseen is not None:
                line = encode_foreseen(*foreseen) + line
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
        """The line with the config that the process does not know yet; empty if it does."""
        if config is None or (config is self._config and limits.commands_burst == self._burst):
            return b""
        return encode_config(config, limits.commands_burst)

    async def _run(self, run_id: str, line: bytes, limits: Limits, answer: Answer) -> Run:
        """A run from its first line to its end, well or at fault."""
        talk = self._conversation
        talk.begin(limits.line)
        self.runs += 1
        cpu = cpu_rlimit(self.cpu.seen, limits.cpu)
        if cpu != self._cpu_rlimit:
            self.process.set_rlimit(resource.RLIMIT_CPU, cpu)
            self._cpu_rlimit = cpu
        try:
            async with trio.open_nursery() as tasks:
                run = Run(run_id, self.app.name, limits, answer, tasks, self._wire)
                try:
                    await talk.serve(run, line)
                except SandboxFault as found:
                    run.settle(found)
                except SandboxGone:
                    run.settle(await self._why_gone(run))
                if run.fault is not None and not isinstance(run.fault, AppFailed):
                    # what an app asked for before it failed is still carried out
                    tasks.cancel_scope.cancel()
                run.over = True
            if not run.is_settled:  # the process ended while the run waited for a command
                run.settle(await self._why_gone(run))
            if run.heap:
                self.heaps.append(run.heap)
        finally:
            talk.finish(run_id)
            if not talk.runs:
                self.idle_since = trio.current_time()
                # Only root may bring a process back from the background; others end it, and the
                # next run gets another one.
                self._is_ending = not self.cpu.rest() or self._is_ending
        return run

    async def boot(self, modules_dir: str, clock: float | None = None) -> None:
        """Hand over the app and wait until the harness is ready.

        Args:
            modules_dir: Where the app's own node_modules are, as the process sees it; may be empty.
            clock: Seconds since 1970 at which the app's clock begins; None: the real time.

        Raises:
            SandboxFault: The process wrote something else.
            SandboxGone: The process ended.
        """
        app = self.app
        self._conversation = open_conversation(app, self._wire, self.cpu)
        fields = {
            "javascript": app.source,
            "source_map": app.source_map,
            # A debugger looks for the file.
            "filename": str(app.javascript) if app.inspect else app.javascript.name,
            "modules": app.modules,
            "modules_dir": modules_dir,
            "globals": app.globals,
            "messages_in_flight": app.pool.messages_in_flight,
            "clock": None if clock is None else round(clock * 1000),
        }
        await self._wire.send(encode_initialize(fields))
        await self._ready()

    async def prepare(self) -> None:
        """Have the toolkits loaded, and wait. Raises as `boot` does."""
        await self._wire.send(encode_prepare(TOOLKITS))
        await self._ready()

    async def _ready(self) -> None:
        """Wait until the harness is ready. What toolkits print before that, or with it, belongs to
        no run.
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
        """Read stderr to its end: it counts as output, and the newest part of it is kept."""
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
                if self._conversation.runs:
                    run = self._conversation.blamed
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
            self._reason_of = self._conversation.blamed
            self._reason = (
                ProtocolViolation("the process closed its pipes and did not end")
                if code is None
                else classify_exit(code, self.take_stderr(), self.app.limits)
            )
        return self._reason if self._reason_of in {None, run} else with_another(self._reason)


def with_another(reason: BaseException) -> SandboxFault:
    """How the other runs of a process end if it had to be ended for one of them."""
    what = "it was cut off"
    if isinstance(reason, SandboxFault):
        what = f"{reason.outcome}: {reason.detail}"
    return SandboxFault(Outcome.CRASHED, f"another run in the same process ended it ({what})")
