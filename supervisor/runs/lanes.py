"""The waiting work of one app, in lanes. The work of one lane is done in order, one at a time;
lanes take turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from attrs import define, field

T = TypeVar("T")


@define(eq=False)
class Lanes(Generic[T]):
    """A queue of queues. No method waits."""

    _lanes: dict[Hashable, deque[T]] = field(factory=dict, init=False)
    _ready: deque[Hashable] = field(factory=deque, init=False)  # have work, none in progress
    waiting: int = field(default=0, init=False)
    in_progress: int = field(default=0, init=False)

    def put(self, lane: Hashable, item: T) -> None:
        """Add work at the end of a lane."""
        self.waiting += 1
        queue = self._lanes.get(lane)
        if queue is None:
            queue = self._lanes[lane] = deque()
            self._ready.append(lane)
        queue.append(item)

    def take(self) -> tuple[Hashable, T] | None:
        """Take the next work, with its lane; return None if there is none that may be done now.

        The lane gives no more work until `finish`.
        """
        if not self._ready:
            return None
        lane = self._ready.popleft()
        self.waiting -= 1
        self.in_progress += 1
        return lane, self._lanes[lane].popleft()

    def heads(self) -> Iterator[T]:
        """The first waiting work of each lane."""
        return (queue[0] for queue in self._lanes.values() if queue)

    def all(self) -> list[tuple[Hashable, T]]:
        """All waiting work with its lane, each lane's in order."""
        return [(lane, item) for lane, queue in self._lanes.items() for item in queue]

    def clear(self) -> list[T]:
        """Take out all waiting work, each lane's in order; work in progress is not touched."""
        items = [item for queue in self._lanes.values() for item in queue]
        for lane in self._ready:
            del self._lanes[lane]
        self._ready.clear()
        for queue in self._lanes.values():
            queue.clear()
        self.waiting = 0
        return items

    def remove(self, lane: Hashable, item: T) -> None:
        """Take out waiting work."""
        queue = self._lanes[lane]
        queue.remove(item)
        self.waiting -= 1
        if not queue and lane in self._ready:
            self._ready.remove(lane)
            del self._lanes[lane]

    def finish(self, lane: Hashable) -> None:
        """Note that the work taken from this lane is done: the lane goes to the back of the line,
        or away if it is empty.
        """
        self.in_progress -= 1
        if self._lanes[lane]:
            self._ready.append(lane)
        else:
            del self._lanes[lane]
