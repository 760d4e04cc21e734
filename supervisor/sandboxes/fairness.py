"""Fair queueing between apps: if more messages come than the host can run at once, apps take turns,
however many messages each has.

A turn is the first moments of a run, when it needs the processor. A run that takes longer, or waits
for something, passes its turn on and continues. If nobody has to wait, a turn costs nothing.
"""

from __future__ import annotations

from collections import OrderedDict, deque

import trio
from attrs import define, field


@define(eq=False)
class Turns:
    """At most `slots` turns at a time, each of at most `seconds`."""

    slots: int
    seconds: float
    _taken: dict[object, float] = field(
        factory=dict, init=False
    )  # turn -> when it ends at the latest
    # by app, in the order of their turns
    _waiting: OrderedDict[str, deque[trio.Event]] = field(factory=OrderedDict, init=False)

    async def take(self, app: str) -> object:
        """Wait for a turn; `give_back` ends it. If cancelled, no turn is taken."""
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
        """The turn is over. May be called again."""
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
