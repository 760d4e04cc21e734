"""Long work on the event loop, in short slices so that other tasks run in between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from time import perf_counter
from typing import TypeVar

import trio
from attrs import define, field

SLICE = 0.005  # seconds

T = TypeVar("T")


@define(eq=False)
class Slices:
    """One piece of long work: call `rest` after each small step."""

    _began: float = field(factory=perf_counter, init=False)

    async def rest(self) -> None:
        """Let other tasks run, if this slice is over."""
        if perf_counter() - self._began > SLICE:
            await trio.lowlevel.checkpoint()
            self._began = perf_counter()


async def in_slices(items: Iterable[T]) -> AsyncIterator[T]:
    """Yield each item, and rest between them. Other tasks may change what `items` reads: pass a
    copy.
    """
    slices = Slices()
    for item in items:
        yield item
        await slices.rest()
