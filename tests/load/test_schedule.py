"""The schedule and the users: drawn before the start, reproducible, at the rate asked for."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from supervisor.load.campaign import Campaign, Dialogue, GiveUp, Run, Stage, Step, Think, Users
from supervisor.load.measures import Times, percentile
from supervisor.load.schedule import Arrival, UserPool, address, rate_at, schedule

TALK = Dialogue("a", 3.0, [Step(dial="*1#"), Step(send="1"), Step(send="2")])
OTHER = Dialogue("b", 1.0, [Step(send="x")])


def campaign(*stages: Stage, leave: float = 0.0) -> Campaign:
    run = Run("phone", stages, Users("+2782###", 500, 0.25), Think(4.0, 0.5), GiveUp(15.0, leave))
    return Campaign(Path("c.toml"), run, [TALK, OTHER], [], [], [])


def test_the_same_seed_draws_the_same_schedule() -> None:
    """Another seed draws another one."""
    one = campaign(Stage(100.0, 5.0, 20.0))
    assert schedule(one, 7) == schedule(one, 7)
    assert schedule(one, 7) != schedule(one, 8)


def test_sessions_come_at_the_rate_of_each_stage() -> None:
    """A Poisson process at the given rate, within four standard deviations; a ramp has more of its
    sessions at its end.
    """
    one = campaign(Stage(100.0, 20.0, 20.0), Stage(100.0, 0.0001, 40.0))
    due = [arrival.due for arrival in schedule(one, 1)]
    assert due == sorted(due)
    flat = sum(at < 100 for at in due)
    first, second = sum(100 <= at < 150 for at in due), sum(at >= 150 for at in due)
    assert abs(flat - 2000) < 4 * 2000**0.5
    assert abs(first - 500) < 4 * 500**0.5
    assert abs(second - 1500) < 4 * 1500**0.5
    assert [rate_at(one.run.stages, at) for at in (0, 150, 300)] == [
        20.0,
        pytest.approx(20.0, abs=0.01),
        0.0,
    ]


def test_weights_think_times_and_leavers_are_as_asked_for() -> None:
    """Three of four take the dialogue of weight 3; half of the think times are below the median;
    one in ten leaves at a step.
    """
    arrivals = schedule(campaign(Stage(400.0, 20.0, 20.0), leave=0.1), 3)
    share = sum(one.dialogue is TALK for one in arrivals) / len(arrivals)
    assert abs(share - 0.75) < 0.03
    talks = [one for one in arrivals if one.dialogue is TALK]
    assert median(think for one in talks for think in one.thinks) == pytest.approx(4.0, rel=0.05)
    assert abs(sum(one.leaves_at == 1 for one in talks) / len(talks) - 0.1) < 0.02
    assert all(one.leaves_at is None for one in arrivals if one.dialogue is OTHER)
    assert abs(sum(one.returning for one in arrivals) / len(arrivals) - 0.25) < 0.03


def test_a_user_is_never_in_two_conversations() -> None:
    """Known users in a session are skipped; if all are in one, there is no user."""
    pool = UserPool("+2782###", 3)
    again = Arrival(0.0, TALK, [], None, returning=True, draw=0.9)
    users = [pool.take(again) for _ in range(3)]
    assert users == ["+2782000", "+2782001", "+2782002"]
    assert pool.take(again) is None
    pool.give_back("+2782001")
    assert pool.take(again) == "+2782001"


def test_addresses_fill_the_pattern_from_the_right() -> None:
    """Digits replace the #."""
    assert [address("+27#-##", number) for number in (0, 7, 123)] == [
        "+270-00",
        "+270-07",
        "+271-23",
    ]


def test_percentiles_are_values_that_were_measured() -> None:
    """The smallest one that this share does not exceed; the warm-up is left out."""
    times = Times()
    for at, took in enumerate(range(1, 101)):
        times.add(float(at), took / 1000)
    ordered = times.measured(0.0)
    assert [percentile(ordered, share) for share in (0.5, 0.99, 0.999, 1.0)] == [
        0.05,
        0.099,
        0.1,
        0.1,
    ]
    assert times.measured(90.0) == [took / 1000 for took in range(91, 101)]
    assert percentile([], 0.5) == 0.0
