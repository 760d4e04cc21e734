"""What waits in line for gateway connections: parcels, and the ends of the runs that sent them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from attrs import define, field, frozen

from resources.stores.outbox import Parcel

from ..runs.jobs import Then

# bytes of parcels that a connection may have unacknowledged, whatever its window
WINDOW_SIZE = 8 << 20
REPEAT_MAX = 60.0  # seconds; the waits between attempts double up to this


class Receiver(Protocol):
    """A connection that takes what goes out on its channel.

    Attributes:
        window: Parcels that it holds unacknowledged at a time.
        outcomes: Whether it wants to know how runs ended.
        only_own: It takes only replies to messages that it brought.
        repeats: Whether a parcel is handed out again when it is not acknowledged in
            `gateway.ack_timeout`. If not, it must be acknowledged eventually, or the
            connection detached.
    """

    window: int
    outcomes: bool
    only_own: bool
    repeats: bool

    @property
    def is_free(self) -> bool:
        """Whether the client reads what it gets. If not, it gets no more parcels until
        `Outlet.wake` is called.
        """

    def deliver(self, delivery: int, attempt: int, message: bytes) -> None:
        """Take a parcel: its number, the number of this attempt (from 1), and its JSON text.
        Must not wait. `Outlet.acknowledge` says that the other side has it.
        """

    def push(self, frame: bytes) -> None:
        """Take the outcome of a run, as a frame of the WebSocket protocol; only if `outcomes`. Must
        not wait.
        """


@define(eq=False)
class Item:
    """A parcel in memory. `had`: the connections that it was handed to and that may acknowledge
    it.
    """

    parcel: Parcel
    attempt: int  # how often it was handed out
    origin: Receiver | None  # it brought the message that this one replies to
    holder: Taker | None = None
    had: tuple[Receiver, ...] = ()
    due: float = 0.0  # when it goes out again
    is_acknowledged: bool = False
    is_counted: bool = False  # the store has a count of its own for it

    @property
    def number(self) -> int:
        """Its delivery number."""
        return self.parcel.delivery

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return len(self.parcel.message)


@frozen
class End:
    """The end of a message's run. `after`: the newest delivery number when it ended; `then`: what
    is called when its outbounds were handed out.
    """

    after: int
    message_id: str
    then: Then


@frozen
class Notice:
    """Tells an end; it follows the run's outbounds.

    Attributes:
        to: The only connection that is told.
        is_last: Nothing else tells it, and nothing that replies to the message follows.
    """

    end: End
    frame: bytes | None
    to: Receiver | None = None
    is_last: bool = True


@define(eq=False)
class Line:
    """Parcels in the order in which they go out, and notices between them."""

    parcels: int = field(default=0, init=False)
    size: int = field(default=0, init=False)
    """Bytes of the parcels."""
    _queue: deque[Item | Notice] = field(factory=deque, init=False)

    def __bool__(self) -> bool:
        return bool(self._queue)

    @property
    def first(self) -> Item | Notice:
        """What goes out next."""
        return self._queue[0]

    def append(self, one: Item | Notice) -> None:
        """Put a parcel or notice at the end."""
        self._queue.append(one)
        self._count(one, 1)

    def pop(self) -> Item | Notice:
        """Take out what goes out next."""
        one = self._queue.popleft()
        self._count(one, -1)
        return one

    def put_back(self, items: Iterable[Item]) -> None:
        """Put parcels at the front, sorted by number together with those that are there."""
        front = list(items)
        newest = max((item.number for item in front), default=0)
        while self._queue and isinstance(self.first, Item) and self.first.number < newest:
            one = self.pop()
            assert isinstance(one, Item)
            front.append(one)
        front.sort(key=lambda item: item.number)
        for item in front:
            self._count(item, 1)
        self._queue.extendleft(reversed(front))

    def take_notices(self) -> list[Notice]:
        """Take out the notices."""
        notices = [one for one in self._queue if isinstance(one, Notice)]
        self._queue = deque(one for one in self._queue if isinstance(one, Item))
        return notices

    def take_items(self) -> list[Item]:
        """Take out the parcels."""
        items = [one for one in self._queue if isinstance(one, Item)]
        self._queue = deque(one for one in self._queue if isinstance(one, Notice))
        self.parcels = self.size = 0
        return items

    def _count(self, one: Item | Notice, sign: int) -> None:
        if isinstance(one, Item):
            self.parcels += sign
            self.size += sign * one.size


@define(eq=False)
class Taker:
    """A connection and what it holds. `line` is used only by one that takes nothing but replies to
    what it brought: it has those.
    """

    receiver: Receiver
    held: int = 0  # parcels that it was handed and has not acknowledged
    size: int = 0  # bytes of them
    line: Line = field(factory=Line)

    @property
    def has_room(self) -> bool:
        """Whether it may be handed one more parcel."""
        is_small = self.size < WINDOW_SIZE or not self.held
        return self.held < self.receiver.window and is_small and self.receiver.is_free

    def patience(self, attempt: int, ack_timeout: float) -> float:
        """How many seconds an attempt is waited for to be acknowledged."""
        if not self.receiver.repeats:
            return float("inf")
        doubled = ack_timeout * float(1 << min(attempt - 1, 10))
        return min(doubled, max(REPEAT_MAX, ack_timeout))
