"""The ends of runs on one channel, until they are told: each follows everything that its run sent.
So it waits here until all of that was read from the store, then in the line until it was handed
out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from attrs import define, evolve, field

from ..runs.jobs import nothing
from .lines import End, Line, Notice, Receiver, Taker
from .takers import Takers

KEPT_MAX = 1000  # outcomes that wait for a connection
# Outcomes of messages that no connection brought (pushes); any more are not sent.
NOTICES_MAX = 10_000


@define(eq=False)
class Notices:
    """The ends of runs on one channel."""

    _line: Line
    _takers: Takers
    _end_own: Callable[[Taker, Notice], None]
    # Of runs whose outbounds have still to be read.
    _behind: deque[Notice] = field(factory=deque, init=False)
    _kept: deque[tuple[str, Callable[[], bytes]]] = field(
        factory=lambda: deque(maxlen=KEPT_MAX), init=False
    )
    waiting: int = field(default=0, init=False)
    """Ends that are not told yet."""
    _mere: int = field(default=0, init=False)  # those that nobody's credit depends on

    def keep(self, message_id: str, frame: Callable[[], bytes]) -> None:
        """Keep an outcome for the first connection that wants outcomes."""
        self._kept.append((message_id, frame))

    def take_kept(self) -> Iterator[tuple[str, Callable[[], bytes]]]:
        """Take out the outcomes that are kept, oldest first."""
        while self._kept:
            yield self._kept.popleft()

    def ended(
        self, end: End, frame: Callable[[], bytes] | None, *, keep: bool, is_behind: bool
    ) -> None:
        """A run has ended: see `Outlet.ended`. `is_behind`: messages that it sent may still be
        unread in the store.
        """
        is_wanted = frame is not None and self._takers.want_outcome(end.message_id)
        if keep and frame is not None and not is_wanted:
            self.keep(end.message_id, frame)
        encoded = frame() if frame is not None and is_wanted else None
        for taker in self._takers.asking(end.message_id):
            self.waiting += 1
            told = End(end.after, end.message_id, nothing)
            self._end_own(taker, Notice(told, encoded, taker.receiver, is_last=False))
        own = self._takers.own(self._takers.origin_of(end.message_id))
        if own is not None:
            self.waiting += 1
            self._end_own(own, Notice(end, encoded))
            end = evolve(end, then=nothing)
        self._add(Notice(end, encoded, is_last=own is None), is_behind=is_behind)

    def tell(self, notice: Notice, to: Receiver, *, is_behind: bool) -> None:
        """As `ended`, for one connection: see `Outlet.tell`."""
        own = self._takers.own(to)
        if own is None:
            self._add(notice, is_behind=is_behind)
        else:
            self.waiting += 1
            self._end_own(own, notice)

    def _add(self, notice: Notice, *, is_behind: bool) -> None:
        self.waiting += 1
        is_empty = notice.frame is None and notice.end.then is nothing
        if not self._takers.general or is_empty or not self._may_wait(notice):
            self.close(notice, ())
        elif is_behind:
            self._behind.append(notice)
        else:
            self._line.append(notice)

    def line_up(self, last: int | None) -> None:
        """Put into the line what follows parcels up to this number, which were read; None: all."""
        while self._behind and (last is None or self._behind[0].end.after <= last):
            self._line.append(self._behind.popleft())

    def left(self, notice: Notice) -> None:
        """A notice has left the line."""
        self._mere -= notice.end.then is nothing

    def close(self, notice: Notice, takers: Sequence[Taker]) -> None:
        """Everything that a run sent was handed out: send its outcome."""
        self.waiting -= 1
        if notice.is_last:
            self._takers.forget(notice.end.message_id)
        if notice.frame is not None and notice.to is not None:
            notice.to.push(notice.frame)
        elif notice.frame is not None:
            for taker in takers:
                if taker.receiver.outcomes:
                    taker.receiver.push(notice.frame)
        notice.end.then()

    def refuse(self, notice: Notice) -> None:
        """Nobody is left to tell it to."""
        self.close(notice, ())

    def detached(self, line: Line) -> None:
        """The connection with this line has closed."""
        for notice in line.take_notices():
            self.close(notice, ())
        if not self._takers.general:
            self.drop()

    def drop(self) -> None:
        """Nobody is left to send outcomes to; only call `then` of each."""
        waiting = [*self._behind, *self._line.take_notices()]
        self._behind.clear()
        self._mere = 0
        for notice in waiting:
            self.close(notice, ())

    def _may_wait(self, notice: Notice) -> bool:
        """Count a notice that nobody's credit depends on; return False if too many wait."""
        if notice.end.then is nothing:
            if self._mere >= NOTICES_MAX:
                return False
            self._mere += 1
        return True
