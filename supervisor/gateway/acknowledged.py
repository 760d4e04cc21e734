"""Parcels that clients have acknowledged: struck from their stream in the store, and recognised
should the store bring them back.
"""

from __future__ import annotations

from attrs import define, field

from resources.stores.outbox import Outbox, Parcel, Struck

from .lines import Item

KNOWN_MAX = 10_000  # acknowledged parcels that are recognised, the newest


@define(eq=False)
class Acknowledged:
    """The acknowledged parcels of one channel."""

    _channel: str
    _outbox: Outbox
    _waiting: list[Struck] = field(factory=list, init=False)  # not yet struck from the stream
    _is_striking: bool = field(default=False, init=False)
    # Delivery number to hash of the text: a number alone may have been used again.
    _known: dict[int, int] = field(factory=dict, init=False)

    def __contains__(self, parcel: Parcel) -> bool:
        return self._known.get(parcel.delivery) == hash(parcel.message)

    @property
    def is_struck(self) -> bool:
        """Whether the stream holds none of them any more."""
        return not (self._waiting or self._is_striking)

    def add(self, item: Item) -> None:
        """Note an acknowledged parcel; `strike` takes it out of the stream."""
        self._know(item.parcel)
        self._waiting.append(Struck(item.number, item.size, item.is_counted))

    def drop(self, parcel: Parcel) -> None:
        """Note a parcel that must leave the stream without a new acknowledgement."""
        self._know(parcel)
        self._waiting.append(Struck(parcel.delivery))

    def _know(self, parcel: Parcel) -> None:
        self._known[parcel.delivery] = hash(parcel.message)
        if len(self._known) > KNOWN_MAX:
            del self._known[next(iter(self._known))]

    async def strike(self) -> None:
        """Take all of them out of the stream. If the store fails, or this is cancelled, they are
        struck by the next call.

        Raises:
            StoreError: The store did not do it.
        """
        while self._waiting:
            struck, self._waiting = self._waiting, []
            self._is_striking = True
            try:
                await self._outbox.strike(self._channel, struck)
            except BaseException:
                self._waiting = struck + self._waiting
                raise
            finally:
                self._is_striking = False
