"""Who is next: the waiting work of one app, in lanes. Work in one lane is done one at a time and in
order; lanes take turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from attrs import define, field

from resources.stores.journal import Entry

T = TypeVar("T")


@define(eq=False)
class Lanes(Generic[T]):
    """A queue of queues. No method waits."""

    _lanes: dict[Hashable, deque[T]] = field(factory=dict, init=False)
    # lanes with work, none of it in hand
    _ready: deque[Hashable] = field(factory=deque, init=False)
    waiting: int = field(default=0, init=False)
    in_hand: int = field(default=0, init=False)

    def put(self, lane: Hashable, item: T) -> None:
        """Add work at the end of a lane."""
        self.waiting += 1
        queue = self._lanes.get(lane)
        if queue is None:
            queue = self._lanes[lane] = deque()
            self._ready.append(lane)
        queue.append(item)

    def take(self) -> tuple[Hashable, T] | None:
        """The next work that may be done now, with its lane; its lane is closed until `finish`."""
        if not self._ready:
            return None
        lane = self._ready.popleft()
        self.waiting -= 1
        self.in_hand += 1
        return lane, self._lanes[lane].popleft()

    def heads(self) -> Iterator[T]:
        """The first waiting work of each lane."""
        return (queue[0] for queue in self._lanes.values() if queue)

    def clear(self) -> list[T]:
        """Take out all that waits, each lane's in order; what is in progress is not touched."""
        items = [item for queue in self._lanes.values() for item in queue]
        for lane in self._ready:
            del self._lanes[lane]
        self._ready.clear()
        for queue in self._lanes.values():
            queue.clear()
        self.waiting = 0
        return items

    def finish(self, lane: Hashable) -> None:
        """The work taken from this lane is done; the lane goes to the end of the line, or away."""
        self.in_hand -= 1
        if self._lanes[lane]:
            self._ready.append(lane)
        else:
            del self._lanes[lane]


def lane_of(entry: Entry) -> Hashable:
    """Messages of one user on one channel are handled in order; so are the events of one outbound
    message.
    """
    if entry.kind == "message":
        return (entry.channel, entry.payload.get("from_addr"))
    return (entry.channel, "event", entry.payload["user_message_id"])
