"""One search process from spawn to reaped, and the questions that it is working on."""

from __future__ import annotations

import logging
import os
import resource
import sys
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import trio
from attrs import define, field

from resources.stores.search import dialogue

from ..errors import SandboxGone
from ..host import oom
from ..host.lines import LineReader
from ..host.pipes import Wire
from ..host.process import Process, open_process

ARGV = (sys.executable, "-m", "resources.stores.search.process")
LINE_MAX = 64 << 20  # bytes of an answer: a page of keys of any length
READ = 512 << 10  # bytes at once: answers are long
START_SECONDS = 15.0
REAP_SECONDS = 1.0
STDERR_READ = 4096
STDERR_LINES = 20  # that are kept, the newest

log = logging.getLogger(__name__)


class Ended(Exception):
    """The process ended before it answered.

    Attributes:
        by_deadline: Whether it was ended, since a question took too long.
        guilty: Whether it was this one.
    """

    def __init__(self, *, by_deadline: bool, guilty: bool) -> None:
        super().__init__()
        self.by_deadline = by_deadline
        self.guilty = guilty


@define(eq=False)
class Question:
    """A question that was sent, until it is answered; `on_over` is called then, also when nobody
    waits any more.
    """

    request: dialogue.Query
    deadline: float
    on_over: Callable[[], None]
    answers: list[dialogue.Answer] = field(factory=list, init=False)
    ended: Ended | None = field(default=None, init=False)
    _over: trio.Event = field(factory=trio.Event, init=False)

    def settle(self, ended: Ended | None = None) -> None:
        """It is over: answered, or ended with the process."""
        self.ended = ended
        self._over.set()
        self.on_over()

    async def wait(self) -> list[dialogue.Answer]:
        """The answer, in one or more pages. Raises Ended."""
        await self._over.wait()
        if self.ended is not None:
            raise self.ended
        return self.answers


@define(eq=False)
class Running:
    """A process that answers. `on_guilty` is told of a question that ended it by taking too long."""

    process: Process
    on_guilty: Callable[[dialogue.Query], None]
    said: deque[str] = field(factory=lambda: deque(maxlen=STDERR_LINES), init=False)
    was_ready: bool = field(default=False, init=False)
    answered: int = field(default=0, init=False)
    _wire: Wire = field(init=False)
    _open: OrderedDict[int, Question] = field(factory=OrderedDict, init=False)
    _overdue: Question | None = field(default=None, init=False)
    _asked: trio.Event = field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._wire = Wire(self.process, LineReader(LINE_MAX), READ)

    async def ask(self, question: Question) -> list[dialogue.Answer]:
        """The answer to a question, in one or more pages. Raises Ended."""
        self._open[question.request.id] = question
        self._asked.set()
        await self.send(question.request)
        return await question.wait()

    async def send(self, request: dialogue.Request) -> None:
        """Send a line; it goes out whole, whatever becomes of the one who sends it."""
        # bounded by the deadline that `watch` keeps
        with trio.CancelScope(shield=True), suppress(SandboxGone):
            await self._wire.send(dialogue.encode(request) + b"\n")

    async def begin(self, begin: dialogue.Begin) -> None:
        """Tell the process what it is to do, and wait until it is ready, or has ended, or takes too
        long.
        """
        with trio.move_on_after(START_SECONDS), suppress(SandboxGone):
            await self._wire.send(dialogue.encode(begin) + b"\n")
            (line,) = await self._wire.receive()
            self.was_ready = isinstance(dialogue.decode_answer(line), dialogue.Ready)

    async def read(self) -> None:
        """Hand out answers until there are no more."""
        with suppress(SandboxGone):
            while True:
                for line in await self._wire.receive():
                    answer = dialogue.decode_answer(line)
                    if isinstance(answer, dialogue.Log):
                        log.log(answer.level, "%s", answer.text)
                    elif not isinstance(answer, dialogue.Ready):
                        self._take(answer)

    def _take(
        self, answer: dialogue.Keys | dialogue.Number | dialogue.Groups | dialogue.Failed
    ) -> None:
        question = self._open[answer.id]
        question.answers.append(answer)
        self.answered += 1
        if not (isinstance(answer, dialogue.Keys) and answer.more):
            del self._open[answer.id]
            question.settle()

    async def watch(self) -> None:
        """End the process when a question is past its deadline."""
        while True:
            if not self._open:
                self._asked = trio.Event()
                await self._asked.wait()
            first = min(self._open.values(), key=lambda question: question.deadline)
            await trio.sleep_until(first.deadline)
            if first.request.id in self._open:
                self._overdue = first
                self.on_guilty(first.request)
                self.process.kill()
                return

    async def drain_stderr(self) -> None:
        """Keep the end of what the process says beside its answers: panics of the engine."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await self.process.stderr.receive_some(STDERR_READ):
                self.said.extend(data.decode(errors="replace").splitlines())

    def end(self) -> None:
        """The process is over, and with it every question."""
        self.process.kill()
        while self._open:
            _, question = self._open.popitem()
            question.settle(
                Ended(by_deadline=self._overdue is not None, guilty=question is self._overdue)
            )


@asynccontextmanager
async def open_running(
    argv: Sequence[str],
    memory: int,
    begin: dialogue.Begin,
    on_guilty: Callable[[dialogue.Query], None],
    cwd: str = "/",
) -> AsyncIterator[Running]:
    """A process that was told to begin; see `was_ready`. At the end it is dead and reaped, and all
    it was asked has ended.

    Raises:
        SpawnFailed: It cannot be started.
    """
    rlimits = {resource.RLIMIT_CORE: (0, 0), resource.RLIMIT_DATA: (memory, memory)}
    # Every open index has a thread, whose stack counts as memory.
    environment = {"MALLOC_ARENA_MAX": "2", "RUST_MIN_STACK": "524288"} | {
        name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ
    }
    opening = open_process(argv, environment, rlimits, cwd, oom_score=oom.SEARCH)
    async with opening as process, trio.open_nursery() as nursery:
        running = Running(process, on_guilty)
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
