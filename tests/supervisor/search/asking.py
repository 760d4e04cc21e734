"""For tests of contact search: what counts restarts, and a question for keys."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import trio
from attrs import define

from supervisor.observe import Event, SearchRestarted
from supervisor.search import Search


@define
class Restarts:
    """Counts how often the process was started again."""

    count: int = 0

    def __call__(self, event: Event) -> None:
        self.count += isinstance(event, SearchRestarted)


async def keys(search: Search, query: str, account: str = "a") -> list[str]:
    return list(msgspec.json.decode(await search.keys_json(account, query, None)))


def pid_of(search: Search) -> int:
    assert search._running is not None
    return search._running.process.pid


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something; the test's own limit bounds it."""
    while not condition():
        await trio.sleep(0.005)
