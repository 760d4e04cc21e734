"""Work on answers in short slices, so that no answer delays another.

Some answers take long to read although they are small: a body in one-byte chunks, a thousand gzip
members. The work on them is cut into slices of `SLICE` seconds. Each pass of the event loop has at
most one slice, over all answers of all apps; waiting apps take turns. The first `FREE` seconds of
each answer need no slice; an ordinary answer takes no more.
"""

from __future__ import annotations

from time import perf_counter
from types import TracebackType

import trio
from attrs import define, field

FREE = 0.0005  # seconds
SLICE = 0.002  # seconds


@define(eq=False)
class Pace:
    """Whether somebody works now, and which apps wait to."""

    _taken: bool = field(default=False, init=False)
    _waiting: dict[str, trio.lowlevel.ParkingLot] = field(factory=dict, init=False)

    def work(self, app: str) -> Work:
        """Return the work on one answer, to be entered with `async with` whenever there is some."""
        return Work(self, app)

    async def take(self, app: str) -> None:
        """Wait for a slice, to be given back with `give`. A cancelled wait has none."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._taken:
            self._taken = True
            return
        lot = self._waiting.setdefault(app, trio.lowlevel.ParkingLot())
        try:
            await lot.park()  # the one that wakes us leaves `_taken` set: the slice is ours
        except trio.Cancelled:
            if not lot and self._waiting.get(app) is lot:
                del self._waiting[app]
            raise

    def give(self) -> None:
        """Hand the slice to the app that has waited longest, if any."""
        while self._waiting:
            app = next(iter(self._waiting))
            lot = self._waiting.pop(app)
            woken = lot.unpark()
            if lot:
                self._waiting[app] = lot  # behind the others
            if woken:  # a lot is empty while those that were in it learn that they are cancelled
                return
        self._taken = False


@define(eq=False)
class Work:
    """The work on one answer. Inside `async with`, `rest` when `is_over` after a small step."""

    _pace: Pace
    _app: str
    _free: float = field(default=FREE, init=False)
    _ends: float = field(default=0.0, init=False)
    _slice: bool = field(default=False, init=False)

    async def enter(self) -> None:
        """Begin, or continue after `leave`."""
        if self._free <= 0:
            await self._next_slice()
        else:
            self._ends = perf_counter() + self._free

    async def leave(self) -> None:
        """Stop working, to wait for something or for good. Safe after a cancellation, and if left
        already.
        """
        if not self._slice:
            self._free = min(self._free, self._ends - perf_counter())
            return
        try:
            # Kept until this pass of the loop ends, so that nobody else's work adds to ours.
            await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            self._slice = False
            self._pace.give()

    async def __aenter__(self) -> None:
        await self.enter()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.leave()

    def is_over(self) -> bool:
        """Whether the time for this slice is up."""
        return perf_counter() > self._ends

    async def rest(self) -> None:
        """Let others work and everything else run; return when it is our turn again."""
        self._free = 0.0
        if self._slice:
            await trio.lowlevel.checkpoint()
            self._slice = False
            self._pace.give()
        await self._next_slice()

    async def _next_slice(self) -> None:
        await self._pace.take(self._app)
        self._slice = True
        self._ends = perf_counter() + SLICE
