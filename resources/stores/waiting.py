"""The commands that wait for the store, and those who wait for their answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import trio
from attrs import define, field
from outcome import Error, Value

from ..fence import note
from .direct import Command
from .errors import Unavailable

Result = Value[list[Any]] | Error


@define(eq=False)
class Waiting:
    """Commands of a caller that waits."""

    commands: Sequence[Command]
    packed: bytes
    since: float
    task: trio.lowlevel.Task | None  # None once the caller was cancelled or answered

    @property
    def is_wanted(self) -> bool:
        """Whether the caller still waits."""
        return self.task is not None

    def settle(self, result: Result) -> None:
        """Wake the caller."""
        if self.task is not None:
            task, self.task = self.task, None
            trio.lowlevel.reschedule(task, result)


@define(eq=False)
class Posted:
    """Commands of a caller that does not wait, and learns of failure only."""

    commands: Sequence[Command]
    packed: bytes
    since: float
    failed: Callable[[Exception], None]
    is_wanted: bool = True

    def settle(self, result: Result) -> None:
        """Tell of the first failure, if any."""
        error = result.error if isinstance(result, Error) else None
        if error is None:
            error = next((one for one in result.unwrap() if isinstance(one, Exception)), None)
        if isinstance(error, Exception):
            try:
                self.failed(error)
            except Exception as second:  # noqa: BLE001  # the others of the batch are to be settled, too
                note("store", second, "telling of a command that failed")


@define(eq=False)
class Line:
    """What waits to be sent, in the order in which it was asked for."""

    size: int = field(default=0, init=False)  # bytes
    queue: deque[Waiting | Posted] = field(factory=deque, init=False)

    def put(self, waiting: Waiting | Posted) -> None:
        """To the end of the line."""
        self.queue.append(waiting)
        self.size += len(waiting.packed)

    def take(self, most: int, most_bytes: int) -> deque[Waiting | Posted]:
        """The next ones, until they have so many commands or bytes; whoever was cancelled is left
        out.
        """
        batch = deque[Waiting | Posted]()
        count = size = 0
        queue = self.queue
        while queue and count < most and size < most_bytes:
            waiting = queue.popleft()
            length = len(waiting.packed)
            self.size -= length
            if waiting.is_wanted:
                batch.append(waiting)
                count += len(waiting.commands)
                size += length
        return batch

    def put_back(self, batch: deque[Waiting | Posted]) -> None:
        """Back to the front, all of it."""
        while batch:
            waiting = batch.pop()
            self.queue.appendleft(waiting)
            self.size += len(waiting.packed)

    def dismiss(self, reason: str, latest: float = float("inf")) -> None:
        """Tell those who have stood here since `latest` or longer that nothing was sent."""
        while self.queue and self.queue[0].since <= latest:
            waiting = self.queue.popleft()
            self.size -= len(waiting.packed)
            waiting.settle(Error(Unavailable(reason, sent=False)))
