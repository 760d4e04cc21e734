"""One step of the assignment: for each run that waits, lend a process, boot one, end one to make
room and then boot, or let the run wait. No I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from itertools import takewhile
from typing import Generic

from attrs import define, field

from ..config.model import App
from .slots import Key, P, Request, Slot, Slots, State, Todo


@define
class Step(Generic[P]):
    """What one step can still give away, and what it has promised; `todo` collects what is to be
    done.

    Attributes:
        _fits: Whether a spare process can be given to an app.
        _free: Slots without a process.
        _coming: Slots whose process is ending, and that are promised to nobody.
        _starts: Starts in progress, less the runs that were found to wait for one, by app and
            generation: the oldest runs wait for them.
        _uncovered: Runs that are due, less the starts in progress.
        _claimed: Busy processes whose room a run waits for: they take no more runs.
        _is_exhausted: Whether nothing is left to end or to claim.
    """

    _apps: Mapping[str, App]
    _slots: Slots[P]
    _waiting: Collection[Request[P]]
    _fits: Callable[[App], bool]
    _now: float
    _todo: Todo[P]
    _free: int = field(init=False)
    _coming: int = field(init=False)
    _starts: Counter[Key] = field(init=False)
    _uncovered: Counter[Key] = field(init=False)
    _claimed: set[Slot[P]] = field(factory=set, init=False)
    _is_exhausted: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._free, self._coming = self._slots.free, len(self._slots[State.ENDING])
        self._uncovered = Counter(one.key for one in self._waiting if one.not_before <= self._now)
        self._starts = Counter(slot.key for slot in self._slots[State.BOOTING])
        self._uncovered.subtract(self._starts)

    def assign(self, request: Request[P]) -> tuple[Request[P], Slot[P]] | None:
        """Find a process for a run; if there is none, have one started, or one ended to make room,
        or let the run wait. To be called for all runs that wait, in the order in which they came.

        Returns the run that gets the process: an older one may be waiting for a start, which this
        one takes over.
        """
        slot = self._assign(request)
        if slot is None:
            return None
        older = takewhile(lambda one: one is not request, self._waiting)
        due = (one for one in older if one.not_before <= self._now)
        oldest = next((one for one in due if one.key == request.key), request)
        self._uncovered[request.key] -= oldest.not_before <= self._now
        return oldest, slot

    def _assign(self, request: Request[P]) -> Slot[P] | None:
        slot, is_due = self._idle_for(request), request.not_before <= self._now
        if slot is not None:
            return slot
        if is_due and self._starts[request.key] > 0:
            self._starts[request.key] -= 1
            return None  # a start is in progress for it
        if not self._may_have_more(request):
            slot = self._shared_for(request)
            if slot is None:
                self._swap(request)
        elif is_due and not self._start_for(request):
            slot = self._shared_for(request)
            if slot is None:
                self._claim()
        return slot

    def _idle_for(self, request: Request[P]) -> Slot[P] | None:
        for slot in reversed(list(self._slots.share(request.app.name).slots[State.IDLE])):
            if slot.key == request.key:
                if slot.held.is_clean():
                    return slot
                self._slots.end(slot, self._todo)
                self._coming += 1
        return None

    def _may_have_more(self, request: Request[P]) -> bool:
        """Whether the app may have one more process.

        If its processes take several runs, one that takes no more of them may end beside its
        successor.
        """
        share, most = self._slots.share(request.app.name), most_of(self._apps, request.app.name)
        finishing = 0
        if request.app.pool.messages_in_flight > 1:
            busy = share.slots[State.BUSY]
            finishing = min(sum(not takes_more(self._apps, slot, self._now) for slot in busy), most)
        return share.live - finishing < most

    def _start_for(self, request: Request[P]) -> bool:
        """Have a process started for a run, or room made for one. Returns whether that is so."""
        spare = self._spare() if self._fits(request.app) else None
        if spare is not None:
            self._slots.adopt(spare, request.app)
            self._todo.adopted.append(spare)
        elif self._free > 0:
            self._slots.start(request.app, self._todo)
            self._free -= 1
        elif self._coming > 0 or self._make_room():
            self._coming -= 1
        else:
            return False
        self._uncovered[request.key] -= 1
        return True

    def _spare(self) -> Slot[P] | None:
        while self._slots[State.SPARE]:
            slot = next(reversed(self._slots[State.SPARE]))
            if slot.held.is_clean():
                return slot
            self._slots.end(slot, self._todo)
            self._coming += 1
        return None

    def _make_room(self) -> bool:
        slot = None if self._is_exhausted else self._dispensable()
        if slot is None:
            return False
        if slot.state is State.BOOTING:
            self._uncovered[slot.key] += 1
            self._starts[slot.key] -= 1
        self._slots.end(slot, self._todo)
        self._coming += 1
        return True

    def _dispensable(self) -> Slot[P] | None:
        """A process that may end now for another app's run: a spare one; else a start that no run
        waits for; else the one that has been idle longest, if possible of an app with no run
        waiting.
        """
        for state in (State.SPARE, State.SPARE_BOOTING):
            if self._slots[state]:
                return next(iter(self._slots[state]))
        for slot in self._slots[State.BOOTING]:
            if self._uncovered[slot.key] < 0:
                return slot
        wanted = {request.key for request in self._waiting}
        idle = self._slots[State.IDLE]  # of other apps: this run would have taken its own
        return min(idle, key=lambda one: (one.key in wanted, one.held.idle_since), default=None)

    def _claim(self) -> None:
        """There is no room and nothing to end: let the busy process that will probably be free
        first take no more runs.
        """
        busy = [slot for slot in self._slots[State.BUSY] if slot not in self._claimed]
        if busy:
            self._claimed.add(min(busy, key=lambda slot: (slot.lent, slot.held.idle_since)))
        else:
            self._is_exhausted = True

    def _shared_for(self, request: Request[P]) -> Slot[P] | None:
        """The busy process with the fewest runs, of those that can take one more."""
        most = request.app.pool.messages_in_flight
        if most == 1:
            return None
        fit = [
            slot
            for slot in self._slots.share(request.app.name).slots[State.BUSY]
            if slot.key == request.key and slot.lent < most and slot not in self._claimed
            if takes_more(self._apps, slot, self._now)
        ]  # fmt: skip
        return min(fit, key=lambda slot: slot.lent, default=None)

    def _swap(self, request: Request[P]) -> None:
        """The app has all the processes it may have: end an idle one of another generation to make
        room for this one.
        """
        slots = self._slots.share(request.app.name).slots
        if slots[State.IDLE] and not slots[State.ENDING]:
            self._slots.end(next(iter(slots[State.IDLE])), self._todo)
            self._coming += 1


def most_of(apps: Mapping[str, App], name: str) -> int:
    """How many processes an app may have."""
    app = apps.get(name)
    return 0 if app is None else app.pool.max_processes


def is_current(apps: Mapping[str, App], slot: Slot[P]) -> bool:
    """Whether a process is of its app's present generation."""
    app = apps.get(slot.app.name)
    return app is not None and app.generation == slot.app.generation


def is_worn(apps: Mapping[str, App], slot: Slot[P], now: float) -> bool:
    """Whether a process takes no more runs: it had enough, is too old, or its app changed."""
    pool = apps.get(slot.app.name, slot.app).pool
    is_old = slot.held.runs >= pool.max_messages or now - slot.held.born > pool.max_age
    return is_old or not is_current(apps, slot)


def takes_more(apps: Mapping[str, App], slot: Slot[P], now: float) -> bool:
    """Whether a busy process may take one more run beside those it has."""
    return slot.held.can_share() and not is_worn(apps, slot, now)
