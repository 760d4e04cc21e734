"""Turns between apps: who goes next, and who need not wait."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from supervisor.sandboxes.fairness import Turns


async def test_nobody_waits_while_there_is_room(autojump_clock: MockClock) -> None:
    """As many as there are slots, at once."""
    turns = Turns(2, 1.0)
    taken = [await turns.take("a"), await turns.take("a")]
    assert trio.current_time() == 0
    for turn in taken:
        turns.give_back(turn)


async def test_apps_take_turns_whatever_their_numbers(autojump_clock: MockClock) -> None:
    """A message of one app waits for one of each other app at most, not for the hundred that stood
    in line before it.
    """
    turns, order = Turns(1, 10.0), list[str]()

    async def run(app: str) -> None:
        turn = await turns.take(app)
        order.append(app)
        await trio.sleep(0.1)
        turns.give_back(turn)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(run, "flood")
        await trio.sleep(0.05)
        for app in ("b", "c"):
            nursery.start_soon(run, app)
    assert sorted(order[1:4]) == ["b", "c", "flood"]
    assert order[4:] == ["flood"] * 8


async def test_a_long_turn_ends_by_itself(autojump_clock: MockClock) -> None:
    """Who runs on keeps others waiting for so long only."""
    turns = Turns(1, 0.5)
    long = await turns.take("a")
    await turns.take("b")
    assert trio.current_time() == pytest.approx(0.5)
    turns.give_back(long)
    turns.give_back(long)
    await turns.take("c")
    assert trio.current_time() == pytest.approx(1.0)


async def test_who_is_cancelled_stands_in_nobodys_way(autojump_clock: MockClock) -> None:
    """While it waits, and at the moment at which it would have been its turn."""
    turns = Turns(1, 10.0)
    first = await turns.take("a")
    with trio.move_on_after(0.1):
        await turns.take("b")

    async def run(app: str) -> None:
        turns.give_back(await turns.take(app))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, "c")
        await trio.sleep(0.1)
        turns.give_back(first)
        nursery.cancel_scope.cancel()
    await turns.take("d")
    assert trio.current_time() < 1
