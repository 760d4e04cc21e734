"""The slots of processes on the host: which there are, whose, and in which state. Only bookkeeping;
assignment.py decides.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Generic, Protocol, TypeVar

from attrs import define, field

from ..config.model import App
from ..errors import SandboxFault

Key = tuple[str, str]
"""An app's name and generation: a run takes a process of its own generation."""


class Held(Protocol):
    """What has to be known of a process here."""

    @property
    def born(self) -> float:
        """When it was started."""

    @property
    def idle_since(self) -> float:
        """When its last run ended."""

    @property
    def runs(self) -> int:
        """How many runs it has had."""

    def is_clean(self) -> bool:
        """Whether it can take a run if it has none."""

    def can_share(self) -> bool:
        """Whether it can take one more run beside those it has."""


P = TypeVar("P", bound=Held)


class State(Enum):
    """Of a slot."""

    BOOTING = "booting"  # for an app
    SPARE_BOOTING = "spare booting"
    SPARE = "spare"  # booted, of no app
    IDLE = "idle"
    BUSY = "busy"
    ENDING = "ending"  # until it is reaped
    GONE = "gone"


@define(eq=False)
class Slot(Generic[P]):
    """The place of one process, from the decision to start it until it is reaped.

    Attributes:
        app: Whose it is; of a spare process, an app of its kind.
        is_spare: Whether it is of no app, or was of none when it ended.
        is_warm: Whether it was started before a run needed it (pool.min_idle).
        was_ready: Whether it became ready for runs of its app.
        lent: How many runs have it.
    """

    app: App = field(repr=lambda app: app.name)
    state: State = State.BOOTING
    process: P | None = None
    is_spare: bool = False
    is_warm: bool = False
    was_ready: bool = False
    lent: int = 0

    @property
    def key(self) -> Key:
        """See Key."""
        return self.app.name, self.app.generation

    @property
    def held(self) -> P:
        """The process of a slot that has one."""
        assert self.process is not None
        return self.process


@define(eq=False)
class Request(Generic[P]):
    """A run that wants a process. It is answered once, by a `slot` or a `failure`; `on_answer` is
    called within the step, so it may only wake somebody.

    Attributes:
        not_before: When a process may be started for it, if its app's last ones crashed.
    """

    app: App = field(repr=lambda app: app.name)
    on_answer: Callable[[], object] = field(repr=False)
    slot: Slot[P] | None = None
    failure: SandboxFault | None = None
    not_before: float = 0.0

    @property
    def key(self) -> Key:
        """See Key."""
        return self.app.name, self.app.generation


@define
class Todo(Generic[P]):
    """What to do after a step, in this order."""

    ended: list[Slot[P]] = field(factory=list)  # to kill, or to cut their start off
    adopted: list[Slot[P]] = field(factory=list)  # spare processes, to give to their apps
    started: list[Slot[P]] = field(factory=list)


def _by_state() -> dict[State, dict[Slot[P], None]]:
    return {state: {} for state in State if state is not State.GONE}


@define
class Share(Generic[P]):
    """The slots of one app by state, each in the order in which they came into it."""

    slots: dict[State, dict[Slot[P], None]] = field(factory=_by_state)
    warm_at: float | None = None  # when to start the processes missing for min_idle
    warm_failed_at: float | None = None

    @property
    def live(self) -> int:
        """The number of its processes, until they are reaped."""
        return sum(map(len, self.slots.values()))

    @property
    def staying(self) -> int:
        """The number of its processes that are not ending."""
        return self.live - len(self.slots[State.ENDING])

    def starts(self, key: Key) -> list[Slot[P]]:
        """The starts in progress of a generation."""
        return [slot for slot in self.slots[State.BOOTING] if slot.key == key]


@define(eq=False)
class Slots(Generic[P]):
    """All slots, by state and by app."""

    most: int
    by_state: dict[State, dict[Slot[P], None]] = field(factory=_by_state, init=False)
    shares: dict[str, Share[P]] = field(factory=dict, init=False)

    def __getitem__(self, state: State) -> dict[Slot[P], None]:
        return self.by_state[state]

    @property
    def free(self) -> int:
        """How many more processes the host may have."""
        return self.most - sum(map(len, self.by_state.values()))

    def share(self, name: str) -> Share[P]:
        """The slots of an app."""
        share = self.shares.get(name)
        if share is None:
            share = self.shares[name] = Share()
        return share

    def add(self, slot: Slot[P]) -> Slot[P]:
        """Add a new slot; returns it."""
        self.by_state[slot.state][slot] = None
        if not slot.is_spare:
            self.share(slot.app.name).slots[slot.state][slot] = None
        return slot

    def move(self, slot: Slot[P], state: State) -> None:
        """Change the state of a slot; GONE removes it."""
        self._take(slot)
        slot.state = state
        if state is not State.GONE:
            self.add(slot)

    def start(self, app: App, todo: Todo[P], *, is_warm: bool = False) -> None:
        """Have a process started for an app."""
        todo.started.append(self.add(Slot(app, is_warm=is_warm)))

    def end(self, slot: Slot[P], todo: Todo[P]) -> None:
        """Have a process ended, or its start cut off."""
        self.move(slot, State.ENDING)
        todo.ended.append(slot)

    def adopt(self, slot: Slot[P], app: App) -> None:
        """Give a spare process to an app, for which it boots."""
        self._take(slot)
        slot.app, slot.is_spare, slot.state = app, False, State.BOOTING
        self.add(slot)

    def forget_apps(self, but: Callable[[str], bool]) -> None:
        """Forget apps that have no slot, except those for which `but` is true."""
        for name in [name for name in self.shares if not but(name)]:
            if not self.shares[name].live:
                del self.shares[name]

    def _take(self, slot: Slot[P]) -> None:
        del self.by_state[slot.state][slot]
        if not slot.is_spare:
            del self.share(slot.app.name).slots[slot.state][slot]
