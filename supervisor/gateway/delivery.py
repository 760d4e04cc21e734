"""What goes out: from the outboxes to the gateway connections, at least once and in order.

Each channel has an outlet: the parcels known to be waiting, in the order of their delivery numbers, and those handed to a
connection and not acknowledged. The stream in Redis is the truth. A parcel that was announced and is the next in number comes
straight from memory; after any gap, doubt or restart the outlet is `behind`, and reads on from Redis.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Protocol

import trio
from attrs import define, field, frozen

from resources.stores.outbox import Outbox, Parcel
from resources.stores.redis import StoreError

from ..dispatcher import Ended, Then, nothing
from ..observe import Observer
from . import frames

READY_MAX = (
    1000  # parcels of a channel held in memory before a connection takes them; the rest is read when there is room
)
PAGE = 500
TICK = 0.5  # seconds between two looks for parcels whose acknowledgement is late
REPEAT_MAX = 60.0  # seconds: the waits between attempts double up to this
RETRY = 1.0  # seconds until an unreachable store is tried again

log = logging.getLogger(__name__)


class Receiver(Protocol):
    """A connection that takes what goes out on its channel."""

    window: int
    outcomes: bool

    def push(self, frame: bytes) -> None:
        """Queue a frame to the client; never waits."""


@frozen
class _Notice:
    """The end of a run, which follows the run's outbounds. `after`: the newest delivery number when it ended."""

    after: int
    frame: bytes | None
    then: Then


@define
class _Unacked:
    parcel: Parcel
    receiver: Receiver
    due: float


@define(eq=False)
class Outlet:
    """One channel's way out."""

    channel: str
    _outbox: Outbox
    _observer: Observer
    _ack_timeout: float
    receivers: list[Receiver] = field(factory=list, init=False)
    settled: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    """Unparked when nothing is left that was handed out and not acknowledged."""
    _ready: deque[Parcel | _Notice] = field(factory=deque, init=False)
    _unacked: dict[int, _Unacked] = field(factory=dict, init=False)
    _attempts: dict[int, int] = field(factory=dict, init=False)  # of every parcel handed out and not acknowledged
    _held: dict[Receiver, int] = field(factory=dict, init=False)  # unacknowledged parcels of each
    _origins: dict[str, Receiver] = field(factory=dict, init=False)  # message_id in hand to who brought it
    _acked: list[int] = field(factory=list, init=False)  # not yet struck from the stream
    _notices: deque[_Notice] = field(factory=deque, init=False)  # of runs whose outbounds are still to be read
    _gone: set[int] = field(factory=set, init=False)  # acknowledged while they waited to be repeated
    _last: int = field(default=0, init=False)  # the newest delivery number taken into memory
    _newest: int = field(default=0, init=False)  # the newest delivery number heard of
    _behind: bool = field(default=True, init=False)
    _doubts: int = field(default=0, init=False)
    _bell: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _rung: bool = field(default=False, init=False)

    def announce(self, parcel: Parcel | None) -> None:
        """A message was posted; None: perhaps one was."""
        self._newest = max(self._newest, parcel.delivery if parcel is not None else 0)
        if (
            parcel is not None
            and not self._behind
            and parcel.delivery == self._last + 1
            and len(self._ready) < READY_MAX
        ):
            self._ready.append(parcel)
            self._last = parcel.delivery
            self._assign()
        elif parcel is None or parcel.delivery > self._last:
            self._behind = True
            self._doubts += 1
            self._ring()

    def attach(self, receiver: Receiver) -> None:
        """A connection is there."""
        self.receivers.append(receiver)
        self._held[receiver] = 0
        self._ring()

    def detach(self, receiver: Receiver) -> None:
        """A connection is gone: what it had not acknowledged goes to another, or waits."""
        self.receivers.remove(receiver)
        lost = sorted(number for number, held in self._unacked.items() if held.receiver is receiver)
        self._repeat(lost)
        del self._held[receiver]
        self._origins = {key: origin for key, origin in self._origins.items() if origin is not receiver}
        self._ring()

    def wake(self) -> None:
        """A connection that was not free is free again."""
        self._ring()

    def acknowledge(self, delivery: int, _: Receiver) -> None:
        """A client has this parcel. Numbers that are not known are ignored: a parcel may be acknowledged twice."""
        if delivery not in self._attempts:
            return
        del self._attempts[delivery]
        held = self._unacked.pop(delivery, None)
        if held is None:
            self._gone.add(delivery)
        elif held.receiver in self._held:
            self._held[held.receiver] -= 1
        self._acked.append(delivery)
        if not self._unacked:
            self.settled.unpark_all()
        self._ring()

    def brought(self, message_id: str, receiver: Receiver) -> None:
        """A connection brought this message: replies to it go back the same way where they can."""
        self._origins[message_id] = receiver

    def ended(self, message_id: str, frame: bytes | None, then: Then = nothing) -> None:
        """The run of a message is over. Once all it sent was handed out, `frame` goes to the connections that want outcomes, and
        `then` is called.
        """
        self._origins.pop(message_id, None)
        notice = _Notice(self._newest, frame, then)
        if self._behind and self.receivers:
            self._notices.append(notice)
        else:
            self._ready.append(notice)
            self._assign()

    @property
    def unacked(self) -> int:
        """Parcels handed to a connection and not acknowledged."""
        return len(self._unacked)

    async def run(self) -> None:
        """Keep parcels moving; one task a channel."""
        while True:
            try:
                await self._strike()
                await self._catch_up()
            except StoreError as error:
                log.warning("channel %s: %s", self.channel, error)
                await trio.sleep(RETRY)
                continue
            self._repeat(sorted(n for n, held in self._unacked.items() if held.due <= trio.current_time()))
            self._assign()
            if self._rung:
                await trio.lowlevel.checkpoint()
            else:
                with trio.move_on_after(TICK if self._unacked else float("inf")):
                    await self._bell.park()
            self._rung = False

    async def _strike(self) -> None:
        """What is acknowledged leaves the stream."""
        if self._acked:
            done, self._acked = self._acked, []
            try:
                await self._outbox.acknowledge(self.channel, done)
            except BaseException:
                self._acked += done
                raise

    async def _catch_up(self) -> None:
        """Read on from the stream while there may be more there, somebody to take it, and room."""
        while self._behind and self.receivers and len(self._ready) < READY_MAX:
            doubts = self._doubts
            page = await self._outbox.after(self.channel, self._last, PAGE)
            self._ready.extend(page)
            if page:
                self._last = page[-1].delivery
            self._behind = len(page) == PAGE or self._doubts != doubts
            while self._notices and (self._notices[0].after <= self._last or not self._behind):
                self._ready.append(self._notices.popleft())
            self._assign()

    def _assign(self) -> None:
        """Hand out what is ready, in order, to connections that have room."""
        while self._ready:
            item = self._ready[0]
            if isinstance(item, _Notice):
                for receiver in self.receivers:
                    if receiver.outcomes and item.frame is not None:
                        receiver.push(item.frame)
                item.then()
            elif item.delivery in self._gone:
                self._gone.discard(item.delivery)
            elif not self._hand_out(item):
                break
            self._ready.popleft()

    def _hand_out(self, parcel: Parcel) -> bool:
        receiver = self._choose(parcel)
        if receiver is None:
            return False
        attempt = self._attempts[parcel.delivery] = self._attempts.get(parcel.delivery, 0) + 1
        wait = min(self._ack_timeout * 2 ** min(attempt - 1, 10), max(REPEAT_MAX, self._ack_timeout))
        if not self._unacked:
            self._ring()  # so that the task begins to look at the clock
        self._unacked[parcel.delivery] = _Unacked(parcel, receiver, trio.current_time() + wait)
        self._held[receiver] += 1
        receiver.push(frames.outbound(parcel.delivery, attempt, parcel.message))
        self._observer.delivered(self.channel, again=attempt > 1)
        return True

    def _choose(self, parcel: Parcel) -> Receiver | None:
        """The connection that brought the message replied to, else the one with the least in hand."""
        origin = self._origins.get(parcel.in_reply_to or "")
        if origin is not None and self._held[origin] < origin.window:
            return origin
        free = [receiver for receiver in self.receivers if self._held[receiver] < receiver.window]
        return min(free, key=lambda receiver: self._held[receiver]) if free else None

    def _repeat(self, deliveries: Iterable[int]) -> None:
        """Put parcels that were handed out back to the front of the line."""
        back = [self._unacked.pop(number) for number in deliveries]
        for held in reversed(back):
            if held.receiver in self._held:
                self._held[held.receiver] -= 1
            self._ready.appendleft(held.parcel)
        if not self._unacked:
            self.settled.unpark_all()

    def _ring(self) -> None:
        self._rung = True
        self._bell.unpark()


@define(eq=False)
class Deliveries:
    """The outlets of all channels. Made by `open_deliveries`; `announce` is what the outbox calls."""

    _nursery: trio.Nursery
    _observer: Observer
    _ack_timeout: float
    outbox: Outbox | None = field(default=None, init=False)
    _outlets: dict[str, Outlet] = field(factory=dict, init=False)

    def announce(self, channel: str, parcel: Parcel | None) -> None:
        """A message was posted to a channel; None: perhaps one was."""
        self.outlet(channel).announce(parcel)

    def run_ended(self, ended: Ended, then: Then) -> None:
        """A run has ended: its outcome follows what it sent on its own channel."""
        entry, frame = ended.entry, None
        if ended.outcome is not None:
            frame = frames.outcome(entry.kind, entry.id, ended.outcome, ended.ms, ended.commands)
        self.outlet(entry.channel).ended(entry.id, frame, then)

    def outlet(self, channel: str) -> Outlet:
        """The outlet of a channel."""
        outlet = self._outlets.get(channel)
        if outlet is None:
            assert self.outbox is not None
            outlet = self._outlets[channel] = Outlet(channel, self.outbox, self._observer, self._ack_timeout)
            self._nursery.start_soon(outlet.run)
        return outlet

    def unacked(self, channel: str) -> int:
        """Parcels of a channel that were handed to a connection and not acknowledged."""
        outlet = self._outlets.get(channel)
        return 0 if outlet is None else outlet.unacked

    def doubt_all(self) -> None:
        """After a lost connection to the store: every stream may hold what nobody announced."""
        for outlet in self._outlets.values():
            outlet.announce(None)

    async def settle(self, seconds: float) -> None:
        """Wait until all that was handed out is acknowledged and struck, at most so long."""
        with trio.move_on_after(seconds):
            for outlet in self._outlets.values():
                while outlet.unacked:
                    await outlet.settled.park()


@asynccontextmanager
async def open_deliveries(observer: Observer, ack_timeout: float) -> AsyncIterator[Deliveries]:
    """The outlets; what is not acknowledged at the end stays in the outboxes."""
    async with trio.open_nursery() as nursery:
        deliveries = Deliveries(nursery, observer, ack_timeout)
        try:
            yield deliveries
        finally:
            nursery.cancel_scope.cancel()
