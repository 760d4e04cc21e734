"""One channel's way out: from its outbox to its gateway connections, at least once and in order.

The stream in the store is the truth. The outlet has read it in the order of delivery numbers, up to
`_last`; of that it holds the parcels that wait in the line, and those handed to a connection and
not acknowledged. An announced parcel with the next number comes straight from memory. After any
gap, doubt or restart the outlet is `_behind`, and reads on from the store.

A connection that takes only replies to what it brought (`only_own`: a tester's phone) has a line of
its own. It never gets what is for others, never makes others wait, and never waits for them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import trio
from attrs import define, field

from resources.fence import note
from resources.stores.outbox import Outbox, Parcel
from resources.stores.redis import StoreError

from ..observe import Delivered, Observer
from ..runs.jobs import Then, nothing
from .acknowledged import Acknowledged
from .attempts import Attempts
from .lines import End, Item, Line, Notice, Receiver, Taker
from .notices import Notices
from .picking import Picking
from .takers import Takers, choose

READY_MAX = 1000  # parcels that wait in memory; the rest is read from the store when there is room
READY_SIZE = 4 << 20  # bytes of them
HAD_MAX = 8  # connections that may acknowledge a parcel late
PAGE = 500  # parcels
TICK = 0.5  # seconds between two looks for parcels whose acknowledgement is late
RETRY = (0.1, 2.0)  # seconds until a store that failed is asked again: first, most

log = logging.getLogger(__name__)


@define(eq=False)
class Outlet:
    """One channel's way out."""

    channel: str
    _outbox: Outbox
    _observe: Observer
    _ack_timeout: float
    on_takers: Callable[[str], None] = lambda _: None
    """Called with "g", "o" or "" when connections came or went: some take messages to anybody; none
    does, but some take replies to what they brought; there is none."""
    settled: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    """Unparked when `is_settled` may have become true."""
    _takers: Takers = field(factory=Takers, init=False)
    _line: Line = field(factory=Line, init=False)
    _items: dict[int, Item] = field(factory=dict, init=False)  # all in memory, by delivery number
    _unacked: int = field(default=0, init=False)
    _acknowledged: Acknowledged = field(init=False)
    _notices: Notices = field(init=False)
    picking: Picking = field(init=False)
    _last: int = field(default=0, init=False)  # the newest delivery number taken into memory
    _newest: int = field(default=0, init=False)  # the newest delivery number heard of
    _behind: bool = field(default=True, init=False)
    _is_closed: bool = field(default=False, init=False)
    _doubts: int = field(default=0, init=False)
    # The second look at the stream has come this far; None: it is over.
    _sweep_from: int | None = field(default=None, init=False)
    _bell: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _rung: bool = field(default=False, init=False)
    _attempts: Attempts = field(init=False)

    def __attrs_post_init__(self) -> None:
        known = self._acknowledged = Acknowledged(self.channel, self._outbox)
        out = (self.channel, self._outbox, self._takers, self._items, known)
        self.picking = Picking(*out, self._take)
        self._notices = Notices(self._line, self._takers, self.picking.end)
        self._attempts = Attempts(self.channel, self._outbox, self._items)

    # Called by others. None of this waits or raises: the caller may be an app's command or another
    # client.

    def announce(self, parcel: Parcel | None) -> None:
        """A message was posted; None: one may have been."""
        if parcel is None:
            self._fall_behind()
            return
        number = parcel.delivery
        self._newest = max(self._newest, number)
        if number <= self._last or number in self._items:
            return  # it was read meanwhile
        is_next = not self._behind and number == self._last + 1
        own = self._takers.own(self._takers.origin_of(parcel.in_reply_to))
        is_taken = own is not None or (is_next and self._has_room)
        if is_taken:
            self._take(parcel)
        if is_taken and is_next:
            self._last = number
        else:
            self._fall_behind()
        self._assign()

    def doubt(self) -> None:
        """The connection to the store was lost: the stream may hold parcels that nobody announced,
        and parcels that were struck from it before.
        """
        self._sweep_from = 0
        self.picking.doubt()
        self._fall_behind()

    def attach(self, receiver: Receiver) -> None:
        """A connection opened."""
        self._takers.add(receiver)
        self.picking.begin()
        if receiver.outcomes and not receiver.only_own:
            for message_id, frame in self._notices.take_kept():
                self.ended(message_id, frame)
        self.on_takers(self._takers.kind)
        self.wake()

    def detach(self, receiver: Receiver) -> None:
        """A connection closed: what it had not acknowledged goes to another, or waits."""
        taker = self._takers.remove(receiver)
        back = [item for item in taker.line.take_items() if not item.is_acknowledged]
        for item in self._items.values():
            if item.origin is receiver:
                item.origin = None
            if receiver in item.had:
                item.had = tuple(one for one in item.had if one is not receiver)
            if item.holder is taker:
                back.append(item)
        self._put_back(back)
        self._notices.detached(taker.line)
        self.on_takers(self._takers.kind)
        self.wake()

    def heard(self, delivery: int) -> None:
        """Another server has put a message into our outbox, with this number."""
        self.picking.heard(delivery)
        if delivery > self._last:
            self._newest = max(self._newest, delivery)
            self._fall_behind()

    def close(self) -> None:
        """All that waits is about to be another server's: forget it, and read no more until `open`.
        Nobody must be connected.
        """
        self._is_closed = True
        self._items.clear()
        self._line.take_items()
        self._fall_behind()

    def open(self) -> None:
        """Read again."""
        self._is_closed = False
        self.doubt()

    def wake(self) -> None:
        """Hand out parcels soon: something has changed that may allow it."""
        self._rung = True
        self._bell.unpark()

    def acknowledge(self, delivery: int, receiver: Receiver) -> None:
        """A client has this parcel. It must have been handed to it, but may have gone to another
        meanwhile; any other number is ignored.
        """
        item = self._items.get(delivery)
        if item is not None and receiver in item.had:
            self._forget(item)
            self._acknowledged.add(item)
            self.wake()

    def drop(self, parcel: Parcel) -> None:
        """An operator drops a parcel. Whoever has been given it may have sent it."""
        if (item := self._items.get(parcel.delivery)) is not None:
            self._forget(item)
        self._acknowledged.drop(parcel)
        self.wake()

    def _forget(self, item: Item) -> None:
        del self._items[item.number]
        item.is_acknowledged = True
        if item.holder is not None:
            self._let_go(item)

    def brought(self, message_id: str, receiver: Receiver) -> None:
        """A connection brought this message: replies go back to it if they can."""
        self._takers.brought(message_id, receiver)

    def ended(
        self,
        message_id: str,
        frame: Callable[[], bytes] | None,
        then: Then = nothing,
        *,
        keep: bool = False,
    ) -> None:
        """The run of a message ended. Once everything it sent was handed out, or at once if nobody
        takes that, send `frame` to the connections that want outcomes, and call `then`. With `keep`
        an outcome that nobody wants waits for the first connection that does.
        """
        end = End(self._newest, message_id, then)
        self._notices.ended(end, frame, keep=keep, is_behind=self._behind)
        self._assign()

    def tell(self, message_id: str, frame: bytes, to: Receiver, then: Then) -> None:
        """As `ended`, for one connection, which asks again how the run of a message ended."""
        notice = Notice(End(self._newest, message_id, then), frame, to, is_last=False)
        self._notices.tell(notice, to, is_behind=self._behind)
        self._assign()

    @property
    def unacked(self) -> int:
        """Parcels handed to a connection and not acknowledged."""
        return self._unacked

    @property
    def is_awaited(self) -> bool:
        """Whether a message that is posted now would be handed out at once."""
        return not self._behind and not self._line and self._takers.have_room

    @property
    def is_settled(self) -> bool:
        """Whether all handed out is acknowledged and struck, and all ends that can be are told."""
        is_told = not self._notices.waiting or not any(one.has_room for one in self._takers.all)
        return not self._unacked and self._acknowledged.is_struck and is_told

    async def run(self) -> None:
        """Keep parcels moving, for ever; one task per channel."""
        pause, wait = RETRY[0], 0.0
        while True:
            try:
                await self._strike()
                await self._sweep()
                await self.picking.run(self._notices.refuse, self._assign)
                await self._catch_up()
            except StoreError as error:
                if pause == RETRY[0]:  # else it is logged already
                    log.warning("channel %s: %s", self.channel, error)
                wait, pause = pause, min(pause * 2, RETRY[1])
            else:
                pause, wait = RETRY[0], 0.0
            now = trio.current_time()
            held = (item for item in self._items.values() if item.holder is not None)
            self._put_back([item for item in held if item.due <= now])
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
        await self._acknowledged.strike()
        if self.is_settled:
            self.settled.unpark_all()

    async def _sweep(self) -> None:
        """Look once more through the part of the stream that was read before: a store that went
        back in time has again what was struck. Strike once more what is known to be acknowledged;
        hand out everything else, which may be a message that another server put there.
        """
        while self._sweep_from is not None and self._may_take and self._has_room:
            begun = self._sweep_from
            page = await self._outbox.page(self.channel, begun, PAGE)
            if self._is_closed:
                break
            read_before = [parcel for parcel in page.parcels if parcel.delivery <= self._last]
            for parcel in read_before:
                if parcel in self._acknowledged:
                    self._acknowledged.drop(parcel)
                elif parcel.delivery not in self._items:
                    self._take(parcel)
            if self._sweep_from == begun:  # else there was another doubt meanwhile
                is_over = page.is_last or len(read_before) < len(page.parcels)
                self._sweep_from = None if is_over else read_before[-1].delivery
            await self._strike()

    async def _catch_up(self) -> None:
        """Read on from the stream while it may hold more, somebody takes it, and there is room."""
        while self._behind and self._may_take and self._has_room:
            doubts = self._doubts
            page = await self._outbox.page(self.channel, self._last, PAGE, self._attempts.before)
            if self._is_closed:
                break
            self._attempts.know(page.handed)
            for parcel in page.parcels:
                self._last = parcel.delivery
                if parcel.delivery not in self._items and parcel not in self._acknowledged:
                    self._take(parcel)
            self._newest = max(self._newest, self._last)
            self._behind = not page.is_last or self._doubts != doubts
            self._notices.line_up(self._last if self._behind else None)
            self._assign()

    @property
    def _may_take(self) -> bool:
        return bool(self._takers.general) and not self._is_closed

    @property
    def _has_room(self) -> bool:
        return self._line.parcels < READY_MAX and self._line.size < READY_SIZE

    def _take(self, parcel: Parcel) -> None:
        """Put a parcel into the line where it belongs; drop one that is not a message."""
        number = parcel.delivery
        if not parcel.message:
            log.error(
                "channel %s: entry %d of its outbox is not a message; it is dropped",
                self.channel, number,
            )  # fmt: skip
            self._acknowledged.drop(parcel)
            self.wake()
            return
        origin = self._takers.origin_of(parcel.in_reply_to)
        item = Item(parcel, parcel.attempts, origin, is_counted=parcel.attempts > 0)
        self._items[number] = item
        self._line_of(item).append(item)

    def _let_go(self, item: Item) -> None:
        """The holder of a parcel holds it no longer."""
        assert item.holder is not None
        item.holder.held -= 1
        item.holder.size -= item.size
        item.holder = None
        self._unacked -= 1
        if not self._unacked:
            self.settled.unpark_all()

    def _line_of(self, item: Item) -> Line:
        own = self._takers.own(item.origin)
        return self._line if own is None else own.line

    def _put_back(self, items: Iterable[Item]) -> None:
        """Put parcels that were handed out, or about to be, at the front of their lines."""
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
            for taker in list(self._takers.all):
                self._assign_line(taker.line, [taker])
            self._assign_line(self._line, self._takers.general)
        # it must not reach the command that posted, or another client
        except Exception as error:  # noqa: BLE001
            note("outlet", error, f"channel {self.channel}")
        self._attempts.note()
        if self.picking.is_due:
            self.wake()
        if self.settled and self.is_settled:
            self.settled.unpark_all()

    def _assign_line(self, line: Line, takers: Sequence[Taker]) -> None:
        while line:
            one = line.first
            if isinstance(one, Notice):
                line.pop()
                if line is self._line:
                    self._notices.left(one)
                self._notices.close(one, takers)
            elif one.is_acknowledged:
                line.pop()
            else:
                taker = choose(one, takers)
                if taker is None:
                    break
                self._hand_out(one, taker)
                line.pop()

    def _hand_out(self, item: Item, taker: Taker) -> None:
        if not self._unacked:
            self.wake()  # the task must begin to look at the clock
        attempt = item.attempt + 1
        taker.receiver.deliver(item.number, attempt, item.parcel.message)
        item.attempt, item.holder = attempt, taker
        item.due = trio.current_time() + taker.patience(attempt, self._ack_timeout)
        if taker.receiver not in item.had:
            item.had = (*item.had[1 - HAD_MAX :], taker.receiver)
        taker.held += 1
        taker.size += item.size
        self._unacked += 1
        self._attempts.count(item, in_order=not taker.receiver.only_own)
        self._observe(Delivered(self.channel, again=attempt > 1))
