"""Who gets which process: the state that decides, and the one step that decides. No I/O, no
waiting, no clock of its own.

Every change is a call: a run asks, a process is given back, has booted, has ended, the apps are
others now. It returns what is to be done: processes to end, to give to an app, to start; a run that
has its process now is called back. Whoever has waited longest comes first, whichever app it is of.
A process that somebody waits for is never left idle, and what nobody can use ends as soon as
another app waits for its room. There are never more processes than may be on the host, nor more of
an app than it may have, however they were started; one counts until it is reaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Generic

from attrs import define, field

from ..config.model import App
from ..errors import BootFailed
from .slots import Key, P, Request, Slot, Slots, State, Todo


@define
class _Step(Generic[P]):
    """What one step has to give away, and what it has promised."""

    now: float
    todo: Todo[P]
    free: int  # slots
    coming: int  # slots that will be free: what is in them is ending
    uncovered: Counter[Key]  # runs that are due, beyond the starts that are on their way for them
    # busy, and by whoever waits for room: they take no more runs
    claimed: set[Slot[P]] = field(factory=set)
    is_exhausted: bool = False  # there is nothing left to end or to claim


@define(eq=False)
class Assignment(Generic[P]):
    """The processes of all apps, and the runs that wait for one.

    Attributes:
        most: Processes on the host.
        pause: Seconds until one of an app may be started, since its last ones crashed.
        fits: Whether a spare process can become an app's.
    """

    most: int
    pause: Callable[[App], float]
    fits: Callable[[App], bool]
    apps: Mapping[str, App] = field(factory=dict, init=False)
    waiting: dict[Request[P], None] = field(factory=dict, init=False)  # the longest first
    slots: Slots[P] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.slots = Slots(self.most)

    # What runs do.

    def take(self, app: App) -> Slot[P] | None:
        """A process for a run at once, if one is idle; else `ask`. It is the one that was used
        last: others grow old and end.
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
            self._refuse(request, _gone(request.app))
            return Todo()
        request.not_before = now + self.pause(request.app)
        self.waiting[request] = None
        return self.settle(now)

    def withdraw(self, request: Request[P], now: float) -> Todo[P]:
        """A run wants no process any more: what was started for it is not needed, and what it got
        is as it was.
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
                self._end(starts[-1], todo)
        return self.settle(now, todo)

    def give_back(self, slot: Slot[P], now: float) -> Todo[P]:
        """A run has ended."""
        slot.lent -= 1
        todo = Todo[P]()
        if not slot.lent and slot.state is State.BUSY:
            is_too_many = self.slots.share(slot.app.name).staying > self._most_of(slot.app.name)
            if is_too_many or self._is_worn(slot, now) or not slot.held.is_clean():
                self._end(slot, todo)
            else:
                self.slots.move(slot, State.IDLE)
        return self.settle(now, todo)

    # What processes do.

    def booted(self, slot: Slot[P], process: P, now: float) -> Todo[P]:
        """A process is ready: it was started, or told its app."""
        slot.process = process
        todo = Todo[P]()
        if slot.state is State.SPARE_BOOTING:
            self.slots.move(slot, State.SPARE)
        elif slot.state is State.BOOTING:
            slot.was_ready = True
            self.slots.move(slot, State.IDLE)
        else:
            todo.ended.append(slot)  # it is not wanted any more
        return self.settle(now, todo)

    def failed(self, slot: Slot[P], why: BootFailed, now: float) -> bool:
        """A start has come to nothing; `ended` is to follow. The run that has waited longest is
        told, unless another process is on its way for each that waits. Returns whether one was
        told.
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
        """A process is reaped, for whatever reason; or its start is over."""
        self.slots.move(slot, State.GONE)
        return self.settle(now)

    # What operators do, and time.

    def update(self, apps: Mapping[str, App], now: float, *, keep_spares: bool = True) -> Todo[P]:
        """The apps are these now, and spare processes of use to them or not."""
        self.apps = apps
        todo = Todo[P]()
        if not keep_spares:
            self._end_spares(todo)
        for request in list(self.waiting):
            request.not_before = now  # everything is tried again
            if request.app.name not in apps:
                self._refuse(request, _gone(request.app))
        wanted = {request.key for request in self.waiting}
        for slot in (*self.slots[State.IDLE], *self.slots[State.BOOTING]):
            is_wanted = slot.state is State.BOOTING and slot.key in wanted
            if not is_wanted and not self._is_current(slot):
                self._end(slot, todo)
        for name, share in self.slots.shares.items():
            share.warm_at = share.warm_failed_at = None
            idle = share.slots[State.IDLE]
            while idle and share.staying > self._most_of(name):
                self._end(next(iter(idle)), todo)
        return self.settle(now, todo)

    def tend(self, now: float) -> Todo[P]:
        """Some time has passed: end what is too old, or idle and not needed."""
        todo = Todo[P]()
        for slot in list(self.slots[State.IDLE]):
            pool = self.apps.get(slot.app.name, slot.app).pool
            idle = self.slots.share(slot.app.name).slots[State.IDLE]
            is_spare = now - slot.held.idle_since > pool.idle_stop and len(idle) > pool.min_idle
            is_old = now - slot.held.born > pool.max_age
            if is_spare or is_old or not slot.held.is_clean():
                self._end(slot, todo)
        self.slots.forget_apps(but=self.apps.__contains__)
        return self.settle(now, todo)

    def warm(self, app: App, now: float, retry: float) -> Todo[P]:
        """Start what an app lacks of the idle processes that it wants, as far as there is room;
        `retry` seconds after one that failed.
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
                self._start(app, todo, is_warm=True)
        return todo

    def start_spare(self, like: App) -> Slot[P] | None:
        """Room for a process that is nobody's yet; the last free place is left to those who need
        it.
        """
        if self.slots.free <= 1:
            return None
        return self.slots.add(Slot(like, State.SPARE_BOOTING, is_spare=True))

    def end_spares(self, now: float) -> Todo[P]:
        """They are of no use any more."""
        todo = Todo[P]()
        self._end_spares(todo)
        return self.settle(now, todo)

    def refuse_all(self, why: BootFailed) -> None:
        """Nobody gets a process any more."""
        for request in list(self.waiting):
            self._refuse(request, why)

    # The step.

    def settle(self, now: float, todo: Todo[P] | None = None) -> Todo[P]:
        """Give those who wait what can be had, the longest first."""
        todo = Todo() if todo is None else todo
        if self.waiting:
            uncovered = Counter(one.key for one in self.waiting if one.not_before <= now)
            uncovered.subtract(slot.key for slot in self.slots[State.BOOTING])
            step = _Step(now, todo, self.slots.free, len(self.slots[State.ENDING]), uncovered)
            for request in list(self.waiting):
                slot = self._assign(request, step)
                if slot is not None:
                    step.uncovered[request.key] -= request.not_before <= now
                    del self.waiting[request]
                    self.slots.move(slot, State.BUSY)
                    slot.lent += 1
                    request.slot = slot
                    request.on_answer()
        return todo

    def _assign(self, request: Request[P], step: _Step[P]) -> Slot[P] | None:
        """A process for a run; or one is started for it, or ended so that there is room, or it
        waits.
        """
        slot, is_due = self._idle_for(request, step), request.not_before <= step.now
        if slot is not None or (is_due and step.uncovered[request.key] <= 0):
            return slot  # if it has none: one is on its way
        if not self._may_have_more(request, step):
            slot = self._shared_for(request, step)
            if slot is None:
                self._swap(request, step)
        elif is_due and not self._start_for(request, step):
            slot = self._shared_for(request, step)
            if slot is None:
                self._claim(step)
        return slot

    def _idle_for(self, request: Request[P], step: _Step[P]) -> Slot[P] | None:
        for slot in reversed(list(self.slots.share(request.app.name).slots[State.IDLE])):
            if slot.key == request.key:
                if slot.held.is_clean():
                    return slot
                self._end(slot, step.todo)
                step.coming += 1
        return None

    def _may_have_more(self, request: Request[P], step: _Step[P]) -> bool:
        """Whether the app may have one more process.

        Where processes take several runs, one that takes no more of them ends beside its successor.
        """
        share, most = self.slots.share(request.app.name), self._most_of(request.app.name)
        finishing = 0
        if request.app.pool.messages_in_flight > 1:
            busy = share.slots[State.BUSY]
            finishing = min(sum(not self._takes_more(slot, step.now) for slot in busy), most)
        return share.live - finishing < most

    def _start_for(self, request: Request[P], step: _Step[P]) -> bool:
        """Have a process started for a run, or room made for it. Returns whether it is on its way."""
        spare = self._spare(step) if self.fits(request.app) else None
        if spare is not None:
            self.slots.adopt(spare, request.app)
            step.todo.adopted.append(spare)
        elif step.free > 0:
            self._start(request.app, step.todo)
            step.free -= 1
        elif step.coming > 0 or self._make_room(step):
            step.coming -= 1
        else:
            return False
        step.uncovered[request.key] -= 1
        return True

    def _spare(self, step: _Step[P]) -> Slot[P] | None:
        while self.slots[State.SPARE]:
            slot = next(reversed(self.slots[State.SPARE]))
            if slot.held.is_clean():
                return slot
            self._end(slot, step.todo)
            step.coming += 1
        return None

    def _start(self, app: App, todo: Todo[P], *, is_warm: bool = False) -> None:
        todo.started.append(self.slots.add(Slot(app, is_warm=is_warm)))

    def _make_room(self, step: _Step[P]) -> bool:
        slot = None if step.is_exhausted else self._dispensable(step)
        if slot is None:
            return False
        if slot.state is State.BOOTING:
            step.uncovered[slot.key] += 1
        self._end(slot, step.todo)
        step.coming += 1
        return True

    def _dispensable(self, step: _Step[P]) -> Slot[P] | None:
        """What may end at once for another app's run: a spare, a start that nobody waits for, or
        what has been idle longest, of an app that has nobody waiting if there is one.
        """
        for state in (State.SPARE, State.SPARE_BOOTING):
            if self.slots[state]:
                return next(iter(self.slots[state]))
        for slot in self.slots[State.BOOTING]:
            if step.uncovered[slot.key] < 0:
                return slot
        wanted = {request.key for request in self.waiting}
        idle = self.slots[State.IDLE]  # of others: who waits has taken its own
        return min(idle, key=lambda one: (one.key in wanted, one.held.idle_since), default=None)

    def _claim(self, step: _Step[P]) -> None:
        """There is no room and nothing to end: let the busy process that is likely to be free first
        take no more runs.
        """
        busy = [slot for slot in self.slots[State.BUSY] if slot not in step.claimed]
        if busy:
            step.claimed.add(min(busy, key=lambda slot: (slot.lent, slot.held.idle_since)))
        else:
            step.is_exhausted = True

    def _shared_for(self, request: Request[P], step: _Step[P]) -> Slot[P] | None:
        """A busy process that can take one more run: the one with the fewest."""
        most = request.app.pool.messages_in_flight
        if most == 1:
            return None
        fit = [
            slot
            for slot in self.slots.share(request.app.name).slots[State.BUSY]
            if slot.key == request.key and slot.lent < most and slot not in step.claimed
            if self._takes_more(slot, step.now)
        ]  # fmt: skip
        return min(fit, key=lambda slot: slot.lent, default=None)

    def _swap(self, request: Request[P], step: _Step[P]) -> None:
        """The app has all that it may: an idle process of another generation makes room for a run
        of this one.
        """
        slots = self.slots.share(request.app.name).slots
        if slots[State.IDLE] and not slots[State.ENDING]:
            self._end(next(iter(slots[State.IDLE])), step.todo)
            step.coming += 1

    # Small steps.

    def _due(self, key: Key, now: float) -> list[Request[P]]:
        """Runs for which a process may be started now."""
        return [one for one in self.waiting if one.key == key and one.not_before <= now]

    def _most_of(self, name: str) -> int:
        app = self.apps.get(name)
        return 0 if app is None else app.pool.max_processes

    def _is_current(self, slot: Slot[P]) -> bool:
        app = self.apps.get(slot.app.name)
        return app is not None and app.generation == slot.app.generation

    def _is_worn(self, slot: Slot[P], now: float) -> bool:
        """Whether a process takes no more runs: it had enough, is too old, or its app is another
        now.
        """
        pool = self.apps.get(slot.app.name, slot.app).pool
        is_old = slot.held.runs >= pool.max_messages or now - slot.held.born > pool.max_age
        return is_old or not self._is_current(slot)

    def _takes_more(self, slot: Slot[P], now: float) -> bool:
        return slot.held.can_share() and not self._is_worn(slot, now)

    def _refuse(self, request: Request[P], why: BootFailed) -> None:
        self.waiting.pop(request, None)
        request.failure = why
        request.on_answer()

    def _end_spares(self, todo: Todo[P]) -> None:
        for slot in (*self.slots[State.SPARE], *self.slots[State.SPARE_BOOTING]):
            self._end(slot, todo)

    def _end(self, slot: Slot[P], todo: Todo[P]) -> None:
        self.slots.move(slot, State.ENDING)
        todo.ended.append(slot)


def _gone(app: App) -> BootFailed:
    return BootFailed(f"there is no app {app.name} any more: a reload has removed it")
