"""Who gets which process: the deciding step by itself, with processes that are only said to be
there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from attrs import define, evolve, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from supervisor.config.model import App
from supervisor.errors import BootFailed
from supervisor.sandboxes.assignment import Assignment
from supervisor.sandboxes.slots import Request, Slot, State, Todo

from ...apps import make_app

NAMES = ("a", "b", "c", "d")
MAX_AGE, IDLE_STOP, MAX_MESSAGES = 500.0, 200.0, 12


@define(eq=False)
class Fake:
    """A process."""

    born: float
    idle_since: float
    runs: int = 0
    is_good: bool = True
    is_retired: bool = False

    def is_clean(self) -> bool:
        return self.can_share()

    def can_share(self) -> bool:
        return self.is_good and not self.is_retired


@define(eq=False)
class Host:
    """Carries out what was decided, when the test says so; `watch` is called after each step."""

    state: Assignment[Fake]
    watch: Callable[[Todo[Fake]], None] = lambda _: None
    now: float = 1000.0
    pauses: dict[str, float] = field(factory=dict)
    spare_kind: set[str] = field(factory=lambda: set(NAMES))
    starts: list[Slot[Fake]] = field(factory=list)  # in progress
    adoptions: list[Slot[Fake]] = field(factory=list)
    ends: list[Slot[Fake]] = field(factory=list)  # killed, not yet reaped
    runs: list[Request[Fake]] = field(factory=list)  # that have a process
    waits: list[Request[Fake]] = field(factory=list)
    refused: list[Request[Fake]] = field(factory=list)

    @classmethod
    def of(cls, most: int, *apps: App) -> Host:
        host = cls(None)  # type: ignore[arg-type]
        host.state = Assignment(
            most,
            lambda app: host.pauses.get(app.name, 0.0),
            lambda app: app.name in host.spare_kind,
        )
        host.do(host.state.update({app.name: app for app in apps}, host.now))
        return host

    def do(self, todo: Todo[Fake]) -> Todo[Fake]:
        for slot in todo.ended:
            assert slot.state is State.ENDING
            if slot in self.starts:
                self.starts.remove(slot)  # it is cut off
            if slot in self.adoptions:
                self.adoptions.remove(slot)
            if slot.process is not None:
                slot.process.is_good = False
            if slot not in self.ends:
                self.ends.append(slot)
        self.starts += todo.started
        self.adoptions += todo.adopted
        for request in list(self.waits):
            if request.slot is not None or request.failure is not None:
                self.waits.remove(request)
                (self.runs if request.slot is not None else self.refused).append(request)
        self.watch(todo)
        return todo

    def lend(self, app: App) -> Request[Fake]:
        request = Request[Fake](app, lambda: None)
        request.slot = self.state.take(app)
        if request.slot is not None:
            self.runs.append(request)
        else:
            self.waits.append(request)
            self.do(self.state.ask(request, self.now))
        return request

    def give_back(self, request: Request[Fake], *, good: bool = True) -> Todo[Fake]:
        self.runs.remove(request)
        slot = request.slot
        assert slot is not None
        assert slot.process is not None
        slot.process.runs += 1
        slot.process.idle_since = self.now
        slot.process.is_good = slot.process.is_good and good
        return self.do(self.state.give_back(slot, self.now))

    def boot(self, slot: Slot[Fake]) -> Todo[Fake]:
        if slot in self.adoptions:
            self.adoptions.remove(slot)
            assert slot.process is not None
            return self.do(self.state.booted(slot, slot.process, self.now))
        self.starts.remove(slot)
        return self.do(self.state.booted(slot, Fake(self.now, self.now), self.now))

    def fail(self, slot: Slot[Fake]) -> bool:
        """A start or an adoption fails. Whether somebody was told."""
        (self.adoptions if slot in self.adoptions else self.starts).remove(slot)
        told = self.state.failed(slot, BootFailed("it does not come up"), self.now)
        if slot.process is not None:
            self.ends.append(slot)
            self.do(Todo())
        else:
            self.do(self.state.ended(slot, self.now))
        return told

    def reap(self, slot: Slot[Fake]) -> Todo[Fake]:
        self.ends.remove(slot)
        return self.do(self.state.ended(slot, self.now))

    def reap_all(self) -> None:
        while self.ends:
            self.reap(self.ends[0])

    def update(self, *apps: App, keep_spares: bool = True) -> Todo[Fake]:
        return self.do(
            self.state.update({app.name: app for app in apps}, self.now, keep_spares=keep_spares)
        )

    def all(self, state: State) -> list[Slot[Fake]]:
        return list(self.state.slots[state])

    def live(self, name: str | None = None) -> list[Slot[Fake]]:
        return [
            slot
            for slots in self.state.slots.by_state.values()
            for slot in slots
            if name is None or (slot.app.name == name and not slot.is_spare)
        ]

    def finishing(self, name: str) -> int:
        """Processes that take no more of the several runs that they may have."""
        return sum(
            not self.takes_more(slot) for slot in self.all(State.BUSY) if slot.app.name == name
        )

    def takes_more(self, slot: Slot[Fake]) -> bool:
        app = self.state.apps.get(slot.app.name)
        assert slot.process is not None
        return (
            app is not None
            and app.generation == slot.app.generation
            and slot.process.can_share()
            and slot.process.runs < app.pool.max_messages
            and self.now - slot.process.born <= app.pool.max_age
        )

    def may_have_more(self, app: App) -> bool:
        most = self.state.apps[app.name].pool.max_processes
        several = app.pool.messages_in_flight > 1
        return (
            len(self.live(app.name)) - (min(self.finishing(app.name), most) if several else 0)
            < most
        )

    def starving(self) -> list[Request[Fake]]:
        """Runs that wait for room on the host, and to which nothing is promised."""
        starts = Counter(slot.key for slot in self.all(State.BOOTING))
        coming = len(self.all(State.ENDING))
        found = []
        for request in self.state.waiting:
            if request.not_before > self.now:
                continue
            if starts[request.key] > 0:
                starts[request.key] -= 1
            elif self.may_have_more(request.app):
                if coming > 0:
                    coming -= 1
                else:
                    found.append(request)
        return found


def app(name: str = "a", source: str = "", **pool: Any) -> App:
    return make_app(
        source,
        name=name,
        pool={"max_age": MAX_AGE, "idle_stop": IDLE_STOP, "max_messages": MAX_MESSAGES} | pool,
    )


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


def _one_of(found: list[Any], data: st.DataObject) -> Any:
    return found[data.draw(st.integers(0, len(found) - 1))]


@settings(max_examples=60, stateful_step_count=60)
class Anything(RuleBasedStateMachine):
    """Whatever happens, in whatever order."""

    @initialize(most=st.integers(1, 6))
    def begin(self, most: int) -> None:
        self.apps = {name: app(name, max_processes=2) for name in NAMES}
        self.host = Host.of(most, *self.apps.values())
        self.generation = 0
        self.host.watch = self.check_bounds

    def check_bounds(self, todo: Todo[Fake]) -> None:
        """What a step decided is within bounds."""
        host = self.host
        for slot in (*todo.started, *todo.adopted):
            name = slot.app.name
            configured = self.apps[name].pool
            live = len(host.live(name))
            several = slot.app.pool.messages_in_flight > 1
            allowed = configured.max_processes + (
                min(host.finishing(name), configured.max_processes) if several else 0
            )
            assert live <= allowed, (live, allowed)
        starving = host.starving()
        if starving:
            order = list(host.state.waiting)
            oldest = order.index(starving[0])
            for slot in todo.started:
                due = [one for one in order if one.not_before <= host.now]
                same = [order.index(request) for request in due if request.key == slot.key]
                starts = sum(other.key == slot.key for other in host.all(State.BOOTING))
                assert slot.is_warm or same[min(starts, len(same)) - 1] < oldest, (
                    "a younger one was served first"
                )

    @rule(name=st.sampled_from(NAMES), is_old=st.booleans())
    def lend(self, name: str, is_old: bool) -> None:
        known = self.apps.get(name) or app(name)
        self.host.lend(
            evolve(known, source="// as it was") if is_old and self.generation % 3 == 0 else known
        )

    @precondition(lambda self: self.host.runs)
    @rule(data=st.data(), good=st.sampled_from([True, True, True, False]))
    def give_back(self, data: st.DataObject, good: bool) -> None:
        self.host.give_back(_one_of(self.host.runs, data), good=good)

    @precondition(lambda self: self.host.waits)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        request = _one_of(self.host.waits, data)
        self.host.waits.remove(request)
        self.host.do(self.host.state.withdraw(request, self.host.now))

    @precondition(lambda self: self.host.starts or self.host.adoptions)
    @rule(data=st.data(), comes_up=st.sampled_from([True, True, True, False]))
    def boot(self, data: st.DataObject, comes_up: bool) -> None:
        slot = _one_of(self.host.starts + self.host.adoptions, data)
        if comes_up:
            self.host.boot(slot)
        else:
            due = [one for one in self.host.waits if one.not_before <= self.host.now]
            waiting = sum(request.key == slot.key for request in due)
            starts = sum(other.key == slot.key for other in self.host.all(State.BOOTING))
            is_start = slot.state is State.BOOTING
            assert self.host.fail(slot) == (is_start and waiting >= starts)

    @precondition(lambda self: self.host.ends)
    @rule(data=st.data())
    def reap(self, data: st.DataObject) -> None:
        self.host.reap(_one_of(self.host.ends, data))

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """A process ends by itself, whatever it is doing."""
        host = self.host
        live = [
            slot
            for slot in host.live()
            if slot.process is not None and slot not in host.ends + host.adoptions
        ]
        if live:
            slot = _one_of(live, data)
            assert slot.process is not None
            slot.process.is_good = False
            host.do(host.state.ended(slot, host.now))

    @precondition(lambda self: self.host.all(State.BUSY))
    @rule(data=st.data())
    def retire(self, data: st.DataObject) -> None:
        slot = _one_of(self.host.all(State.BUSY), data)
        assert slot.process is not None
        slot.process.is_retired = True

    @rule(seconds=st.sampled_from([0.1, 1.0, 50.0, 300.0]))
    def tend(self, seconds: float) -> None:
        host = self.host
        host.now += seconds
        host.do(host.state.tend(host.now))
        for one in self.apps.values():
            host.do(host.state.warm(one, host.now, 10.0))

    @rule(data=st.data(), count=st.integers(1, 3))
    def spare(self, data: st.DataObject, count: int) -> None:
        for _ in range(count):
            slot = self.host.state.start_spare(app(data.draw(st.sampled_from(NAMES))))
            if slot is not None:
                self.host.starts.append(slot)

    @rule(kind=st.sets(st.sampled_from(NAMES)))
    def end_spares(self, kind: set[str]) -> None:
        self.host.spare_kind = kind
        self.host.do(self.host.state.end_spares(self.host.now))

    @rule(name=st.sampled_from(NAMES), seconds=st.sampled_from([0.0, 0.0, 2.0]))
    def trouble(self, name: str, seconds: float) -> None:
        self.host.pauses[name] = seconds

    @rule(
        name=st.sampled_from(NAMES),
        what=st.sampled_from(["gone", "other code", "settings"]),
        most=st.integers(1, 3),
        several=st.sampled_from([1, 1, 3]),
        warm=st.integers(0, 2),
        keep_spares=st.booleans(),
    )
    def update(
        self, name: str, what: str, most: int, several: int, warm: int, keep_spares: bool
    ) -> None:
        self.generation += 1
        self.apps.pop(name, None)
        if what != "gone":
            source = f"// {self.generation}" if what == "other code" else ""
            self.apps[name] = app(
                name, source, max_processes=most, messages_in_flight=several, min_idle=warm
            )
        self.host.update(*self.apps.values(), keep_spares=keep_spares)
        for request in self.host.waits:
            assert request.app.name in self.apps

    @invariant()
    def never_more_than_the_host_may_have(self) -> None:
        host = self.host
        assert len(host.live()) <= host.state.most
        assert host.state.slots.free == host.state.most - len(host.live())

    @invariant()
    def every_slot_is_in_its_place_alone(self) -> None:
        slots = self.host.state.slots
        owned = [
            slot
            for share in slots.shares.values()
            for state in share.slots.values()
            for slot in state
        ]
        assert len(owned) == len(set(owned))
        assert set(owned) == {slot for slot in self.host.live() if not slot.is_spare}
        for state, found in slots.by_state.items():
            for slot in found:
                assert slot.state is state
                if not slot.is_spare:
                    assert slot in slots.shares[slot.app.name].slots[state]

    @invariant()
    def what_is_lent_is_what_runs_have(self) -> None:
        lent = Counter(request.slot for request in self.host.runs)
        for slot in self.host.live():
            assert slot.lent == lent[slot]
            assert (slot.lent > 0) == (slot.state is State.BUSY)
            assert slot.lent <= slot.app.pool.messages_in_flight
        for slot in self.host.all(State.IDLE):
            assert slot.app.name in self.apps

    @invariant()
    def nobody_is_lost(self) -> None:
        host = self.host
        assert list(host.state.waiting) == host.waits
        for request in host.waits:
            assert request.slot is None
            assert request.failure is None
        for request in host.runs:
            assert request.slot is not None
            assert request.slot.key == request.key

    @invariant()
    def what_can_be_had_is_had(self) -> None:
        host = self.host
        idle = {
            slot.key
            for slot in host.all(State.IDLE)
            if slot.process is not None and slot.process.is_clean()
        }
        assert not idle & {request.key for request in host.waits}
        waits = Counter(request.key for request in host.waits)
        starts = Counter(slot.key for slot in host.all(State.BOOTING))
        starving = host.starving()
        if starving:
            assert host.state.slots.free == 0
            assert not host.all(State.SPARE)
            assert not host.all(State.SPARE_BOOTING)
            assert {slot.key for slot in host.all(State.IDLE)} <= {starving[0].key}
            assert all(starts[key] <= waits[key] or key == starving[0].key for key in starts)
        else:
            for slot in host.all(State.BUSY):
                if slot.lent < slot.app.pool.messages_in_flight and host.takes_more(slot):
                    due = [
                        one
                        for one in host.waits
                        if one.key == slot.key and one.not_before <= host.now
                    ]
                    promised = starts[slot.key] + len(host.all(State.ENDING))
                    assert len(due) <= promised, "a run waits that could share"

    def teardown(self) -> None:
        """When all goes well from here on, everybody who waits gets a process, and at most as many
        are left as may be.
        """
        if not hasattr(self, "host"):
            return
        host = self.host
        host.pauses.clear()
        host.now += 10.0
        host.do(host.state.settle(host.now))
        for _ in range(10 + 10 * len(host.waits) + 10 * len(host.runs)):
            for slot in [*host.starts, *host.adoptions]:
                if slot in host.starts + host.adoptions:
                    host.boot(slot)
            for request in list(host.runs):
                host.give_back(request)
            host.reap_all()
            self.never_more_than_the_host_may_have()
            if not host.waits and not host.runs:
                break
        assert not host.waits
        host.update()
        host.do(host.state.end_spares(host.now))
        host.reap_all()
        assert [slot for slot in host.live() if slot not in host.starts] == []


TestAnything = Anything.TestCase


@pytest.mark.slow
class TestAnythingForLong(Anything.TestCase):  # type: ignore[misc, name-defined]
    """The same, thousands of times."""

    settings = settings(max_examples=3000, stateful_step_count=100)
