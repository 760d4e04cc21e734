"""The last line of defence: what it holds, what it lets through, and what it says."""

from __future__ import annotations

import itertools
import logging

import pytest
import trio

from resources.fence import cause_of, fence, tally
from resources.forever import keep_running


def test_an_error_is_held_counted_and_logged_cause_first(caplog: pytest.LogCaptureFixture) -> None:
    """The cause stands in the line itself, whatever groups it is wrapped in; the owner can ask for
    it.
    """
    before = tally["test"]
    with caplog.at_level(logging.ERROR), fence("test", "channel x") as caught:
        raise ExceptionGroup(
            "outer", [ExceptionGroup("inner", [ValueError("half a \ud83d\n2026 forged")])]
        )
    assert caught.error is not None
    assert tally["test"] == before + 1
    (record,) = caplog.records
    line = record.getMessage()
    assert line.startswith(
        "internal error in test (channel x): ValueError: half a \\ud83d\\n2026 forged"
    )
    assert "\n" not in line


async def test_cancellation_goes_through_and_errors_beside_it_stay() -> None:
    """A nursery that fails while it is cancelled raises both."""
    reached = False
    with trio.CancelScope() as scope:
        with fence("test") as caught:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                scope.cancel()
                try:
                    await trio.sleep_forever()
                finally:
                    raise KeyError("on the way out")
        reached = True
    assert scope.cancelled_caught
    assert not reached
    assert caught.error is not None
    assert cause_of(caught.error).startswith("KeyError: 'on the way out'")


def test_an_interrupt_goes_through() -> None:
    """Ctrl-C is nobody's error."""
    with pytest.raises(KeyboardInterrupt), fence("test"):
        raise KeyboardInterrupt


async def test_a_background_task_comes_back(autojump_clock: trio.testing.MockClock) -> None:
    """After every failure, ever later, until it is cancelled."""
    starts: list[float] = []

    async def fails() -> None:
        starts.append(trio.current_time())
        raise OSError("no")

    with trio.move_on_after(60):
        await keep_running("test", fails)
    pauses = [round(b - a, 3) for a, b in itertools.pairwise(starts)]
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert max(pauses) == 10.0
