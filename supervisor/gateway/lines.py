"""What stands in line for gateway connections: parcels, and the ends of the runs that sent them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from attrs import define, field, frozen

from resources.stores.outbox import Parcel

from ..runs.dispatcher import Then

DONE_MAX = 10_000  # acknowledged parcels that are known again, should the store bring them back
# bytes of parcels that a connection may have unacknowledged, whatever its window
WINDOW_SIZE = 8 << 20


class Receiver(Protocol):
    """A connection that takes what goes out on its channel."""

    window: int
    outcomes: bool
    only_own: bool

    @property
    def is_free(self) -> bool:
        """Whether it reads what it gets; if not, it gets no more parcels until it calls
        `Outlet.wake`.
        """

    def push(self, frame: bytes) -> None:
        """Queue a frame to the client; never waits."""


@define(eq=False)
class Item:
    """A parcel in memory. `had`: the connections that it was handed to, and that may acknowledge
    it.
    """

    parcel: Parcel
    attempt: int  # times that it was handed out
    origin: Receiver | None  # it brought the message that this one replies to
    holder: Taker | None = None
    had: tuple[Receiver, ...] = ()
    due: float = 0.0  # when it goes out again
    is_done: bool = False  # it was acknowledged
    is_counted: bool = False  # the store has a count of its own for it

    @property
    def number(self) -> int:
        """Its delivery number."""
        return self.parcel.delivery

    @property
    def size(self) -> int:
        """Its bytes."""
        return len(self.parcel.message)


@define(eq=False)
class Done:
    """The newest parcels that were acknowledged, by number and text: a number alone may have been
    used again.
    """

    _texts: dict[int, int] = field(factory=dict, init=False)  # number to hash

    def __contains__(self, parcel: Parcel) -> bool:
        return self._texts.get(parcel.delivery) == hash(parcel.message)

    def add(self, parcel: Parcel) -> None:
        """It was acknowledged."""
        self._texts[parcel.delivery] = hash(parcel.message)
        if len(self._texts) > DONE_MAX:
            del self._texts[next(iter(self._texts))]


@frozen
class Notice:
    """The end of a message's run, which follows the run's outbounds. `after`: the newest delivery
    number when it ended.
    """

    after: int
    message_id: str
    frame: bytes | None
    then: Then


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
        """What is next."""
        return self._queue[0]

    def append(self, one: Item | Notice) -> None:
        """Put it at the end."""
        self._queue.append(one)
        self._count(one, 1)

    def pop(self) -> Item | Notice:
        """Take what is next."""
        one = self._queue.popleft()
        self._count(one, -1)
        return one

    def put_back(self, items: Iterable[Item]) -> None:
        """Put parcels to the front, in the order of their numbers among those that are there."""
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
    """A connection, and what it holds. `line`: of one that takes replies to what it brought only,
    those.
    """

    receiver: Receiver
    held: int = 0  # parcels that it has and did not acknowledge
    size: int = 0  # bytes of them
    line: Line = field(factory=Line)

    @property
    def has_room(self) -> bool:
        """Whether it may have one more parcel."""
        is_small = self.size < WINDOW_SIZE or not self.held
        return self.held < self.receiver.window and is_small and self.receiver.is_free
