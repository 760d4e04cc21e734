"""One channel's way out: from its outbox to its gateway connections, at least once and in order.

The stream in the store is the truth. Parcels are known to the outlet in the order of their delivery
numbers, up to `_last`: those that wait in the line, and those handed to a connection and not
acknowledged. One that was announced and is the next in number comes straight from memory; after any
gap, doubt or restart the outlet is `behind`, and reads on from the store.

A connection that takes only replies to what it brought (`only_own`: a tester's phone) has a line of
its own. It never gets what is for others, and never makes others wait; nor do others make it wait.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import trio
from attrs import define, field

from resources.fence import note
from resources.stores.outbox import Outbox, Parcel, Struck
from resources.stores.redis import StoreError

from ..observe import Delivered, Observer
from ..runs.dispatcher import Then, nothing
from . import frames
from .attempts import Attempts
from .lines import Done, Item, Line, Notice, Receiver, Taker

READY_MAX = 1000  # parcels that wait in memory; the rest is read from the store when there is room
READY_SIZE = 4 << 20  # bytes of them
KEPT_MAX = 1000  # outcomes that wait for a connection
NOTICES_MAX = 10_000  # outcomes of messages that no connection brought (pushes); more are not told
HAD_MAX = 8  # connections that may acknowledge a parcel late
PAGE = 500
TICK = 0.5  # seconds between two looks for parcels whose acknowledgement is late
REPEAT_MAX = 60.0  # seconds: the waits between attempts double up to this
RETRY = (0.1, 2.0)  # seconds until a store that failed is asked again: first, most

log = logging.getLogger(__name__)


@define(eq=False)
class Outlet:
    """One channel's way out."""

    channel: str
    _outbox: Outbox
    _observe: Observer
    _ack_timeout: float
    settled: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    """Unparked when `is_settled` may have become true."""
    _takers: dict[Receiver, Taker] = field(factory=dict, init=False)
    _general: list[Taker] = field(factory=list, init=False)  # those that take anything
    _line: Line = field(factory=Line, init=False)
    # every parcel in memory, by delivery number
    _items: dict[int, Item] = field(factory=dict, init=False)
    _unacked: int = field(default=0, init=False)
    # message_id in progress to who brought it
    _origins: dict[str, Receiver] = field(factory=dict, init=False)
    _acked: list[Struck] = field(factory=list, init=False)  # not yet struck from the stream
    _is_striking: bool = field(default=False, init=False)
    _done: Done = field(factory=Done, init=False)
    # of runs whose outbounds are still to be read
    _notices: deque[Notice] = field(factory=deque, init=False)
    _kept: deque[tuple[str, Callable[[], bytes]]] = field(
        factory=lambda: deque(maxlen=KEPT_MAX), init=False
    )
    _mere_notices: int = field(default=0, init=False)  # those that nobody's credit depends on
    _last: int = field(default=0, init=False)  # the newest delivery number taken into memory
    _newest: int = field(default=0, init=False)  # the newest delivery number heard of
    _behind: bool = field(default=True, init=False)
    _doubts: int = field(default=0, init=False)
    # to where it was looked through again; None: wholly
    _sweep_from: int | None = field(default=None, init=False)
    _bell: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _rung: bool = field(default=False, init=False)
    _attempts: Attempts = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._attempts = Attempts(self.channel, self._outbox, self._items)

    # What others tell it. None of this waits or raises: an app's command, or another client, may
    # stand behind it.

    def announce(self, parcel: Parcel | None) -> None:
        """A message was posted; None: perhaps one was."""
        if parcel is None:
            self._fall_behind()
            return
        number = parcel.delivery
        self._newest = max(self._newest, number)
        if number <= self._last or number in self._items:
            return  # it was read meanwhile
        is_next = not self._behind and number == self._last + 1
        is_taken = self._own(self._origin(parcel)) is not None or (is_next and self._has_room)
        if is_taken:
            self._take(parcel)
        if is_taken and is_next:
            self._last = number
        else:
            self._fall_behind()
        self._assign()

    def doubt(self) -> None:
        """The connection to the store was lost: the stream may hold what nobody announced, and what
        was taken out of it before.
        """
        self._sweep_from = 0
        self._fall_behind()

    def attach(self, receiver: Receiver) -> None:
        """A connection is there."""
        taker = self._takers[receiver] = Taker(receiver)
        if not receiver.only_own:
            self._general.append(taker)
        while self._kept and receiver.outcomes and not receiver.only_own:
            self.ended(*self._kept.popleft())
        self.wake()

    def detach(self, receiver: Receiver) -> None:
        """A connection is gone: what it had not acknowledged goes to another, or waits."""
        taker = self._takers.pop(receiver)
        self._general = [one for one in self._general if one is not taker]
        self._origins = {
            key: origin for key, origin in self._origins.items() if origin is not receiver
        }
        back = [item for item in taker.line.take_items() if not item.is_done]
        for item in self._items.values():
            if item.origin is receiver:
                item.origin = None
            if receiver in item.had:
                item.had = tuple(one for one in item.had if one is not receiver)
            if item.holder is taker:
                back.append(item)
        self._put_back(back)
        for notice in taker.line.take_notices():
            self._close(notice, ())
        if not self._general:
            self._drop_notices()
        self.wake()

    def wake(self) -> None:
        """Something has changed: parcels may be handed out."""
        self._rung = True
        self._bell.unpark()

    def acknowledge(self, delivery: int, receiver: Receiver) -> None:
        """A client has this parcel: one that was handed to it, also if it went to another
        meanwhile. Other numbers are ignored.
        """
        item = self._items.get(delivery)
        if item is None or receiver not in item.had:
            return
        del self._items[delivery]
        item.is_done = True
        if item.holder is not None:
            self._let_go(item)
        self._acked.append(Struck(delivery, item.size, item.is_counted))
        self._done.add(item.parcel)
        self.wake()

    def brought(self, message_id: str, receiver: Receiver) -> None:
        """A connection brought this message: replies to it go back the same way where they can."""
        self._origins[message_id] = receiver

    def ended(
        self,
        message_id: str,
        frame: Callable[[], bytes] | None,
        then: Then = nothing,
        *,
        keep: bool = False,
    ) -> None:
        """The run of a message is over. Once all it sent was handed out, or at once if nobody takes
        that, `frame` goes to the connections that want outcomes, and `then` is called. With `keep`
        an outcome waits for the first one that wants it.
        """
        if keep and frame is not None and not self.wants_outcome(message_id):
            self._kept.append((message_id, frame))
            frame = None
        told = frame() if frame is not None and self.wants_outcome(message_id) else None
        own = self._own(self._origins.get(message_id))
        if own is not None:
            own.line.append(Notice(0, message_id, told, then))
            then = nothing
        notice = Notice(self._newest, message_id, told, then)
        if not self._general or (told is None and then is nothing) or not self._may_queue(notice):
            self._close(notice, ())
        elif self._behind:
            self._notices.append(notice)
        else:
            self._line.append(notice)
        self._assign()

    @property
    def unacked(self) -> int:
        """Parcels handed to a connection and not acknowledged."""
        return self._unacked

    @property
    def is_awaited(self) -> bool:
        """Whether a message that is posted now would be handed out at once."""
        return (
            not self._behind and not self._line and any(taker.has_room for taker in self._general)
        )

    @property
    def is_settled(self) -> bool:
        """Whether all that was handed out is acknowledged and struck."""
        return not (self._unacked or self._acked or self._is_striking)

    async def run(self) -> None:
        """Keep parcels moving; one task a channel."""
        pause, wait = RETRY[0], 0.0
        while True:
            try:
                await self._strike()
                await self._sweep()
                await self._catch_up()
            except StoreError as error:
                if pause == RETRY[0]:  # else it has been said
                    log.warning("channel %s: %s", self.channel, error)
                wait, pause = pause, min(pause * 2, RETRY[1])
            else:
                pause, wait = RETRY[0], 0.0
            now = trio.current_time()
            self._put_back(
                [
                    item
                    for item in self._items.values()
                    if item.holder is not None and item.due <= now
                ]
            )
            self._assign()
            await self._rest(wait)

    async def _rest(self, seconds: float) -> None:
        if seconds or self._rung:
            await trio.sleep(seconds)
        else:
            with trio.move_on_after(TICK if self._unacked else float("inf")):
                await self._bell.park()
        self._rung = False

    async def _strike(self) -> None:
        """What is acknowledged leaves the stream."""
        while self._acked:
            done, self._acked = self._acked, []
            self._is_striking = True
            try:
                await self._outbox.strike(self.channel, done)
            except BaseException:
                self._acked = done + self._acked
                raise
            finally:
                self._is_striking = False
        if self.is_settled:
            self.settled.unpark_all()

    async def _sweep(self) -> None:
        """Look through what was taken from the stream already: a store that went back in time has
        again what was struck. What is known to be acknowledged is struck once more; anything else
        goes out: it may be a message that another server put there.
        """
        while self._sweep_from is not None and self._general and self._has_room:
            begun = self._sweep_from
            page = await self._outbox.page(self.channel, begun, PAGE)
            known = [parcel for parcel in page.parcels if parcel.delivery <= self._last]
            for parcel in known:
                if parcel in self._done:
                    self._acked.append(Struck(parcel.delivery))
                elif parcel.delivery not in self._items:
                    self._take(parcel)
            if self._sweep_from == begun:  # else it was doubted once more meanwhile
                is_over = page.is_last or len(known) < len(page.parcels)
                self._sweep_from = None if is_over else known[-1].delivery
            await self._strike()

    async def _catch_up(self) -> None:
        """Read on from the stream while there may be more there, somebody to take it, and room."""
        while self._behind and self._general and self._has_room:
            doubts = self._doubts
            page = await self._outbox.page(self.channel, self._last, PAGE, self._attempts.before)
            self._attempts.know(page.handed)
            for parcel in page.parcels:
                self._last = parcel.delivery
                if parcel.delivery not in self._items and parcel not in self._done:
                    self._take(parcel)
            self._newest = max(self._newest, self._last)
            self._behind = not page.is_last or self._doubts != doubts
            while self._notices and (self._notices[0].after <= self._last or not self._behind):
                self._line.append(self._notices.popleft())
            self._assign()

    @property
    def _has_room(self) -> bool:
        return self._line.parcels < READY_MAX and self._line.size < READY_SIZE

    def _own(self, origin: Receiver | None) -> Taker | None:
        """The connection that brought a message, if it takes only the replies to what it brought."""
        return self._takers.get(origin) if origin is not None and origin.only_own else None

    def _origin(self, parcel: Parcel) -> Receiver | None:
        return None if parcel.in_reply_to is None else self._origins.get(parcel.in_reply_to)

    def _take(self, parcel: Parcel) -> None:
        """Put a parcel into the line where it belongs."""
        if not parcel.message:
            log.error(
                "channel %s: what is in its outbox as %d is no message; it is dropped",
                self.channel,
                parcel.delivery,
            )
            self._acked.append(Struck(parcel.delivery))
            self.wake()
            return
        item = Item(parcel, parcel.attempts, self._origin(parcel), is_counted=parcel.attempts > 0)
        self._items[parcel.delivery] = item
        self._line_of(item).append(item)

    def _let_go(self, item: Item) -> None:
        """A parcel is not held any more."""
        assert item.holder is not None
        item.holder.held -= 1
        item.holder.size -= len(item.parcel.message)
        item.holder = None
        self._unacked -= 1
        if not self._unacked:
            self.settled.unpark_all()

    def _line_of(self, item: Item) -> Line:
        own = self._own(item.origin)
        return self._line if own is None else own.line

    def _put_back(self, items: Iterable[Item]) -> None:
        """Parcels that were handed out, or were to be, go to the front of their lines."""
        lines: dict[Line, list[Item]] = {}
        for item in items:
            if item.holder is not None:
                self._let_go(item)
            lines.setdefault(self._line_of(item), []).append(item)
        for line, back in lines.items():
            line.put_back(back)

    def _fall_behind(self) -> None:
        self._behind = True
        self._doubts += 1
        self.wake()

    def _assign(self) -> None:
        """Hand out what is in line, in order, to connections that have room."""
        try:
            for taker in list(self._takers.values()):
                self._assign_line(taker.line, [taker])
            self._assign_line(self._line, self._general)
        except Exception as error:  # noqa: BLE001  # it must not come out of the command that posted, or of another client
            note("outlet", error, f"channel {self.channel}")
        self._attempts.note()

    def _assign_line(self, line: Line, takers: Sequence[Taker]) -> None:
        while line:
            one = line.first
            if isinstance(one, Notice):
                line.pop()
                self._mere_notices -= one.then is nothing and line is self._line
                self._close(one, takers)
            elif one.is_done:
                line.pop()
            else:
                taker = self._choose(one, takers)
                if taker is None:
                    break
                self._hand_out(one, taker)
                line.pop()

    def _choose(self, item: Item, takers: Sequence[Taker]) -> Taker | None:
        """The connection that brought the message replied to, else the one that holds least; None
        if all are full.
        """
        best = None
        for taker in takers:
            if taker.has_room:
                if taker.receiver is item.origin:
                    return taker
                if best is None or taker.held < best.held:
                    best = taker
        return best

    def _hand_out(self, item: Item, taker: Taker) -> None:
        if not self._unacked:
            self.wake()  # so that the task begins to look at the clock
        attempt = item.attempt + 1
        taker.receiver.push(frames.outbound(item.number, attempt, item.parcel.message))
        wait = min(
            self._ack_timeout * 2 ** min(attempt - 1, 10), max(REPEAT_MAX, self._ack_timeout)
        )
        item.attempt, item.holder, item.due = attempt, taker, trio.current_time() + wait
        if taker.receiver not in item.had:
            item.had = (*item.had[1 - HAD_MAX :], taker.receiver)
        taker.held += 1
        taker.size += item.size
        self._unacked += 1
        self._attempts.count(item, in_order=not taker.receiver.only_own)
        self._observe(Delivered(self.channel, again=attempt > 1))

    def wants_outcome(self, message_id: str) -> bool:
        """Whether somebody is there who wants to know how the run of a message ended."""
        origin = self._origins.get(message_id)
        return any(taker.receiver.outcomes for taker in self._general) or (
            origin is not None and origin.outcomes
        )

    def _may_queue(self, notice: Notice) -> bool:
        if notice.then is nothing:
            if self._mere_notices >= NOTICES_MAX:
                return False
            self._mere_notices += 1
        return True

    def _close(self, notice: Notice, takers: Sequence[Taker]) -> None:
        """All that a run sent was handed out: say how it ended."""
        self._origins.pop(notice.message_id, None)
        if notice.frame is not None:
            for taker in takers:
                if taker.receiver.outcomes:
                    taker.receiver.push(notice.frame)
        notice.then()

    def _drop_notices(self) -> None:
        """Nobody is left to be told."""
        waiting = [*self._notices, *self._line.take_notices()]
        self._notices.clear()
        self._mere_notices = 0
        for notice in waiting:
            self._close(notice, ())
