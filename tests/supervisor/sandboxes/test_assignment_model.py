"""Which run gets which process: whatever happens, in whatever order, the bounds hold."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from supervisor.sandboxes.slots import State, Todo

from .fake_host import NAMES, Fake, Host, app


def _one_of(found: list[Any], data: st.DataObject) -> Any:
    return found[data.draw(st.integers(0, len(found) - 1))]


@settings(max_examples=30, stateful_step_count=60)
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
