"""One search process from spawn to reaped, and the questions it is working on."""

from __future__ import annotations

import logging
import math
import os
import resource
import signal
import sys
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from itertools import chain
from pathlib import Path

import msgspec
import trio
from attrs import define, field

from resources.stores.search import dialogue
from resources.stores.search.process import WORKERS
from resources.text import visible

from ..errors import SandboxGone
from ..host import oom
from ..host.lines import LineReader
from ..host.pipes import Wire
from ..host.process import Process, open_process
from .lanes import Lane, open_lanes

ARGV = (sys.executable, "-m", "resources.stores.search.process")
LINE_MAX = 64 << 20  # bytes of a line: a page of keys of any length, or groups with their queries
ANSWER_MAX = dialogue.ANSWER_MAX + LINE_MAX  # bytes of all lines of one answer
TEXT_MAX = 2000  # characters of a line of its log, or of a reason
TROUBLES_MAX = 1000  # accounts whose index cannot be built; of more it is not known which
# lines of its log: at once, and a second in the long run; more are left out
LOG_LINES, LOG_RATE = 100, 5.0
START_SECONDS = 15.0  # until it is ready
REAP_SECONDS = 1.0  # from SIGKILL, or the end of its output, to the end
STDERR_READ = 4096  # bytes at a time
STDERR_LINES = 20  # kept, the newest

log = logging.getLogger(__name__)


class Nonsense(Exception):
    """It wrote what nobody asked for, or more than any answer needs, so it may have been taken
    over.
    """


class Ended(Exception):
    """The process ended before it answered.

    Attributes:
        by_deadline: We killed it because a question took too long.
        guilty: It was this question.
        was_killed: Somebody else killed it.
    """

    def __init__(self, *, by_deadline: bool, guilty: bool, was_killed: bool) -> None:
        super().__init__()
        self.by_deadline = by_deadline
        self.guilty = guilty
        self.was_killed = was_killed


@define(eq=False)
class Question:
    """A question, from when it is sent until it is over. `on_over` is called then, even if nobody
    waits for the answer any more.
    """

    request: dialogue.Question
    deadline: float
    on_over: Callable[[], None]
    answers: list[dialogue.Reply] = field(factory=list, init=False)
    size: int = field(default=0, init=False)  # of the answers so far, in bytes
    ended: Ended | None = field(default=None, init=False)
    _over: trio.Event = field(factory=trio.Event, init=False)

    def settle(self, ended: Ended | None = None) -> None:
        """The question is over: answered, or the process ended."""
        self.ended = ended
        self._over.set()
        self.on_over()

    @property
    def is_over(self) -> bool:
        """Whether it is answered, or the process ended."""
        return self._over.is_set()

    async def wait(self) -> list[dialogue.Reply]:
        """Wait for the answer, in one or more pages. Raises Ended."""
        if not self.is_over:  # one that has come costs no pass of the event loop
            await self._over.wait()
        if self.ended is not None:
            raise self.ended
        return self.answers


@define
class _Log:
    """Passes lines of its log on to ours, if there are not too many."""

    _left: float = LOG_LINES
    _at: float = field(factory=trio.current_time)
    _left_out: int = 0

    def add(self, line: dialogue.Log) -> None:
        now = trio.current_time()
        self._left = min(self._left + (now - self._at) * LOG_RATE, LOG_LINES)
        self._at = now
        if self._left < 1:
            self._left_out += 1
            return
        self._left -= 1
        if self._left_out:
            log.warning("%d lines of the search process are left out", self._left_out)
            self._left_out = 0
        level = min(max(line.level, logging.DEBUG), logging.CRITICAL)
        log.log(level, "%s", visible(line.text[:TEXT_MAX], keep="\t\n"))


@define(eq=False)
class SearchProcess:
    """A running search process.

    Attributes:
        on_guilty: Called with a question that took too long.
        troubles: The accounts whose index cannot be built, with the reason.
    """

    process: Process
    on_guilty: Callable[[dialogue.Question], None]
    _all_lanes: Sequence[Lane]
    _nursery: trio.Nursery
    said: deque[str] = field(factory=lambda: deque(maxlen=STDERR_LINES), init=False)
    was_ready: bool = field(default=False, init=False)
    answered: int = field(default=0, init=False)
    troubles: dict[str, str] = field(factory=dict, init=False)
    _lanes: list[Lane] = field(init=False)  # those that are free; the last one is used first
    _wire: Wire = field(init=False)
    _open: OrderedDict[int, Question] = field(factory=OrderedDict, init=False)
    _overdue: Question | None = field(default=None, init=False)
    _nonsense: Exception | None = field(default=None, init=False)
    _asked: trio.Event = field(factory=trio.Event, init=False)
    _until: float = field(default=math.inf, init=False)  # until when `watch` need not look
    _log: _Log = field(factory=_Log, init=False)

    def __attrs_post_init__(self) -> None:
        self._lanes = list(self._all_lanes)
        self._wire = Wire(self.process, LineReader(LINE_MAX))

    async def ask(self, question: Question) -> list[dialogue.Reply]:
        """Send a question and wait for its answer, in one or more pages. It is answered even if the
        caller is cancelled meanwhile; `on_over` is called then. Raises Ended.
        """
        self._open[question.request.id] = question
        if question.deadline < self._until:
            self._asked.set()
        lane = self._lanes.pop()
        try:
            with self._contained():
                await lane.send(dialogue.encode(question.request) + b"\n")
                await self._finish(lane, question)
        except trio.Cancelled:
            if not question.is_over:  # the nursery is open as long as any is not
                self._nursery.start_soon(self._finish_alone, lane, question)
            raise
        return await question.wait()

    async def _finish_alone(self, lane: Lane, question: Question) -> None:
        with self._contained():
            await lane.send()
            await self._finish(lane, question)

    async def _finish(self, lane: Lane, question: Question) -> None:
        """Read a question's answer. Then, not before, the lane is free."""
        is_over = False
        while not is_over:
            for line in await lane.receive():
                if is_over:
                    raise Nonsense("more than an answer")
                is_over = self._take(question, line)
        if lane.has_rest:
            raise Nonsense("more than an answer")
        del self._open[question.request.id]
        self._lanes.append(lane)
        question.settle()

    @contextmanager
    def _contained(self) -> Iterator[None]:
        """Whatever a worker says that it should not ends the process, and `read` raises it. If it
        says nothing any more the process is about to end, or the question's deadline ends it.
        """
        try:
            yield
        except SandboxGone:
            pass
        except Exception as error:  # noqa: BLE001  # whatever it is, only this process ends
            self._nonsense = self._nonsense or error
            self.process.kill()

    async def follow(self, accounts: Sequence[str], seconds: float) -> None:
        """Say whom to follow; a process that does not read it within `seconds` is killed."""
        line = dialogue.encode(dialogue.Follow(list(accounts))) + b"\n"
        with trio.move_on_after(seconds, shield=True) as waiting, suppress(SandboxGone):
            await self._wire.send(line)
        if waiting.cancelled_caught:
            log.warning("the search process does not read what it is sent; it is killed")
            self.process.kill()

    async def begin(self, begin: dialogue.Begin) -> None:
        """Send the process its settings, and wait until it is ready, or has ended, or takes too
        long.
        """
        with trio.move_on_after(START_SECONDS), suppress(SandboxGone):
            await self._wire.send(dialogue.encode(begin) + b"\n")
            while not self.was_ready:
                await self._hear()

    async def read(self) -> None:
        """Hear what the process tells until it ends, and wait for its exit code. Raises whatever
        was wrong with what it said.
        """
        with suppress(SandboxGone):
            while True:
                await self._hear()
        with trio.move_on_after(REAP_SECONDS):
            await self.process.wait()
        if self._nonsense is not None:
            raise self._nonsense

    async def _hear(self) -> None:
        """Take what the process tells next. Raises SandboxGone."""
        for line in await self._wire.receive():
            told = dialogue.decode_told(line)
            if isinstance(told, dialogue.Log):
                self._log.add(told)
            elif isinstance(told, dialogue.Trouble):
                self._note(told)
            else:
                self.was_ready = True

    def _note(self, trouble: dialogue.Trouble) -> None:
        account = visible(trouble.account[:TEXT_MAX])
        if not trouble.reason:
            self.troubles.pop(account, None)
        elif account in self.troubles or len(self.troubles) < TROUBLES_MAX:
            self.troubles[account] = visible(trouble.reason[:TEXT_MAX])

    def _take(self, question: Question, line: bytes) -> bool:
        """Add a piece of a question's answer; return whether it was the last."""
        reply = dialogue.decode_reply(line)
        if self._open.get(reply.id) is not question:
            raise Nonsense("an answer to another question")
        question.size += len(line)
        if question.size > ANSWER_MAX:
            raise Nonsense(f"an answer of more than {ANSWER_MAX} bytes")
        if isinstance(reply, dialogue.Failed):
            reply.text = reply.text[:TEXT_MAX]
        question.answers.append(reply)
        self.answered += 1
        return not (isinstance(reply, dialogue.Keys) and reply.more)

    async def watch(self) -> None:
        """Kill the process when a question is past its deadline."""
        while True:
            # Questions come and go: this wakes up when the first deadline of those is due that were
            # open the last time, not at each of them.
            self._asked = trio.Event()
            self._until = min((one.deadline for one in self._open.values()), default=math.inf)
            with trio.move_on_at(self._until):
                await self._asked.wait()
            now = trio.current_time()
            first = min(self._open.values(), key=lambda one: one.deadline, default=None)
            if first is not None and first.deadline <= now:
                self._blame(first)
                return

    def _blame(self, question: Question) -> None:
        """End the process, because of a question that is past its deadline."""
        if _is_stopped(self.process.pid):
            log.warning("the search process was stopped from outside; it is killed")
        else:
            self._overdue = question
            self.on_guilty(question.request)
        self.process.kill()

    async def drain_stderr(self) -> None:
        """Keep the end of the process's stderr: panics of the engine."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await self.process.stderr.receive_some(STDERR_READ):
                self.said.extend(data.decode(errors="replace").splitlines())

    def end(self) -> None:
        """Kill the process, and settle every question with `Ended`. Whoever waits for an answer
        knows it at once, even if the process takes long to die.
        """
        was_killed = self.process.returncode == -signal.SIGKILL and self._nonsense is None
        self.process.kill()
        while self._open:
            _, question = self._open.popitem()
            question.settle(
                Ended(
                    by_deadline=self._overdue is not None,
                    guilty=question is self._overdue,
                    was_killed=was_killed,
                )
            )
        for lane in self._all_lanes:
            lane.close()


def _is_stopped(pid: int) -> bool:
    """Whether a signal or a debugger has stopped a process."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] in "Tt"


@asynccontextmanager
async def open_search_process(
    argv: Sequence[str],
    memory: int,
    begin: dialogue.Begin,
    on_guilty: Callable[[dialogue.Question], None],
    cwd: str = "/",
) -> AsyncIterator[SearchProcess]:
    """Start a process; `was_ready` says whether it came up. At the end it is dead and reaped, and
    every question is settled.

    Raises:
        SpawnFailed: It cannot be started.
    """
    rlimits = {resource.RLIMIT_CORE: (0, 0), resource.RLIMIT_DATA: (memory, memory)}
    # Every open index has a thread, and its stack counts as memory.
    environment = {"MALLOC_ARENA_MAX": "2", "RUST_MIN_STACK": "524288"} | {
        name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ
    }
    # the process has its own ends of the lanes until it ends; we have them until it has started
    with ExitStack() as ours, ExitStack() as theirs:
        lanes, ends = open_lanes(ours, theirs, WORKERS, LINE_MAX)
        opening = open_process(
            argv, environment, rlimits, cwd, oom_score=oom.SEARCH, pass_fds=list(chain(*ends))
        )
        async with opening as process, trio.open_nursery() as nursery:
            theirs.close()
            running = SearchProcess(process, on_guilty, lanes, nursery)
            nursery.start_soon(running.drain_stderr)
            try:
                await running.begin(msgspec.structs.replace(begin, lanes=list(ends)))
                nursery.start_soon(running.watch)
                yield running
            finally:
                running.end()
                with trio.move_on_after(REAP_SECONDS, shield=True):
                    await process.wait()
                nursery.cancel_scope.cancel()
