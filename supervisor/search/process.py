"""One search process from spawn to reaped, and the questions it is working on."""

from __future__ import annotations

import logging
import math
import os
import resource
import signal
import sys
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio
from attrs import define, field

from resources.stores.search import dialogue
from resources.text import visible

from ..errors import SandboxGone
from ..host import oom
from ..host.lines import LineReader
from ..host.pipes import Wire
from ..host.process import Process, open_process

ARGV = (sys.executable, "-m", "resources.stores.search.process")
LINE_MAX = 64 << 20  # bytes of a line: a page of keys of any length, or groups with their queries
ANSWER_MAX = dialogue.ANSWER_MAX + LINE_MAX  # bytes of all lines of one answer
TEXT_MAX = 2000  # characters of a line of its log, or of a reason
TROUBLES_MAX = 1000  # accounts whose index cannot be built; of more it is not known which
# lines of its log: at once, and a second in the long run; more are left out
LOG_LINES, LOG_RATE = 100, 5.0
READ = 512 << 10  # bytes at a time: answers are long
START_SECONDS = 15.0  # until it is ready
REAP_SECONDS = 1.0  # from SIGKILL, or the end of its output, to the end
STDERR_READ = 4096  # bytes at a time
STDERR_LINES = 20  # kept, the newest

log = logging.getLogger(__name__)


class TooMuch(Exception):
    """It says more than it ever needs to: somebody else speaks in its place."""


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
    answers: list[dialogue.Answer] = field(factory=list, init=False)
    size: int = field(default=0, init=False)  # of the answers so far, in bytes
    ended: Ended | None = field(default=None, init=False)
    _over: trio.Event = field(factory=trio.Event, init=False)

    def settle(self, ended: Ended | None = None) -> None:
        """The question is over: answered, or the process ended."""
        self.ended = ended
        self._over.set()
        self.on_over()

    async def wait(self) -> list[dialogue.Answer]:
        """Wait for the answer, in one or more pages. Raises Ended."""
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
    said: deque[str] = field(factory=lambda: deque(maxlen=STDERR_LINES), init=False)
    was_ready: bool = field(default=False, init=False)
    answered: int = field(default=0, init=False)
    troubles: dict[str, str] = field(factory=dict, init=False)
    _wire: Wire = field(init=False)
    _open: OrderedDict[int, Question] = field(factory=OrderedDict, init=False)
    _overdue: Question | None = field(default=None, init=False)
    _asked: trio.Event = field(factory=trio.Event, init=False)
    _log: _Log = field(factory=_Log, init=False)

    def __attrs_post_init__(self) -> None:
        self._wire = Wire(self.process, LineReader(LINE_MAX), READ)

    async def ask(self, question: Question) -> list[dialogue.Answer]:
        """Send a question and wait for its answer, in one or more pages. Raises Ended."""
        self._open[question.request.id] = question
        self._asked.set()
        await self.send(question.request)
        return await question.wait()

    async def send(self, request: dialogue.Request, seconds: float = math.inf) -> None:
        """Send a request. It goes out whole, even if the caller is cancelled meanwhile; a process
        that does not read it within `seconds` is killed.
        """
        self._wire.push(dialogue.encode(request) + b"\n")
        if self._wire.send_pushed():
            return
        # For a question, the wait is bounded by the deadline that `watch` keeps.
        with trio.move_on_after(seconds, shield=True) as waiting, suppress(SandboxGone):
            await self._wire.send(b"")
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
        """Pass answers on to their questions until the process ends, and wait for its exit code."""
        with suppress(SandboxGone):
            while True:
                await self._hear()
        with trio.move_on_after(REAP_SECONDS):
            await self.process.wait()

    async def _hear(self) -> None:
        """Take what the process says next. Raises SandboxGone."""
        for line in await self._wire.receive():
            answer = dialogue.decode_answer(line)
            if isinstance(answer, dialogue.Log):
                self._log.add(answer)
            elif isinstance(answer, dialogue.Trouble):
                self._note(answer)
            elif isinstance(answer, dialogue.Ready):
                self.was_ready = True
            else:
                self._take(answer, len(line))

    def _note(self, trouble: dialogue.Trouble) -> None:
        account = visible(trouble.account[:TEXT_MAX])
        if not trouble.reason:
            self.troubles.pop(account, None)
        elif account in self.troubles or len(self.troubles) < TROUBLES_MAX:
            self.troubles[account] = visible(trouble.reason[:TEXT_MAX])

    def _take(self, answer: dialogue.Reply, size: int) -> None:
        question = self._open[answer.id]
        question.size += size
        if question.size > ANSWER_MAX:
            raise TooMuch(f"an answer of more than {ANSWER_MAX} bytes")
        if isinstance(answer, dialogue.Failed):
            answer.text = answer.text[:TEXT_MAX]
        question.answers.append(answer)
        self.answered += 1
        if not (isinstance(answer, dialogue.Keys) and answer.more):
            del self._open[answer.id]
            question.settle()

    async def watch(self) -> None:
        """Kill the process when a question is past its deadline."""
        while True:
            while not self._open:  # a question may be over before this task runs again
                self._asked = trio.Event()
                await self._asked.wait()
            first = min(self._open.values(), key=lambda question: question.deadline)
            await trio.sleep_until(first.deadline)
            if first.request.id in self._open:
                if _is_stopped(self.process.pid):
                    log.warning("the search process was stopped from outside; it is killed")
                else:
                    self._overdue = first
                    self.on_guilty(first.request)
                self.process.kill()
                return

    async def drain_stderr(self) -> None:
        """Keep the end of the process's stderr: panics of the engine."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await self.process.stderr.receive_some(STDERR_READ):
                self.said.extend(data.decode(errors="replace").splitlines())

    def end(self) -> None:
        """Kill the process, and settle every question with `Ended`."""
        was_killed = self.process.returncode == -signal.SIGKILL
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
    opening = open_process(argv, environment, rlimits, cwd, oom_score=oom.SEARCH)
    async with opening as process, trio.open_nursery() as nursery:
        running = SearchProcess(process, on_guilty)
        nursery.start_soon(running.drain_stderr)
        try:
            await running.begin(begin)
            nursery.start_soon(running.watch)
            yield running
        finally:
            running.end()
            with trio.move_on_after(REAP_SECONDS, shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()
