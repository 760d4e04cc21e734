"""The ends of runs on one channel, until they are told: each follows everything that its run sent.
So it waits here until all of that was read from the store, then in the line until it was handed
out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from attrs import define, field

from ..runs.jobs import nothing
from .lines import Line, Notice, Taker
from .takers import Takers

KEPT_MAX = 1000  # outcomes that wait for a connection
# Outcomes of messages that no connection brought (pushes); any more are not sent.
NOTICES_MAX = 10_000


@define(eq=False)
class Notices:
    """The ends of runs on one channel."""

    _line: Line
    _takers: Takers
    # Of runs whose outbounds have still to be read.
    _behind: deque[Notice] = field(factory=deque, init=False)
    _kept: deque[tuple[str, Callable[[], bytes]]] = field(
        factory=lambda: deque(maxlen=KEPT_MAX), init=False
    )
    _mere: int = field(default=0, init=False)  # those that nobody's credit depends on

    def keep(self, message_id: str, frame: Callable[[], bytes]) -> None:
        """Keep an outcome for the first connection that wants outcomes."""
        self._kept.append((message_id, frame))

    def take_kept(self) -> Iterator[tuple[str, Callable[[], bytes]]]:
        """Take out the outcomes that are kept, oldest first."""
        while self._kept:
            yield self._kept.popleft()

    def add(self, notice: Notice, *, is_behind: bool) -> None:
        """A run has ended. `is_behind`: what it sent may have still to be read from the store."""
        is_empty = notice.frame is None and notice.then is nothing
        if not self._takers.general or is_empty or not self._may_wait(notice):
            self.close(notice, ())
        elif is_behind:
            self._behind.append(notice)
        else:
            self._line.append(notice)

    def line_up(self, last: int | None) -> None:
        """Put into the line what follows parcels up to this number, which were read; None: all."""
        while self._behind and (last is None or self._behind[0].after <= last):
            self._line.append(self._behind.popleft())

    def left(self, notice: Notice) -> None:
        """A notice has left the line."""
        self._mere -= notice.then is nothing

    def close(self, notice: Notice, takers: Sequence[Taker]) -> None:
        """Everything that a run sent was handed out: send its outcome."""
        self._takers.forget(notice.message_id)
        if notice.frame is not None:
            for taker in takers:
                if taker.receiver.outcomes:
                    taker.receiver.push(notice.frame)
        notice.then()

    def drop(self) -> None:
        """Nobody is left to send outcomes to; only call `then` of each."""
        waiting = [*self._behind, *self._line.take_notices()]
        self._behind.clear()
        self._mere = 0
        for notice in waiting:
            self.close(notice, ())

    def _may_wait(self, notice: Notice) -> bool:
        """Count a notice that nobody's credit depends on; return False if too many wait."""
        if notice.then is nothing:
            if self._mere >= NOTICES_MAX:
                return False
            self._mere += 1
        return True
