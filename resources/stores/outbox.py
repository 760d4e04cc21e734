"""What is on its way out: a message is in its channel's outbox from before the app learns of success until a client has
acknowledged it. One Redis stream per channel; a message's delivery number is its place in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from attrs import field, frozen

from .identity import MessageIds, Sender
from .keys import channel_key
from .redis import Redis
from .scripts import Script, script
from .statistics import Statistics

WAITING_MAX = 100_000  # messages of a channel that nobody has acknowledged; more are refused


class OutboxFull(Exception):
    """As many messages wait on the channel as may."""


@frozen
class Parcel:
    """A message in an outbox: its number, its JSON text, and what it replies to where that is known."""

    delivery: int
    message: bytes
    in_reply_to: str | None = None


def no_one(channel: str, parcel: Parcel | None) -> None:
    """The announcer of an outbox that nobody reads."""


@frozen
class Outbox:
    """The outboxes of all channels. Every coroutine may raise `redis.StoreError`.

    `announce` is called, in this process, for each message posted: with the parcel, or with None when it is not known
    whether there is one.
    """

    redis: Redis
    ids: MessageIds
    statistics: Statistics
    announce: Callable[[str, Parcel | None], None] = no_one
    _post: Script = field(factory=lambda: script("outbox_post"), init=False)

    async def post(self, channel: str, sender: Sender, message: Mapping[str, Any]) -> int:
        """Give a message its message_id, put it into a channel's outbox, count it, and return its delivery number.

        Raises:
            OutboxFull: Too many wait already.
        """
        message = {"message_id": self.ids.new(channel, sender), **message}
        text = msgspec.json.encode(message)
        try:
            keys = (channel_key(channel, "posted"), channel_key(channel, "out"))
            delivery: int = await self.redis.run(self._post, keys, text, WAITING_MAX)
        except BaseException:
            self.announce(channel, None)  # cancelled or cut off: it may stand in the stream all the same
            raise
        if not delivery:
            raise OutboxFull(f"{WAITING_MAX} messages wait on channel {channel}")
        self.announce(channel, Parcel(delivery, text, message["in_reply_to"]))
        self.statistics.count_outbound(sender, message)
        return delivery

    async def after(self, channel: str, delivery: int, count: int) -> list[Parcel]:
        """The parcels after a delivery number, oldest first, `count` at most."""
        page: Sequence[Any] = await self.redis.execute(
            "XRANGE", channel_key(channel, "out"), f"({delivery}-1" if delivery else "-", "+", "COUNT", count
        )
        return [Parcel(int(place.split(b"-")[0]), fields[1]) for place, fields in page]

    async def acknowledge(self, channel: str, deliveries: Sequence[int]) -> None:
        """The client has them: they are not needed any more."""
        await self.redis.execute("XDEL", channel_key(channel, "out"), *(f"{delivery}-1" for delivery in deliveries))

    async def waiting(self, channel: str) -> int:
        """How many parcels nobody has acknowledged."""
        count: int = await self.redis.execute("XLEN", channel_key(channel, "out"))
        return count
