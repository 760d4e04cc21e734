"""Which queries are refused, for how long, and in how much memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from resources.stores.search import CannotSearch, QueryError, dialogue
from supervisor.search.refusals import (
    REFUSED_MAX,
    REFUSED_SECONDS,
    STRIKES,
    STRIKES_SECONDS,
    Refusals,
)


def asked(query: str, account: str = "acct") -> dialogue.Find:
    return dialogue.Find(1, account, query, 5.0)


def on_a_clock(check: Callable[[MockClock, Refusals], None]) -> None:
    clock = MockClock()

    async def main() -> None:
        check(clock, Refusals())

    trio.run(main, clock=clock)


def test_a_query_is_refused_for_a_while() -> None:
    """That one, of that account, with the reason; then it is forgotten."""

    def check(clock: MockClock, refusals: Refusals) -> None:
        refusals.add(asked("é" * 60_000), "too slow")
        clock.jump(REFUSED_SECONDS - 1)
        with pytest.raises(QueryError, match="too slow"):
            refusals.check(asked("é" * 60_000))
        refusals.check(asked("é" * 59_999))
        refusals.check(asked("é" * 60_000, "other"))
        refusals.add(asked("later"), "slow, too")
        clock.jump(1)
        refusals.check(asked("é" * 60_000))
        with pytest.raises(QueryError, match="slow, too"):
            refusals.check(asked("later"))
        clock.jump(REFUSED_SECONDS)
        refusals.check(asked("later"))
        assert not refusals._refused

    on_a_clock(check)


def test_an_account_with_several_is_refused_for_a_minute_after_each() -> None:
    def check(clock: MockClock, refusals: Refusals) -> None:
        for n in range(STRIKES):
            refusals.check(asked("harmless"))
            refusals.add(asked(f"slow {n}"), "too slow")
            clock.jump(STRIKES_SECONDS)
        refusals.check(asked("harmless"))
        refusals.add(asked("slow again"), "too slow")
        with pytest.raises(CannotSearch, match="this account is refused for a minute"):
            refusals.check(asked("harmless"))
        refusals.check(asked("harmless", "other"))
        clock.jump(STRIKES_SECONDS)
        refusals.check(asked("harmless"))

    on_a_clock(check)


def test_long_queries_take_little_memory(caplog: pytest.LogCaptureFixture) -> None:
    """However many are refused, of whatever length."""
    caplog.set_level("CRITICAL")

    def check(clock: MockClock, refusals: Refusals) -> None:
        tracemalloc.start()
        try:
            for n in range(REFUSED_MAX + 10):
                refusals.add(asked(f"{n}".rjust(65_536)), "too slow")
            used, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(refusals._refused) == REFUSED_MAX
        assert used < REFUSED_MAX * 1000

    on_a_clock(check)
