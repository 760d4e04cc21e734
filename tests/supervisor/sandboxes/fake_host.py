"""A host whose processes are only said to be there, for tests of the deciding step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from attrs import define, field

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
        """A start or an adoption fails. Returns whether a run got the failure."""
        (self.adoptions if slot in self.adoptions else self.starts).remove(slot)
        was_reported = self.state.failed(slot, BootFailed("it does not come up"), self.now)
        if slot.process is not None:
            self.ends.append(slot)
            self.do(Todo())
        else:
            self.do(self.state.ended(slot, self.now))
        return was_reported

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
