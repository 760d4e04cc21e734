"""Who gets which process: the deciding step by itself, with processes that are only said to be
there.
"""

from __future__ import annotations

import pytest
from attrs import evolve

from supervisor.sandboxes.slots import State

from .fake_host import Host, app


def test_the_process_that_was_used_last_is_used_next() -> None:
    """Those that are not needed grow old."""
    a = app()
    host = Host.of(5, a)
    first, second = host.lend(a), host.lend(a)
    for slot in list(host.starts):
        host.boot(slot)
    host.give_back(second)
    host.give_back(first)
    assert host.lend(a).slot is first.slot


def test_an_app_at_the_hosts_limit_gets_the_process_of_another_that_becomes_idle_later() -> None:
    """Whoever frees it: nothing could be ended when it asked."""
    a, b = app(), app("b")
    host = Host.of(1, a, b)
    of_a = host.lend(a)
    host.boot(host.starts[0])
    of_b = host.lend(b)
    assert (host.starts, host.ends) == ([], [])
    assert host.give_back(of_a).ended == [of_a.slot]
    assert host.starts == []  # the process is there until it is reaped
    host.reap(host.ends[0])
    host.boot(host.starts[0])
    assert of_b.slot is not None
    assert host.live("a") == []


def test_a_process_that_ends_by_itself_or_does_not_come_up_frees_its_room() -> None:
    """Whatever the way in which the room becomes free."""
    a, b = app(), app("b")
    host = Host.of(1, a, b)
    of_a, of_b = host.lend(a), host.lend(b)
    assert host.fail(host.starts[0])
    assert of_a.failure is not None
    (slot,) = host.starts
    assert slot.app is b
    of_a = host.lend(a)
    host.boot(slot)
    assert of_b.slot is slot
    host.do(host.state.ended(slot, host.now))  # it crashes
    assert host.starts[0].app is a


def test_apps_that_share_one_process_take_turns() -> None:
    """Neither starves, however much the other has to do: the one that has waited longer comes
    first.
    """
    a, b = app(max_processes=4), app("b", max_processes=4)
    host = Host.of(1, a, b)
    served: list[str] = []
    for _ in range(4):
        host.lend(a)
    host.lend(b)
    for _ in range(60):
        if host.starts:
            host.boot(host.starts[0])
        elif host.ends:
            host.reap(host.ends[0])
        else:
            (request,) = host.runs
            served.append(request.app.name)
            host.lend(a)  # there is always more of it
            if request.app is b:
                host.lend(b)
            host.give_back(request)
    assert served[:6] == ["a", "a", "a", "a", "b", "a"]
    assert served.count("b") >= 3


def test_processes_with_several_runs_do_not_starve_others() -> None:
    """One that is never idle takes no more runs while another app waits for room on the host."""
    a, b = app(messages_in_flight=4, max_processes=1), app("b")
    host = Host.of(1, a, b)
    runs = [host.lend(a)]
    host.boot(host.starts[0])
    runs += [host.lend(a), host.lend(a)]
    assert {request.slot for request in runs} == {runs[0].slot}
    of_b = host.lend(b)
    late = host.lend(a)
    assert late.slot is None
    for request in runs:
        host.give_back(request)
    host.reap_all()
    host.boot(host.starts[0])
    assert of_b.slot is not None
    host.give_back(of_b)
    host.reap_all()
    host.boot(host.starts[0])
    assert late.slot is not None


def test_a_run_that_waits_out_a_pause_and_a_later_one_get_the_process_once_each() -> None:
    """What an older run finds is its own, though a later one was due before it."""
    a = app(messages_in_flight=2, max_processes=1)
    host = Host.of(1, a)
    host.pauses["a"] = 5.0
    paused = host.lend(a)
    host.pauses.clear()
    due = host.lend(a)
    host.boot(host.starts[0])
    assert paused.slot is due.slot is not None
    assert due.slot.lent == 2


def test_a_waiter_that_can_share_after_all_keeps_nobody_from_sharing() -> None:
    """Only a run that really waits for room claims a busy process."""
    a, b = (
        app(messages_in_flight=2, max_processes=2),
        app("b", messages_in_flight=2, max_processes=2),
    )
    host = Host.of(2, a, b)
    for one in (a, b):
        host.lend(one)
        host.boot(host.starts[0])
    assert host.lend(a).slot is not None
    assert host.lend(b).slot is not None


def test_a_warm_start_counts_and_whoever_waits_gets_it() -> None:
    """max_processes holds against min_idle: a message that comes while the warm one boots waits for
    that.
    """
    a = app(min_idle=1, max_processes=1)
    host = Host.of(5, a)
    host.do(host.state.warm(a, host.now, 10))
    request = host.lend(a)
    assert len(host.starts) == 1
    host.do(host.state.warm(a, host.now, 10))
    assert len(host.starts) == 1
    host.boot(host.starts[0])
    assert request.slot is not None


def test_whoever_waits_for_a_warm_start_is_told_that_it_failed() -> None:
    """And the next warm one is tried after a while, not in a loop."""
    a = app(min_idle=1, max_processes=1)
    host = Host.of(5, a)
    host.do(host.state.warm(a, host.now, 10))
    request = host.lend(a)
    assert host.fail(host.starts[0])
    assert request.failure is not None
    assert host.starts == []
    host.do(host.state.warm(a, host.now, 10))
    host.now += 9.9
    host.do(host.state.warm(a, host.now, 10))
    assert host.starts == []
    host.now += 0.2
    host.do(host.state.warm(a, host.now, 10))
    assert len(host.starts) == 1
    assert not host.fail(host.starts[0])  # nobody waited


def test_a_spare_process_counts_and_makes_room() -> None:
    """It is adopted by an app of its kind, and ended for one of another."""
    a, b = app(max_processes=1), app("b")
    host = Host.of(3, a, b)
    host.spare_kind = {"a"}
    slot = host.state.start_spare(a)
    assert slot is not None
    host.starts.append(slot)
    host.boot(slot)
    of_b = [host.lend(b), host.lend(b)]
    assert host.state.start_spare(a) is None  # the last place is left to those who need it
    of_a = host.lend(a)
    assert host.adoptions == [slot]
    assert host.lend(a).slot is None  # max_processes holds
    host.boot(slot)
    assert of_a.slot is slot
    assert len(host.live()) == 3
    assert all(request.slot is None for request in of_b)


@pytest.mark.parametrize("is_booted", [True, False])
def test_a_spare_of_no_use_is_ended_for_whoever_needs_its_room(is_booted: bool) -> None:
    """Also while it boots: that may take long."""
    b = app("b", max_processes=5)
    host = Host.of(2, b)
    host.spare_kind = set()
    slot = host.state.start_spare(b)
    assert slot is not None
    host.starts.append(slot)
    if is_booted:
        host.boot(slot)
    host.lend(b)
    host.lend(b)
    assert host.ends == [slot]
    host.reap_all()
    assert len(host.starts) == 2


def test_a_reload_answers_whoever_waits() -> None:
    """With a reason if the app is gone; else the run gets a process of the generation that it
    knows.
    """
    a, b, c = app(max_processes=1), app("b"), app("c")
    host = Host.of(2, a, b, c)
    busy = [host.lend(a), host.lend(b)]
    for slot in list(host.starts):
        host.boot(slot)
    waits = host.lend(a), host.lend(b), host.lend(c)
    changed = app(source="// other")
    host.update(changed, b)
    assert [request.failure is None for request in waits] == [True, True, False]
    assert "no app c any more" in str(waits[2].failure)
    assert "no app c any more" in str(host.lend(c).failure)
    new = host.lend(changed)
    for _ in range(4):
        for request in busy:
            if request in host.runs:
                host.give_back(request)
        host.reap_all()
        for slot in list(host.starts):
            host.boot(slot)
        busy = [request for request in waits if request.slot is not None]
    assert waits[0].slot is not None
    assert waits[0].slot.app is a
    assert new.slot is not None
    assert new.slot.app is changed


def test_a_run_of_an_older_generation_does_not_wait_for_ever() -> None:
    """It was begun before the reload and asks when the app has all that it may: an idle process of
    the new one makes room.
    """
    a, changed = app(max_processes=1), app(max_processes=1, source="// other")
    host = Host.of(5, changed)
    first = host.lend(changed)
    host.boot(host.starts[0])
    old = host.lend(a)
    host.give_back(first)
    assert old.slot is None
    host.reap_all()
    host.boot(host.starts[0])
    assert old.slot is not None
    host.give_back(old)
    assert host.live("a") == host.ends  # it takes no more runs


def test_fewer_processes_after_a_reload() -> None:
    """What is idle and too many ends at once, what is busy when its run has ended; new ones are as
    many as may be.
    """
    a = app(max_processes=4)
    host = Host.of(10, a)
    runs = [host.lend(a) for _ in range(4)]
    for slot in list(host.starts):
        host.boot(slot)
    host.give_back(runs[0])
    host.give_back(runs[1])
    host.update(evolve(a, pool=evolve(a.pool, max_processes=1)))
    host.reap_all()
    assert len(host.live("a")) == 2
    host.give_back(runs[2])
    host.reap_all()
    assert host.all(State.BUSY) == [runs[3].slot]
    host.give_back(runs[3])
    assert host.all(State.IDLE) == [runs[3].slot]


def test_a_run_that_no_longer_waits_leaves_nothing() -> None:
    """Its start is cut off, unless another run waits for it; a process that it had by then is as it
    was.
    """
    a = app()
    host = Host.of(5, a)
    first, second = host.lend(a), host.lend(a)
    one, other = host.starts
    host.waits.remove(first)
    host.do(host.state.withdraw(first, host.now))
    assert host.ends == [other]
    host.boot(one)
    assert second.slot is one
    host.runs.remove(second)
    host.do(host.state.withdraw(second, host.now))
    assert host.all(State.IDLE) == [one]
    assert one.lent == 0


def test_an_app_that_crashes_is_started_after_a_pause_and_holds_no_room_meanwhile() -> None:
    """Not a moment too early, and with the place in the queue that it had."""
    a, b = app(), app("b")
    host = Host.of(1, a, b)
    host.pauses["a"] = 5.0
    of_a = host.lend(a)
    assert host.starts == []
    of_b = host.lend(b)
    host.boot(host.starts[0])
    assert of_b.slot is not None
    for seconds, ended in ((4.9, []), (0.1, [of_b.slot])):
        host.now += seconds
        host.do(host.state.settle(host.now))
        if of_b in host.runs:
            host.give_back(of_b)
        assert host.ends == ended
    host.reap_all()
    host.boot(host.starts[0])
    assert of_a.slot is not None


def test_a_reload_ends_the_pause_of_an_app_that_crashes() -> None:
    """So does a process that becomes free."""
    a = app()
    host = Host.of(3, a)
    first = host.lend(a)
    host.boot(host.starts[0])
    host.pauses["a"] = 5.0
    second, third = host.lend(a), host.lend(a)
    host.give_back(first)
    assert second.slot is not None
    assert (third.slot, host.starts) == (None, [])
    host.update(a)
    assert len(host.starts) == 1


def test_a_start_that_fails_is_the_oldest_runs_that_is_due() -> None:
    """One that waits out a pause has none to lose."""
    a = app()
    host = Host.of(3, a)
    host.pauses["a"] = 5.0
    paused = host.lend(a)
    host.pauses.clear()
    due = host.lend(a)
    assert len(host.starts) == 1
    assert host.fail(host.starts[0])
    assert (paused.failure, due.failure is None) == (None, False)


def test_of_those_that_could_make_room_the_one_goes_that_has_been_idle_longest() -> None:
    """One of an app that has nobody waiting, if there is one; and never one that the run could use
    itself.
    """
    a, b, c = app(), app("b"), app("c")
    host = Host.of(3, a, b, c)
    runs = [host.lend(b), host.lend(a), host.lend(a)]
    for slot in list(host.starts):
        host.boot(slot)
    for request in runs:
        host.now += 1
        host.give_back(request)
    assert host.lend(a).slot is runs[2].slot
    host.lend(c)
    assert host.ends == [runs[0].slot]
    host.lend(c)
    assert host.ends == [runs[0].slot, runs[1].slot]


def test_a_start_in_progress_is_for_the_oldest_run_of_its_app() -> None:
    """So a younger run of the same app does not get the next start before another app's run."""
    a, b, c = app(), app("b"), app("c")
    host = Host.of(2, a, b, c)
    busy = host.lend(c)
    host.boot(host.starts[0])
    first, of_b, late = host.lend(a), host.lend(b), host.lend(a)
    host.give_back(busy)
    host.reap_all()
    assert [slot.app for slot in host.starts] == [a, b]
    for slot in list(host.starts):
        host.boot(slot)
    assert (first.slot is None, of_b.slot is None, late.slot is None) == (False, False, True)


def test_room_is_not_made_by_the_process_that_another_run_is_about_to_get() -> None:
    """Even if that process has been idle longer: it has just booted for the run."""
    a, b, c = app(), app("b"), app("c")
    host = Host.of(2, a, b, c)
    host.pauses["c"] = 5.0
    of_b = host.lend(b)
    host.boot(host.starts[0])
    of_c, of_a = host.lend(c), host.lend(a)
    host.give_back(of_b)
    assert of_b.slot is not None
    assert of_b.slot.process is not None
    host.now += 5.0
    of_b.slot.process.idle_since = host.now + 1.0
    host.boot(host.starts[0])
    assert host.ends == [of_b.slot]
    assert of_a.slot is not None
    assert of_c.slot is None
