"""The conversation with one process: the lines of its runs, read and acted on.

There is one run at a time (`Conversation`), or several if the app wants that
(pool.messages_in_flight): then one of them reads for all (`SharedConversation`).
"""

from __future__ import annotations

from collections import deque
from typing import ClassVar

import trio
from attrs import define, field

from resources.fence import note

from ..config.model import App
from ..errors import SandboxFault, SandboxGone
from ..host.pipes import Wire
from ..outcomes import Outcome
from .cpu import Cpu
from .protocol import ActiveRun, Done, parse_named, wrong_run
from .run import INTERNAL, Run

PAST = 64  # ended runs whose late lines are still known, if there may be several runs
# lines acted on before other tasks get their turn: about 20 us each, if they are short
LINES_AT_ONCE = 32


def open_conversation(app: App, wire: Wire, cpu: Cpu) -> Conversation:
    """The kind of conversation that an app wants."""
    kind = Conversation if app.pool.messages_in_flight == 1 else SharedConversation
    return kind(app.name, wire, cpu)


@define(eq=False)
class Conversation:
    """One run at a time.

    Attributes:
        runs: Those in progress, by their ids, the oldest first.
        is_retiring: Whether the process takes no more runs; those in progress may end.
    """

    _app: str  # its name, for the log
    _wire: Wire
    _cpu: Cpu
    runs: dict[str, Run] = field(factory=dict, init=False)
    is_retiring: bool = field(default=False, init=False)
    _active: str = field(default="", init=False)  # the run that the process works for
    _past: deque[str] = field(factory=lambda: deque(maxlen=PAST), init=False)
    _is_reading: bool = field(default=False, init=False)
    _is_gone: bool = field(default=False, init=False)  # there is nothing more to read
    _has_ended: bool = field(default=False, init=False)  # the process; there may be lines to read
    _has_read: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    # Whether the task that reads may wait for a command: no other run needs it.
    _may_wait: ClassVar[bool] = True

    @property
    def blamed(self) -> Run:
        """The run to charge for what the process is doing now. There must be one in progress."""
        return self.runs.get(self._active) or next(iter(self.runs.values()))

    def share_cpu(self) -> None:
        """Charge the CPU time used since the last call to the runs in progress."""
        self._cpu.share(self.runs.values())

    def cpu_used(self) -> float:
        """Seconds of CPU that count against the limit of the `blamed` run."""
        return self.blamed.cpu_seconds

    def begin(self, line_max: int) -> None:
        """Expect one more run; its lines are at most `line_max` bytes long."""
        self.share_cpu()
        if not self.runs:
            self._wire.begin_run(line_max)
            self._cpu.hear()

    async def serve(self, run: Run, line: bytes) -> None:
        """Send the line that begins a run; have lines read and acted on until it is settled.

        If cancelled, the run may be half served: its process is of no more use.

        Raises:
            SandboxFault: The run, or what the process writes, is at fault.
            SandboxGone: The process closed its end of a pipe.
        """
        self.runs[run.id] = run
        # At once if that is possible: unlike replies, no other line will go out with it.
        self._wire.push(line)
        if self._wire.is_full or not self._wire.send_pushed():
            await self._wire.send(b"")
        while not run.is_settled:
            if self._is_gone:
                raise SandboxGone("the pipe was closed")
            if self._is_reading:
                await self._has_read.park()
                continue
            self._is_reading = True
            try:
                await self._read_for_all(run)
            except SandboxGone:
                self._is_gone = True
                raise
            finally:
                self._is_reading = False
                if self._has_read:
                    self._has_read.unpark_all()

    def cut_waiting(self) -> None:
        """The process has ended: a run that waits for a command, and not for the next line, is to
        learn of that now. From now on none does: the end of the pipe is near.
        """
        self._has_ended = True
        for run in self.runs.values():
            if run.due is not None:
                run.tasks.cancel_scope.cancel()

    def finish(self, run_id: str) -> None:
        """The run is over, well or not; lines for it are not expected any more."""
        self.share_cpu()
        self.runs.pop(run_id, None)

    async def _read_for_all(self, reader: Run) -> None:
        """Read once, in the task of the run `reader`, and act on what came for any run."""
        lines = await self._wire.receive()
        self._note_received(reader)
        has_begun_task = False
        most = len(lines) if self._may_wait and not self._has_ended else 0
        for number, line in enumerate(lines, 1):
            if has_begun_task or number % LINES_AT_ONCE == 0:
                # Trio starts tasks in no particular order. The checkpoint lets the last command
                # take its place in the store's queue before the next begins: they are carried out
                # in the order in which the app asked.
                await trio.lowlevel.checkpoint()
            is_last = number == most
            has_begun_task = self._take(line, reader.limits.json_depth, is_last=is_last)
        self._send_pushed(reader)
        if reader.due is not None:
            await reader.answer_due()
            self._send_pushed(reader)

    def _send_pushed(self, reader: Run) -> None:
        if not self._wire.send_pushed():
            # In a task: an app that does not read must still be read.
            reader.tasks.start_soon(reader.send, b"")

    def _note_received(self, reader: Run) -> None:
        """Something was read."""
        if self._wire.received > reader.limits.output:
            reader.count(self._wire.received - reader.output)  # including a line not yet complete

    def _take(self, line: bytes, depth_max: int, *, is_last: bool) -> bool:
        """Act on a line; `is_last`: see `Run.act`. Returns whether a task was begun."""
        named, frame = parse_named(line, depth_max)
        run = self.runs.get(named) if isinstance(named, str) else None
        if run is None and named in self._past:
            self.is_retiring = True  # the other runs must not suffer for it
            return False
        if run is None:
            raise wrong_run(line, named, *self.runs)
        if run.is_settled:
            return False
        try:
            run.count(len(line) + 1)
            if isinstance(frame, ActiveRun):
                self._active = run.id
                return False
            if isinstance(frame, Done):
                run.heap = frame.heap
                self.is_retiring = self.is_retiring or frame.must_retire
                run.settle()
                return False
            return run.act(frame, is_last=is_last)
        except SandboxFault as fault:
            run.settle(fault)
        # the reader may be another run: only this one ends
        except Exception as error:  # noqa: BLE001
            note("run", error, f"app {self._app}, run {run.id}")
            run.settle(SandboxFault(Outcome.CRASHED, INTERNAL))
        return False


@define(eq=False)
class SharedConversation(Conversation):
    """Several runs at a time. Nobody can tell from outside which of them uses the CPU; the process
    says which one it works for (`ActiveRun`).
    """

    _may_wait: ClassVar[bool] = False

    def cpu_used(self) -> float:
        """Seconds of CPU since the process last wrote something."""
        return self._cpu.since_heard

    def finish(self, run_id: str) -> None:
        """The run is over, well or not; what it may still write is ignored."""
        super().finish(run_id)
        self._past.append(run_id)

    def _note_received(self, reader: Run) -> None:  # noqa: ARG002  # whose it is, its lines say
        self.share_cpu()
        self._cpu.hear()
