"""The connections of one channel: what each may take, and which messages it brought."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from attrs import define, field

from .lines import Item, Receiver, Taker


@define(eq=False)
class Takers:
    """The connections of one channel."""

    general: Sequence[Taker] = field(factory=tuple, init=False)
    """Those that take any message, whoever it is for."""
    _all: dict[Receiver, Taker] = field(factory=dict, init=False)
    _origins: dict[str, Receiver] = field(factory=dict, init=False)  # by message_id, in progress
    _asking: dict[str, dict[Receiver, None]] = field(factory=dict, init=False)  # likewise

    @property
    def all(self) -> Collection[Taker]:
        """Every connection."""
        return self._all.values()

    @property
    def have_own(self) -> bool:
        """Whether any connection takes only replies to what it brought."""
        return len(self._all) > len(self.general)

    @property
    def kind(self) -> str:
        """What the connections take: see `Outlet.on_takers`."""
        return "g" if self.general else "o" if self._all else ""

    def has(self, taker: Taker) -> bool:
        """Whether it is still connected."""
        return self._all.get(taker.receiver) is taker

    @property
    def have_room(self) -> bool:
        """Whether a parcel for anybody would be taken now."""
        return any(taker.has_room for taker in self.general)

    def add(self, receiver: Receiver) -> None:
        """A connection opened."""
        taker = self._all[receiver] = Taker(receiver)
        if not receiver.only_own:
            self.general = (*self.general, taker)

    def remove(self, receiver: Receiver) -> Taker:
        """A connection closed; forget what it brought, and return what it held."""
        taker = self._all.pop(receiver)
        self.general = tuple(one for one in self.general if one is not taker)
        self._origins = {
            message_id: origin
            for message_id, origin in self._origins.items()
            if origin is not receiver
        }
        for message_id, asking in list(self._asking.items()):
            asking.pop(receiver, None)
            if not asking:
                del self._asking[message_id]
        return taker

    def brought(self, message_id: str, receiver: Receiver) -> None:
        """A connection brought this message; `forget` ends that. Replies go to the first that did;
        others want to know how it ends, too.
        """
        if self._origins.setdefault(message_id, receiver) is not receiver:
            self._asking.setdefault(message_id, {})[receiver] = None

    def forget(self, message_id: str) -> None:
        """Nothing that replies to this message will follow."""
        self._origins.pop(message_id, None)
        self._asking.pop(message_id, None)

    def asking(self, message_id: str) -> Sequence[Taker]:
        """The connections that take only replies to what they brought, and brought this message
        after another.
        """
        found = (self.own(receiver) for receiver in self._asking.get(message_id, ()))
        return [taker for taker in found if taker is not None]

    def origin_of(self, message_id: str | None) -> Receiver | None:
        """The connection that brought a message, while it is open and the message in progress."""
        return None if message_id is None else self._origins.get(message_id)

    def own(self, origin: Receiver | None) -> Taker | None:
        """The connection that brought a message, if it takes only replies to what it brought."""
        return self._all.get(origin) if origin is not None and origin.only_own else None

    def want_outcome(self, message_id: str) -> bool:
        """Whether any connection wants to know how the run of a message ended."""
        origin = self._origins.get(message_id)
        if self.asking(message_id):
            return True
        return any(taker.receiver.outcomes for taker in self.general) or (
            origin is not None and origin.outcomes
        )


def choose(item: Item, takers: Sequence[Taker]) -> Taker | None:
    """The connection that brought the message replied to, else the one that holds fewest parcels;
    None if all are full.
    """
    best = None
    for taker in takers:
        if taker.has_room:
            if taker.receiver is item.origin:
                return taker
            if best is None or taker.held < best.held:
                best = taker
    return best
