"""The figures of the last hour: counted in steps, old ones forgotten, bounded."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from supervisor.figures import APP_STEP, BOUNDS, GAUGES, HOUR, RECENT, STEP, Figures, Series, both
from supervisor.observe import InboundAnswered, LimitNear, Phases, RunEnded
from supervisor.outcomes import Outcome


@pytest.fixture
def mock_clock() -> MockClock:
    return MockClock()


def ended(app: str, outcome: Outcome = Outcome.OK, seconds: float = 0.1) -> RunEnded:
    return RunEnded(app, "message", outcome, Phases(app=seconds))


async def test_runs_are_counted_in_the_step_of_their_end(mock_clock: MockClock) -> None:
    """Those that failed apart; one that is run again has not failed."""
    figures = Figures()
    figures(ended("a"))
    figures(ended("a", Outcome.APP_ERROR))
    mock_clock.jump(STEP)
    figures(ended("b", Outcome.SHUTDOWN))
    figures(InboundAnswered("c", "busy"))
    figures(InboundAnswered("c", "duplicate"))
    figures(LimitNear("a", "wall"))
    now = mock_clock.current_time()
    rows = figures.whole.rows(now)
    assert len(rows) == HOUR // STEP
    assert [(one.runs, one.failed, one.rejected) for one in rows[-3:]] == [
        (0, 0, 0), (2, 1, 0), (1, 0, 1),
    ]  # fmt: skip
    total = figures.whole.total(now)
    assert (total.runs, total.failed, total.rejected) == (3, 1, 1)
    assert figures.whole.total(now, 1).runs == 1
    series = figures.app("a")
    assert series is not None
    assert series.total(now).failed == 1
    assert figures.app("c") is None


async def test_rejected_messages_are_told_apart_for_some_minutes(mock_clock: MockClock) -> None:
    """By channel and code; what is kept is bounded."""
    figures = Figures()
    for _ in range(2 * RECENT // STEP):
        figures(InboundAnswered("phone", "overloaded"))
        figures(InboundAnswered("phone", "accepted"))
        mock_clock.jump(STEP)
    figures(InboundAnswered("bulk", "no_app"))
    figures(InboundAnswered("bulk", "no_app"))
    assert figures.rejections() == {
        ("phone", "overloaded"): RECENT // STEP - 1, ("bulk", "no_app"): 2,
    }  # fmt: skip
    mock_clock.jump(RECENT)
    assert figures.rejections() == {}
    assert not figures._rejections


async def test_what_is_older_than_an_hour_is_forgotten(mock_clock: MockClock) -> None:
    """After a pause of any length, too."""
    for pause in (HOUR, HOUR + STEP, 10 * HOUR, HOUR - STEP):
        series = Series(STEP)
        series.ended(mock_clock.current_time(), 0.1, failed=False)
        mock_clock.jump(pause)
        assert series.total(mock_clock.current_time()).runs == (pause < HOUR)


@pytest.mark.parametrize("seconds", [0.0005, 0.003, 0.1, 2.0, 60.0])
def test_quantiles_are_near_what_was_measured(seconds: float) -> None:
    """Within a class, which is a third wide."""
    series = Series(STEP)
    for _ in range(98):
        series.ended(0.0, seconds, failed=False)
    for _ in range(2):
        series.ended(0.0, seconds * 10, failed=False)
    found = series.total(0.0)
    assert found.p50 is not None
    assert found.p99 is not None
    if seconds > BOUNDS[0]:
        assert seconds / 1.34 < found.p50 < seconds * 1.34
    assert found.p50 < found.p99 <= BOUNDS[-1]
    assert Series(STEP).total(0.0).p50 is None


def test_a_run_longer_than_all_classes_is_as_long_as_the_last() -> None:
    series = Series(STEP)
    series.ended(0.0, 1e9, failed=True)
    assert series.total(0.0).p99 == BOUNDS[-1]


async def test_apps_have_a_bound_in_bytes(mock_clock: MockClock) -> None:
    """The one that has been idle longest makes room."""
    figures = Figures(apps_bytes=3 * Series(APP_STEP).bytes)
    for name in ("a", "b", "c", "a", "d"):
        figures(ended(name))
    assert [figures.app(name) is not None for name in "abcd"] == [True, False, True, True]


async def test_gauges_have_gaps_where_nothing_was_sampled(mock_clock: MockClock) -> None:
    figures = Figures()
    figures.sample(dict.fromkeys(GAUGES, 1.0))
    mock_clock.jump(3 * STEP)
    figures.sample(dict.fromkeys(GAUGES, 2.0))
    mock_clock.jump(STEP)
    assert figures.gauge("queue")[-6:] == [None, 1.0, None, None, 2.0, None]
    mock_clock.jump(2 * HOUR)
    assert figures.gauge("queue") == [None] * (HOUR // STEP)
    figures.sample(dict.fromkeys(GAUGES, 3.0))
    assert figures.gauge("queue") == [None] * (HOUR // STEP - 1) + [3.0]


async def test_an_observer_of_two_tells_both() -> None:
    told = list[object]()
    event = LimitNear("a", "wall")
    both(told.append, told.append)(event)
    assert told == [event, event]
