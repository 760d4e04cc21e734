"""Long work on the event loop in short slices, so that nobody waits for it."""

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
    """One piece of long work: `rest` after each small step lets everybody else run when a slice is
    over.
    """

    _began: float = field(factory=perf_counter, init=False)

    async def rest(self) -> None:
        """Let others run, if this slice is over."""
        if perf_counter() - self._began > SLICE:
            await trio.lowlevel.checkpoint()
            self._began = perf_counter()


async def in_slices(items: Iterable[T]) -> AsyncIterator[T]:
    """Each item, with rests between them. What `items` looks at may be changed by others meanwhile:
    give a copy.
    """
    slices = Slices()
    for item in items:
        yield item
        await slices.rest()
