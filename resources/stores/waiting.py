"""The queue of commands that wait for the store, and their callers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import trio
from attrs import define, field
from outcome import Error, Value

from ..fence import note
from .errors import Unavailable
from .resp import Command

Result = Value[list[Any]] | Error


@define(eq=False)
class Waiting:
    """Commands of a caller that waits."""

    commands: Sequence[Command]
    packed: bytes
    since: float
    task: trio.lowlevel.Task | None  # None once the caller was cancelled or answered
    is_replicated: bool = False  # replicas must have them

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
    """Commands of a caller that does not wait, and only learns of a failure."""

    commands: Sequence[Command]
    packed: bytes
    since: float
    failed: Callable[[Exception], None]
    is_wanted: bool = True
    is_replicated: bool = False

    def settle(self, result: Result) -> None:
        """Report the first failure, if any."""
        error = result.error if isinstance(result, Error) else None
        if error is None:
            error = next((one for one in result.unwrap() if isinstance(one, Exception)), None)
        if isinstance(error, Exception):
            try:
                self.failed(error)
            # the rest of the batch must be settled, too
            except Exception as second:  # noqa: BLE001
                note("store", second, "reporting a failed command")


@define(eq=False)
class Line:
    """What waits to be sent, in the order of the calls."""

    size: int = field(default=0, init=False)  # bytes
    queue: deque[Waiting | Posted] = field(factory=deque, init=False)

    def put(self, waiting: Waiting | Posted) -> None:
        """Append to the queue."""
        self.queue.append(waiting)
        self.size += len(waiting.packed)

    def take(self, most: int, most_bytes: int) -> deque[Waiting | Posted]:
        """Remove and return the next ones, up to a number of commands and bytes (the last may
        exceed it). Callers that were cancelled are dropped.
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
        """Put all of a batch back at the front; the batch is empty afterwards."""
        while batch:
            waiting = batch.pop()
            self.queue.appendleft(waiting)
            self.size += len(waiting.packed)

    def dismiss(self, reason: str, latest: float = float("inf")) -> None:
        """Fail everything queued at `latest` or before: nothing of it was sent."""
        while self.queue and self.queue[0].since <= latest:
            waiting = self.queue.popleft()
            self.size -= len(waiting.packed)
            waiting.settle(Error(Unavailable(reason, sent=False)))


def settle_all(
    batch: deque[Waiting | Posted], results: list[Any], lacking: Unavailable | None
) -> None:
    """Give each caller its own results; the batch is empty afterwards.

    Args:
        batch: The callers, in the order of their commands.
        results: Of all their commands; more may follow.
        lacking: The error for callers that need replication, if too few replicas confirmed.
    """
    end = 0
    while batch:
        waiting = batch.popleft()
        start, end = end, end + len(waiting.commands)
        if lacking is not None and waiting.is_replicated:
            waiting.settle(Error(lacking))
        else:
            waiting.settle(Value(results[start:end]))
