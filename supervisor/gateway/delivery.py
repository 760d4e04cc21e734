"""What goes out over the gateway: the outlets of all channels."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio
from attrs import define, field

from resources.forever import keep_running
from resources.stores.outbox import Outbox, Parcel

from ..observe import Observer
from ..outcomes import Outcome
from ..runs.jobs import Ended, Then
from . import frames
from .outlet import Outlet


@define(eq=False)
class Deliveries:
    """The outlets of all channels. Made by `open_deliveries`; the outbox calls `announce`."""

    _nursery: trio.Nursery
    _observe: Observer
    _ack_timeout: float
    outbox: Outbox | None = field(default=None, init=False)
    on_takers: Callable[[str, str], None] | None = field(default=None, init=False)
    """Called with a channel and `Outlet.on_takers`' word, if several servers share the work."""
    _outlets: dict[str, Outlet] = field(factory=dict, init=False)

    def announce(self, channel: str, parcel: Parcel | None) -> None:
        """A message was posted to a channel; None: one may have been."""
        self.outlet(channel).announce(parcel)

    def is_awaited(self, channel: str) -> bool:
        """Whether a message that is posted to a channel now would be handed out at once."""
        outlet = self._outlets.get(channel)
        return outlet is not None and outlet.is_awaited

    def run_ended(self, ended: Ended, then: Then) -> None:
        """A run ended: its outcome follows what it sent on its own channel."""
        entry, frame = ended.entry, None
        if ended.outcome is not None:
            result = ended.outcome, ended.ms, ended.commands
            frame = partial(frames.outcome, entry.kind, entry.id, *result)
        # Messages are set aside at a start, before anybody can be connected.
        is_dead = ended.outcome is Outcome.DEAD_LETTER
        self.outlet(entry.channel).ended(entry.id, frame, then, keep=is_dead)

    def outlet(self, channel: str) -> Outlet:
        """The outlet of a channel, made when first asked for."""
        outlet = self._outlets.get(channel)
        if outlet is None:
            assert self.outbox is not None
            outlet = Outlet(channel, self.outbox, self._observe, self._ack_timeout)
            if self.on_takers is not None:
                outlet.on_takers = partial(self.on_takers, channel)
                outlet.picking.is_shared = True
            self._outlets[channel] = outlet
            self._nursery.start_soon(keep_running, "outlet", outlet.run)
        return outlet

    def drop(self, channel: str, parcel: Parcel) -> None:
        """An operator drops a parcel: it is not handed out any more."""
        self.outlet(channel).drop(parcel)

    def unacked(self, channel: str) -> int:
        """Parcels of a channel that were handed to a connection and not acknowledged."""
        outlet = self._outlets.get(channel)
        return 0 if outlet is None else outlet.unacked

    def doubt_all(self) -> None:
        """The connection to the store was lost: every stream may hold what nobody announced."""
        for outlet in list(self._outlets.values()):
            outlet.doubt()

    def look_all(self) -> None:
        """Every stream may hold newer messages that nobody announced."""
        for outlet in list(self._outlets.values()):
            outlet.announce(None)

    async def settle(self, seconds: float) -> None:
        """Wait until everything handed out is acknowledged and struck, and the ends of all runs are
        told; `seconds` at most.
        """
        with trio.move_on_after(seconds):
            for outlet in list(self._outlets.values()):
                while not outlet.is_settled:
                    await outlet.settled.park()


@asynccontextmanager
async def open_deliveries(observe: Observer, ack_timeout: float) -> AsyncIterator[Deliveries]:
    """The outlets. What is not acknowledged at the end stays in the outboxes."""
    async with trio.open_nursery() as nursery:
        deliveries = Deliveries(nursery, observe, ack_timeout)
        try:
            yield deliveries
        finally:
            nursery.cancel_scope.cancel()
