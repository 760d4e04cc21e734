"""Play many tests on a few benches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio
from attrs import define, field

from ..config import Config
from ..config.model import Breakage
from ..host.cpus import usable_cpus
from .bench import Bench, open_bench
from .chat import Chat
from .play import Result, play

TESTS_PER_BENCH = 60  # beyond that another one is worth its start
BENCHES_MAX = 8


def benches_for(tests: int) -> int:
    """How many benches to start for a number of tests."""
    return max(1, min(usable_cpus(), 1 + tests // TESTS_PER_BENCH, BENCHES_MAX))


@define(eq=False)
class Benches:
    """Made by `open_benches`."""

    _benches: Sequence[Bench] = field()

    @property
    def first(self) -> Bench:
        """One of them, to play what is no conversation."""
        return self._benches[0]

    async def use(self, config: Config) -> list[Breakage]:
        """See `Bench.use`."""
        found: list[Breakage] = []
        for bench in self._benches:
            found = await bench.use(config)
        return found

    async def play(
        self, chats: Sequence[Chat], tell: Callable[[Result], None], *, learn: bool = False
    ) -> list[Result]:
        """Play tests, on whichever bench is free; return the results in the order of the tests.

        Args:
            chats: The tests.
            tell: Called with each result when it is there.
            learn: See `play.play`.
        """
        results: dict[int, Result] = {}
        waiting = list(enumerate(chats))[::-1]

        async def work(bench: Bench) -> None:
            while waiting:
                number, chat = waiting.pop()
                results[number] = result = await play(bench, chat, learn=learn)
                tell(result)

        async with trio.open_nursery() as nursery:
            for bench in self._benches:
                nursery.start_soon(work, bench)
        return [results[number] for number in sorted(results)]


@asynccontextmanager
async def open_benches(config: Config, folder: Path, count: int) -> AsyncIterator[Benches]:
    """Start benches, with their data in a folder. Raises CannotStart."""
    async with AsyncExitStack() as stack:
        benches = [
            await stack.enter_async_context(open_bench(config, folder / f"bench-{number}"))
            for number in range(count)
        ]
        yield Benches(benches)
