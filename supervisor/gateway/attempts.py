"""How often parcels were handed out, kept in the store so that `attempt` goes on after a restart.

One number covers nearly all of them: every parcel up to it was handed out once, in order. Parcels
that went out again or out of order are counted one by one. Nothing waits for these counts.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, field

from resources.stores.outbox import Outbox

from .lines import Item


@define(eq=False)
class Attempts:
    """The counts of one channel."""

    _channel: str
    _outbox: Outbox
    _items: Mapping[int, Item]  # every parcel in memory
    before: int | None = field(default=None, init=False)
    """Earlier processes handed out every parcel up to this number; None: not known yet."""
    _handed: int = field(default=0, init=False)  # every parcel up to this number was handed out
    _is_noted: bool = field(default=True, init=False)  # whether the store knows `_handed`
    # Delivery number to attempts, not in the store yet.
    _others: dict[int, int] = field(factory=dict, init=False)

    def know(self, handed: int) -> None:
        """Take over the number that earlier processes left in the store; only the first call
        counts.
        """
        if self.before is None:
            self.before = handed
            self._handed = max(self._handed, handed)

    def count(self, item: Item, *, in_order: bool) -> None:
        """Count a parcel as handed out; `in_order`: so were all before it."""
        if item.parcel.is_noted and item.attempt == 1:
            self._handed = max(self._handed, item.number)
        elif item.attempt > 1 or (item.number > self._handed + 1 and not in_order):
            self._others[item.number] = item.attempt
            item.is_counted = True
        elif item.number > self._handed:
            self._handed, self._is_noted = item.number, False

    def note(self) -> None:
        """Send the store what it does not know yet; never waits."""
        if self._is_noted and not self._others:
            return
        handed = 0 if self._is_noted else self._handed
        others = {number: times for number, times in self._others.items() if number in self._items}
        if self._outbox.note_handed(self._channel, handed, others, self._failed):
            self._is_noted = True
            self._others = {}

    def _failed(self, _: Exception) -> None:
        """The store did not take the counts: send them again with the next parcel."""
        self._is_noted = self._handed == 0
        self._others = {
            number: item.attempt for number, item in self._items.items() if item.attempt > 1
        }
