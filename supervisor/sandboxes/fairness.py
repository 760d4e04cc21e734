"""Fair queueing between apps: where more messages come than the host can run at once, apps take
turns, whatever their numbers.

A turn is the first moments of a run, in which it wants the processor; one that lasts longer, or
waits for somebody else, gives its turn to the next and goes on. Where nobody has to wait a turn
costs nothing.
"""

from __future__ import annotations

from collections import OrderedDict, deque

import trio
from attrs import define, field


@define(eq=False)
class Turns:
    """So many turns at a time, each of so many seconds at most."""

    slots: int
    seconds: float
    # turn to when it ends at the latest
    _taken: dict[object, float] = field(factory=dict, init=False)
    _waiting: OrderedDict[str, deque[trio.Event]] = field(
        factory=OrderedDict, init=False
    )  # in the order of the apps' turns

    async def take(self, app: str) -> object:
        """Wait for a turn; `give_back` takes it again."""
        if not self._waiting and self._has_room():
            turn = object()
            self._taken[turn] = trio.current_time() + self.seconds
            return turn
        event = trio.Event()
        self._waiting.setdefault(app, deque()).append(event)
        try:
            while not event.is_set():
                with trio.move_on_at(min(self._taken.values(), default=trio.current_time())):
                    await event.wait()
                self._grant()
        except BaseException:
            self._forget(app, event)
            raise
        return event

    def give_back(self, turn: object) -> None:
        """The turn is over; once is enough."""
        if self._taken.pop(turn, None) is not None:
            self._grant()

    def _has_room(self) -> bool:
        now = trio.current_time()
        if len(self._taken) >= self.slots:
            self._taken = {turn: until for turn, until in self._taken.items() if until > now}
        return len(self._taken) < self.slots

    def _grant(self) -> None:
        while self._waiting and self._has_room():
            app, queue = self._waiting.popitem(last=False)
            event = queue.popleft()
            if queue:
                self._waiting[app] = queue  # behind all others
            self._taken[event] = trio.current_time() + self.seconds
            event.set()

    def _forget(self, app: str, event: trio.Event) -> None:
        queue = self._waiting.get(app)
        if queue is not None and event in queue:
            queue.remove(event)
            if not queue:
                del self._waiting[app]
        self.give_back(event)
