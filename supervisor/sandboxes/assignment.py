"""Which run gets which process: the state, and each change of it; step.py decides. No I/O, no
waiting, no clock of its own.

Every change is a call: a run asks, a process is given back, has booted, has ended, a reload changed
the apps. It returns what to do (`Todo`): processes to end, to give to an app, to start. A run that
gets its process is called back. The run that has waited longest comes first, whatever its app.
A process that a run waits for is never left idle, and one that nobody can use ends as soon as
another app waits for its room. There are never more processes than the host may have, nor more of
an app than it may have, however they were started; a process counts until it is reaped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic

from attrs import define, field

from ..config.model import App
from ..errors import AppRemoved, BootFailed, SandboxFault
from .slots import Key, P, Request, Slot, Slots, State, Todo
from .step import Step, is_current, is_worn, most_of


@define(eq=False)
class Assignment(Generic[P]):
    """The processes of all apps, and the runs that wait for one.

    Attributes:
        most: How many processes the host may have.
        pause: Seconds until a process of an app may be started, if its last ones crashed.
        fits: Whether a spare process can be given to an app.
        waiting: The runs that wait, the one that has waited longest first.
    """

    most: int
    pause: Callable[[App], float]
    fits: Callable[[App], bool]
    apps: Mapping[str, App] = field(factory=dict, init=False)
    waiting: dict[Request[P], None] = field(factory=dict, init=False)
    slots: Slots[P] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.slots = Slots(self.most)

    # What runs do.

    def take(self, app: App) -> Slot[P] | None:
        """Return an idle process for a run, the one used last, so that others grow old and end.
        None if there is none: then `ask`.
        """
        share = self.slots.shares.get(app.name)
        if share is None:
            return None
        for slot in reversed(share.slots[State.IDLE]):
            if slot.app.generation == app.generation and slot.held.is_clean():
                self.slots.move(slot, State.BUSY)
                slot.lent = 1
                return slot
        return None

    def ask(self, request: Request[P], now: float) -> Todo[P]:
        """A run wants a process."""
        if request.app.name not in self.apps:
            self._refuse(request, AppRemoved(request.app.name))
            return Todo()
        request.not_before = now + self.pause(request.app)
        self.waiting[request] = None
        return self.settle(now)

    def withdraw(self, request: Request[P], now: float) -> Todo[P]:
        """A run does not want a process any more: a start for it is cut off, and a process that it
        got is given back as it was.
        """
        if request.slot is not None:
            return self.give_back(request.slot, now)
        todo = Todo[P]()
        if request in self.waiting:
            del self.waiting[request]
            starts = [
                slot
                for slot in self.slots.share(request.app.name).starts(request.key)
                if not slot.is_warm
            ]
            if len(starts) > len(self._due(request.key, now)):
                self.slots.end(starts[-1], todo)
        return self.settle(now, todo)

    def give_back(self, slot: Slot[P], now: float) -> Todo[P]:
        """A run has ended."""
        slot.lent -= 1
        todo = Todo[P]()
        if not slot.lent and slot.state is State.BUSY:
            is_too_many = self.slots.share(slot.app.name).staying > most_of(
                self.apps, slot.app.name
            )
            if is_too_many or is_worn(self.apps, slot, now) or not slot.held.is_clean():
                self.slots.end(slot, todo)
            else:
                self.slots.move(slot, State.IDLE)
        return self.settle(now, todo)

    # What processes do.

    def booted(self, slot: Slot[P], process: P, now: float) -> Todo[P]:
        """A process is ready: it was started, or a spare one was given its app."""
        slot.process = process
        todo = Todo[P]()
        if slot.state is State.SPARE_BOOTING:
            self.slots.move(slot, State.SPARE)
        elif slot.state is State.BOOTING:
            slot.was_ready = True
            self.slots.move(slot, State.IDLE)
        else:
            todo.ended.append(slot)  # it was cut off meanwhile
        return self.settle(now, todo)

    def failed(self, slot: Slot[P], why: BootFailed, now: float) -> bool:
        """A start has failed; a call of `ended` follows. The run that has waited longest gets the
        failure, unless enough other starts are in progress for all that wait. Returns whether a run
        got it.
        """
        if slot.state is not State.BOOTING:
            return False
        self.slots.move(slot, State.ENDING)
        if slot.is_warm:
            self.slots.share(slot.app.name).warm_failed_at = now
        due = self._due(slot.key, now)
        if len(due) <= len(self.slots.share(slot.app.name).starts(slot.key)):
            return False
        self._refuse(due[0], why)
        return True

    def ended(self, slot: Slot[P], now: float) -> Todo[P]:
        """A process was reaped, for whatever reason; or its start was cut off."""
        self.slots.move(slot, State.GONE)
        return self.settle(now)

    # What operators do, and time.

    def update(self, apps: Mapping[str, App], now: float, *, keep_spares: bool = True) -> Todo[P]:
        """Take the apps as they are now; `keep_spares`: whether spare processes still fit them."""
        self.apps = apps
        todo = Todo[P]()
        if not keep_spares:
            self._end_spares(todo)
        for request in list(self.waiting):
            request.not_before = now  # after a reload, crashes are forgiven
            if request.app.name not in apps:
                self._refuse(request, AppRemoved(request.app.name))
        wanted = {request.key for request in self.waiting}
        for slot in (*self.slots[State.IDLE], *self.slots[State.BOOTING]):
            is_wanted = slot.state is State.BOOTING and slot.key in wanted
            if not is_wanted and not is_current(self.apps, slot):
                self.slots.end(slot, todo)
        for name, share in self.slots.shares.items():
            share.warm_at = share.warm_failed_at = None
            idle = share.slots[State.IDLE]
            while idle and share.staying > most_of(self.apps, name):
                self.slots.end(next(iter(idle)), todo)
        return self.settle(now, todo)

    def tend(self, now: float) -> Todo[P]:
        """Time has passed: end idle processes that are too old or not needed."""
        todo = Todo[P]()
        for slot in list(self.slots[State.IDLE]):
            pool = self.apps.get(slot.app.name, slot.app).pool
            idle = self.slots.share(slot.app.name).slots[State.IDLE]
            is_spare = now - slot.held.idle_since > pool.idle_stop and len(idle) > pool.min_idle
            is_old = now - slot.held.born > pool.max_age
            if is_spare or is_old or not slot.held.is_clean():
                self.slots.end(slot, todo)
        self.slots.forget_apps(but=self.apps.__contains__)
        return self.settle(now, todo)

    def warm(self, app: App, now: float, retry: float) -> Todo[P]:
        """Start the idle processes that an app lacks (pool.min_idle), as far as there is room, and
        at the earliest `retry` seconds after such a start failed.
        """
        todo = Todo[P]()
        share = self.slots.share(app.name)
        there = len(share.slots[State.IDLE]) + len(share.slots[State.BOOTING])
        missing = min(app.pool.min_idle - there, app.pool.max_processes - share.live)
        if missing <= 0:
            share.warm_at = None
            return todo
        if share.warm_at is None:
            failed = share.warm_failed_at
            share.warm_at = max(now + self.pause(app), now if failed is None else failed + retry)
        if now >= share.warm_at:
            share.warm_at = None
            for _ in range(min(missing, self.slots.free)):
                self.slots.start(app, todo, is_warm=True)
        return todo

    def start_spare(self, like: App) -> Slot[P] | None:
        """Make a slot for a spare process. None if only one slot is free: that is left to runs."""
        if self.slots.free <= 1:
            return None
        return self.slots.add(Slot(like, State.SPARE_BOOTING, is_spare=True))

    def end_spares(self, now: float) -> Todo[P]:
        """End all spare processes."""
        todo = Todo[P]()
        self._end_spares(todo)
        return self.settle(now, todo)

    def refuse_all(self, why: BootFailed) -> None:
        """Give no process to any run that waits."""
        for request in list(self.waiting):
            self._refuse(request, why)

    # The decision.

    def settle(self, now: float, todo: Todo[P] | None = None) -> Todo[P]:
        """Give runs that wait what there is; the one that has waited longest comes first."""
        todo = Todo() if todo is None else todo
        if self.waiting:
            step = Step(self.apps, self.slots, self.waiting, self.fits, now, todo)
            for asking in list(self.waiting):
                if found := step.assign(asking):
                    request, slot = found
                    del self.waiting[request]
                    self.slots.move(slot, State.BUSY)
                    slot.lent += 1
                    request.slot = slot
                    request.on_answer()
        return todo

    # Small steps.

    def _due(self, key: Key, now: float) -> list[Request[P]]:
        """The runs for which a process may be started now."""
        return [one for one in self.waiting if one.key == key and one.not_before <= now]

    def _refuse(self, request: Request[P], why: SandboxFault) -> None:
        self.waiting.pop(request, None)
        request.failure = why
        request.on_answer()

    def _end_spares(self, todo: Todo[P]) -> None:
        for slot in (*self.slots[State.SPARE], *self.slots[State.SPARE_BOOTING]):
            self.slots.end(slot, todo)
