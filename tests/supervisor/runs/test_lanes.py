"""Lanes: order within one, turns among many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisor.runs.lanes import Lanes


def test_one_at_a_time_and_in_order() -> None:
    """The second of a lane waits until the first is finished."""
    lanes: Lanes[int] = Lanes()
    lanes.put("a", 1)
    lanes.put("a", 2)
    assert lanes.take() == ("a", 1)
    assert lanes.take() is None
    lanes.finish("a")
    assert lanes.take() == ("a", 2)
    lanes.finish("a")
    assert (lanes.waiting, lanes.in_progress, lanes.take()) == (0, 0, None)


def test_a_busy_lane_does_not_starve_the_others() -> None:
    """After one piece of work a lane goes to the end of the line."""
    lanes: Lanes[int] = Lanes()
    for n in range(3):
        lanes.put("busy", n)
    lanes.put("other", 9)
    order = []
    while (taken := lanes.take()) is not None:
        order.append(taken)
        lanes.finish(taken[0])
    assert order == [("busy", 0), ("other", 9), ("busy", 1), ("busy", 2)]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans())))
def test_whatever_happens_each_lane_keeps_its_order(steps: list[tuple[int, bool]]) -> None:
    """Random puts, takes and finishes: every lane's work comes out once, in order, one at a
    time.
    """
    lanes: Lanes[int] = Lanes()
    put: dict[int, list[int]] = {}
    taken: dict[int, list[int]] = {}
    in_progress: list[int] = []
    for n, (lane, finish) in enumerate(steps):
        lanes.put(lane, n)
        put.setdefault(lane, []).append(n)
        if finish and in_progress:
            lanes.finish(in_progress.pop(0))
        if (found := lanes.take()) is not None:
            assert found[0] not in in_progress
            in_progress.append(found[0])  # type: ignore[arg-type]
            taken.setdefault(found[0], []).append(found[1])  # type: ignore[arg-type]
    for lane, items in taken.items():
        assert items == put[lane][: len(items)]
    assert lanes.waiting == len(steps) - sum(map(len, taken.values()))
    assert lanes.in_progress == len(in_progress)
