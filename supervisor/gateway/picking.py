"""Replies to connections that take nothing else, if other servers put them into our outbox: they
are picked out of the stream, past all that waits there for others. What this server's own runs post
comes to them from memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import define, field

from resources.stores.outbox import Outbox, Parcel

from .acknowledged import Acknowledged
from .lines import Item, Notice, Taker
from .takers import Takers

PAGE = 500  # parcels


@define(eq=False)
class Picking:
    """Picks replies out of one channel's stream. `run` does the work; nothing else waits.

    Attributes:
        is_shared: Other servers put messages there; else there is nothing to do.
        is_due: `run` has something to do.
    """

    _channel: str
    _outbox: Outbox
    _takers: Takers
    _items: Mapping[int, Item]
    _acknowledged: Acknowledged
    _take: Callable[[Parcel], None]
    is_shared: bool = field(default=False, init=False)
    is_due: bool = field(default=False, init=False)
    # The stream was read up to here; None: from where on is not known yet.
    _read_to: int | None = field(default=None, init=False)
    _heard: int | None = field(default=None, init=False)  # the first number heard of since
    _ends: list[tuple[Taker, Notice]] = field(factory=list, init=False)

    def begin(self) -> None:
        """A connection that takes only such replies has opened."""
        self.is_due = self.is_shared

    def doubt(self) -> None:
        """The stream may hold what it did not when it was read."""
        if self._read_to is not None:
            self._read_to, self.is_due = 0, True

    def heard(self, delivery: int) -> None:
        """Another server has put a message there."""
        if self._takers.have_own:
            self.is_due = True
            if self._heard is None:
                self._heard = delivery

    def end(self, taker: Taker, notice: Notice) -> None:
        """A run has ended, maybe on another server: tell that after what it sent."""
        if self.is_shared:
            self._ends.append((taker, notice))
            self.is_due = True
        else:
            taker.line.append(notice)

    async def run(self, refuse: Callable[[Notice], None], assign: Callable[[], None]) -> None:
        """If it is due: pick what there is, then line up the ends of before, or `refuse` those
        whose connection has closed; then call `assign`. Raises StoreError.
        """
        while self.is_due:
            self.is_due = False
            ends, self._ends = self._ends, []
            try:
                if self._takers.have_own:
                    await self._pick()
                else:
                    self._read_to = self._heard = None
            except BaseException:
                self.is_due, self._ends = True, ends + self._ends
                raise
            for taker, notice in ends:
                if self._takers.has(taker):
                    taker.line.append(notice)
                else:
                    refuse(notice)
            assign()

    async def _pick(self) -> None:
        if self._read_to is None:
            newest = (await self._outbox.waits(self._channel)).newest
            self._read_to = newest if self._heard is None else min(newest, self._heard - 1)
        is_last = False
        while not is_last:
            page = await self._outbox.page(self._channel, self._read_to, PAGE)
            for parcel in page.parcels:
                self._read_to = max(self._read_to, parcel.delivery)
                if parcel.delivery not in self._items and parcel not in self._acknowledged:
                    origin = self._takers.origin_of(parcel.in_reply_to)
                    if self._takers.own(origin) is not None:
                        self._take(parcel)
            is_last = page.is_last
