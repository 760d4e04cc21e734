"""One run in progress: answers what its app asks, within its limits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import trio
from attrs import define, field, frozen

from resources.fence import fence, note

from ..config.model import Limits
from ..errors import (
    AppFailed,
    LimitHit,
    ProtocolViolation,
    SandboxFault,
    SandboxGone,
)
from ..host.pipes import Wire
from ..outcomes import Outcome
from .protocol import ConsoleLine, Failed, Frame, Request, encode_reply

BEYOND_PAUSE = 0.002  # seconds before each command beyond limits.commands_burst
INTERNAL = "internal error"
BRIEF = ("kv.", "outbound.", "log.")
"""Commands that are one exchange with the store: the task that reads may wait for them itself."""
LARGE = frozenset({"contacts.search", "groups.list", "groups.search"})
"""Commands with answers of megabytes. A run's are carried out one after the other: many at once
would fill the memory, and keep the thread for seconds."""

Reply = dict[str, Any] | None
"""The fields of the reply to what an app asks; None if it gets no reply."""

Answer = Callable[[Request | ConsoleLine], Reply | Coroutine[Any, Any, Reply]]
"""Handles what an app asks. Returns the reply, or a coroutine of it if it must be waited for."""


@frozen
class RunUse:
    """What a run that ended well has used."""

    commands: int
    cpu_seconds: float
    output_bytes: int
    calls_seconds: float  # during which at least one command was in flight


@define(eq=False)
class Run:
    """A run in progress. An unexpected error in the handling of a command ends only that command.

    Attributes:
        cpu_seconds: Its part of the process's CPU time.
        output: Bytes that the app wrote.
        heap: Bytes in V8's heap at its end, garbage included; 0: not measured.
        is_settled: Whether it is done, or at fault: it takes no more lines.
        over: Whether its replies are of no use any more.
        due: A command, and its answer to come, that the task which reads is to wait for.
    """

    id: str
    app: str  # its name, for the log
    limits: Limits
    answer: Answer
    tasks: trio.Nursery
    _wire: Wire
    cpu_seconds: float = 0.0
    output: int = 0
    heap: int = 0
    fault: SandboxFault | None = None
    is_settled: bool = False
    commands: int = 0
    calls_seconds: float = 0.0
    over: bool = False
    due: tuple[Request, Coroutine[Any, Any, Reply]] | None = field(default=None, init=False)
    _in_flight: int = field(default=0, init=False)
    _calls_since: float = field(default=0.0, init=False)  # since when any is in flight
    _waiting: deque[Request] = field(factory=deque, init=False)
    _large: trio.Lock = field(factory=trio.Lock, init=False)  # held by one of LARGE

    def settle(self, fault: SandboxFault | None = None) -> None:
        """Take no more lines: the run is done, or at fault."""
        self.is_settled = True
        self.fault = fault

    def count(self, more: int) -> None:
        """Count bytes that the app wrote. Raises LimitHit."""
        self.output += more
        if self.output > self.limits.output:
            allowed, measured = f"{self.limits.output} bytes", f"{self.output} bytes"
            raise LimitHit(Outcome.OUTPUT, "output", allowed, measured)

    def act(self, frame: Frame, *, is_last: bool = False) -> bool:
        """Act on a line; `is_last`: nothing else is to be done before the next is read, so that a
        command may be left to `answer_due`. Returns whether a task was begun.

        Raises:
            SandboxFault: The run cannot go on.
        """
        match frame:
            case Request():
                return self._begin(frame, may_wait=is_last)
            case ConsoleLine():
                coming = self._ask(frame)
                if not isinstance(coming, Coroutine):
                    return False
                self.tasks.start_soon(self._finish, frame, coming)
                return True
            case Failed(kind, text):
                is_load = kind == "load"
                raise AppFailed(
                    f"the app cannot be loaded: {text}" if is_load else text, is_load=is_load
                )
        raise ProtocolViolation("a line that belongs to the boot")

    def _begin(self, request: Request, *, may_wait: bool) -> bool:
        """Answer a command now if that takes no waiting; else begin it, or let it wait."""
        self.commands += 1
        if self.commands > self.limits.commands:
            measured = f"the next, {request.name}"
            raise LimitHit(Outcome.COMMANDS, "commands", str(self.limits.commands), measured)
        is_in_burst = self.commands <= self.limits.commands_burst
        if self._in_flight >= (self.limits.commands_in_flight if is_in_burst else 1):
            self._waiting.append(request)
            return False
        is_now = is_in_burst and not self._wire.is_full and request.name not in LARGE
        coming = self._ask(request) if is_now else None
        if coming is not None and not isinstance(coming, Coroutine):
            if not request.is_told:
                self._wire.push(self._line(request, coming))
            return False
        if not self._in_flight:
            self._calls_since = trio.current_time()
            if may_wait and coming is not None and request.name.startswith(BRIEF):
                self.due = (request, coming)
                return False
        self._in_flight += 1
        self.tasks.start_soon(self._answer, request, coming)
        return True

    async def answer_due(self) -> None:
        """Answer the command in `due`, without a task for it: most apps wait for each reply before
        they ask again. The reply is pushed.
        """
        assert self.due is not None
        request, coming = self.due
        try:
            reply = await self._finish(request, coming)
        finally:
            self.due = None
        self.calls_seconds += trio.current_time() - self._calls_since
        if reply is not None and not request.is_told:
            self._wire.push(self._line(request, reply))

    async def _answer(self, request: Request, coming: Reply | Coroutine[Any, Any, Reply]) -> None:
        """Answer a command (`coming`: its answer, if begun), then those that had to wait."""
        while True:
            if request.name in LARGE:
                async with self._large:
                    await self._answer_one(request, None)
            else:
                await self._answer_one(request, coming)
            is_beyond = self.commands > self.limits.commands_burst
            if not self._waiting or (is_beyond and self._in_flight > 1):
                self._in_flight -= 1
                if not self._in_flight:
                    self.calls_seconds += trio.current_time() - self._calls_since
                # Beyond the burst all but one of these tasks end here, which keeps the order.
                return
            if is_beyond:
                await trio.sleep(BEYOND_PAUSE)
            request, coming = self._waiting.popleft(), None

    async def _answer_one(
        self, request: Request, coming: Reply | Coroutine[Any, Any, Reply]
    ) -> None:
        if coming is None:
            coming = self._ask(request)
        reply = await self._finish(request, coming) if isinstance(coming, Coroutine) else coming
        if reply is not None and not request.is_told and not self.over:
            await self.send(self._line(request, reply))

    async def send(self, line: bytes) -> None:
        """Send a line; b"" sends what was pushed before."""
        with suppress(SandboxGone):  # the reader finds out why
            await self._wire.send(line)

    def _ask(self, asked: Request | ConsoleLine) -> Reply | Coroutine[Any, Any, Reply]:
        try:
            return self.answer(asked)
        # a fence, without the cost of one if all goes well
        except Exception as error:  # noqa: BLE001
            return self._failed(asked, error)

    async def _finish(
        self, asked: Request | ConsoleLine, coming: Coroutine[Any, Any, Reply]
    ) -> Reply:
        try:
            return await coming
        except BaseException:
            with fence("command", self._what(asked)):  # which lets a cancellation through
                raise
            return _internal(asked)

    def _line(self, request: Request, reply: dict[str, Any]) -> bytes:
        try:
            return encode_reply(self.id, request, reply)
        # half a surrogate pair, an integer beyond 64 bits ...
        except Exception as error:  # noqa: BLE001
            return encode_reply(self.id, request, self._failed(request, error) or {})

    def _failed(self, asked: Request | ConsoleLine, error: Exception) -> Reply:
        note("command", error, self._what(asked))
        return _internal(asked)

    def _what(self, asked: Request | ConsoleLine) -> str:
        name = asked.name if isinstance(asked, Request) else "a console line"
        return f"app {self.app}, run {self.id}: {name}"


def _internal(asked: Request | ConsoleLine) -> Reply:
    if isinstance(asked, ConsoleLine):
        return None
    return {"success": False, "reason": INTERNAL}
