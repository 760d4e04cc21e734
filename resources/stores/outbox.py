"""The outboxes: a message is in its channel's outbox from before the app learns of success until a
client has acknowledged it. There is one Redis stream per channel; a message's delivery number is
its place in the stream.

After a store went back in time (a failover to a lagging replica, a restart without persistence,
FLUSHALL), no number that this process has seen is used again: each post names the newest one known,
and the store continues after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from zlib import crc32

import msgspec
from attrs import field, frozen

from ..messages import moment_of
from .direct import Command
from .identity import MessageIds, Sender
from .keys import channel_key
from .redis import Redis
from .room import Room
from .scripts import Script, script
from .statistics import Statistics

WAITING_MAX = 100_000  # unacknowledged messages of a channel; more are refused
WAITING_SIZE = 128 << 20  # bytes of them
PAGE_SIZE = 1 << 20  # bytes after which a page ends
STRUCK = 1000  # messages struck in one step
REMEMBERED = 24 * 3600  # seconds for which a repeated post is recognised, at least
REMEMBERED_MAX = 500_000  # newest messages of a channel that are recognised; up to twice as many
REPLY = "reply"  # the name of the slots of replies
FIRST_REPLY, FALLBACK = f"0 {REPLY}", "fallback"


class OutboxFull(Exception):
    """No more messages may wait on the channel."""


@frozen
class Parcel:
    """A message in an outbox.

    Attributes:
        delivery: Its number.
        message: Its JSON text; empty if the stored text is not JSON.
        in_reply_to: What it replies to, if known.
        attempts: How often it was handed out before it was read from the store.
        is_noted: Whether the store already counts it as handed out.
    """

    delivery: int
    message: bytes
    in_reply_to: str | None = None
    attempts: int = 0
    is_noted: bool = False


@frozen
class Struck:
    """A message that is no longer needed: its number, its size in bytes (-1: unknown), and whether
    `note_handed` ever named it.
    """

    delivery: int
    size: int = -1
    is_counted: bool = True


@frozen
class Page:
    """Some messages of an outbox, whether they are the last, and the newest number handed out in
    order so far.
    """

    parcels: Sequence[Parcel]
    is_last: bool
    handed: int


@frozen
class Waiting:
    """What waits in an outbox.

    Attributes:
        count: Messages.
        size: Bytes of them.
        oldest: When the first of them was made, if that can be read.
        newest: The delivery number of the last; 0 if there is none.
    """

    count: int = 0
    size: int = 0
    oldest: datetime | None = None
    newest: int = 0


class _Times(msgspec.Struct, frozen=True):
    timestamp: str = ""


class _Head(msgspec.Struct, frozen=True):
    in_reply_to: Any = None


_head = msgspec.json.Decoder(_Head).decode
_times = msgspec.json.Decoder(_Times).decode


@frozen
class Slot:
    """Identifies one outbound of the run of one inbound.

    Attributes:
        origin: Names the inbound.
        name: Names the outbound among those of its run.
        unless: Names of other outbounds of that run; if one was posted, this one is not.
    """

    origin: str
    name: str
    unless: Sequence[str] = ()


@frozen
class Posted:
    """The result of posting a message.

    Attributes:
        delivery: Its delivery number.
        is_repeat: Whether an earlier run of the same inbound posted it, so that it was not posted
            again.
        differs: Whether that earlier message said something else.
    """

    delivery: int
    is_repeat: bool = False
    differs: bool = False


def no_one(channel: str, parcel: Parcel | None) -> None:
    """The announcer of an outbox that nobody reads."""


def never(_: str) -> bool:
    """The `is_awaited` of an outbox that nobody reads."""
    return False


@frozen
class Outbox:
    """The outboxes of all channels. Every coroutine may raise `redis.StoreError`.

    `announce` is called, in this process, for each posted message: with the parcel, or with None if
    nobody knows whether it was posted. `is_awaited` says whether a channel's messages are handed
    out as soon as they are announced: the store then counts them as handed out from the beginning,
    which saves a write. If one is not handed out after all, its next attempt counts as the second;
    so what counts as a first attempt is always the first.
    """

    redis: Redis
    ids: MessageIds
    statistics: Statistics
    announce: Callable[[str, Parcel | None], None] = no_one
    room: Room = field(factory=Room)
    is_awaited: Callable[[str], bool] = never
    _newest: dict[str, int] = field(factory=dict, init=False)  # delivery number known, by channel
    _keys_of: dict[str, tuple[str, ...]] = field(factory=dict, init=False)
    _post: Script = field(factory=lambda: script("outbox_post"), init=False)
    _page: Script = field(factory=lambda: script("outbox_page"), init=False)
    _strike: Script = field(factory=lambda: script("outbox_strike"), init=False)

    async def post(self, channel: str, sender: Sender, message: Mapping[str, Any]) -> int:
        """Post under a fresh id, otherwise as `post_once`; return the delivery number."""
        return (await self.post_once(channel, sender, message, None)).delivery

    async def post_once(
        self, channel: str, sender: Sender, message: Mapping[str, Any], slot: Slot | None
    ) -> Posted:
        """Give a message its message_id, put it into a channel's outbox and count it, unless its
        slot was posted before.

        A slot is remembered for `REMEMBERED` seconds or `REMEMBERED_MAX` messages of the channel.
        Without a slot the message_id is fresh.

        Raises:
            OutboxFull: Too many messages wait already.
            StoreError: The store did not do it, or did not confirm it.

        Cancellation: the message may still be posted.
        """
        ids = self._ids(channel, sender, slot)
        message = {"message_id": ids[0] or self.ids.new(channel, sender), **message}
        text = msgspec.json.encode(message)
        # A user waits for a reply; what an app sends of its own accord can wait.
        self.room.check(len(text), is_urgent=message["in_reply_to"] is not None)
        said = _said(message)
        is_awaited = self.is_awaited(channel)
        bounds = (
            WAITING_MAX,
            WAITING_SIZE,
            self._newest.get(channel, 0),
            "1" if is_awaited else "",
        )
        remembered = (said, REMEMBERED, REMEMBERED_MAX, *map(bytes.fromhex, ids))
        try:
            number, *had = await self.redis.run(
                self._post, self._keys(channel), text, *bounds, *remembered
            )
        except BaseException:
            # cancelled or cut off: it may be in the stream nevertheless
            self.announce(channel, None)
            raise
        if had:
            return Posted(number, is_repeat=True, differs=had[0] != said)
        if number <= 0:
            what = (
                f"{WAITING_MAX} messages"
                if number == 0
                else f"messages of {WAITING_SIZE >> 20} MiB"
            )
            raise OutboxFull(f"{what} wait on channel {channel}")
        self._know(channel, number)
        self.announce(channel, Parcel(number, text, message["in_reply_to"], is_noted=is_awaited))
        self.statistics.count_outbound(sender, message)
        return Posted(number)

    def _keys(self, channel: str) -> tuple[str, ...]:
        """The KEYS of outbox_post.lua, made once: that saves a good part of the cost of a post."""
        keys = self._keys_of.get(channel)
        if keys is None:
            names = ("posted", "out", "size", "had", "had:before", "handed")
            keys = self._keys_of[channel] = tuple(channel_key(channel, name) for name in names)
        return keys

    def _ids(self, channel: str, sender: Sender, slot: Slot | None) -> list[str]:
        """The message_id of a slot, then those of its `unless`; `""` without a slot."""
        if slot is None:
            return [""]
        return [
            self.ids.derived(channel, sender, slot.origin, name)
            for name in (slot.name, *slot.unless)
        ]

    async def after(self, channel: str, delivery: int, count: int) -> Sequence[Parcel]:
        """The parcels after a delivery number, oldest first: at most `count`, and one page."""
        return (await self.page(channel, delivery, count)).parcels

    async def page(
        self, channel: str, delivery: int, count: int, handed_before: int | None = None
    ) -> Page:
        """As `after`, with how it goes on. Parcels up to `handed_before` count as handed out; the
        default is the store's own count.
        """
        keys = [channel_key(channel, name) for name in ("out", "handed", "attempts")]
        start = f"({delivery}-1" if delivery else "-"
        handed, is_last, *rows = await self.redis.run(self._page, keys, start, count, PAGE_SIZE)
        handed = int(handed or 0)
        before = handed if handed_before is None else handed_before
        parcels = [_parcel(place, message, times, before) for place, message, times in rows]
        if parcels:
            self._know(channel, parcels[-1].delivery)
        return Page(parcels, bool(is_last), handed)

    async def acknowledge(self, channel: str, deliveries: Sequence[int]) -> None:
        """Remove messages that the client has acknowledged."""
        await self.strike(channel, [Struck(delivery) for delivery in deliveries])

    async def strike(self, channel: str, struck: Sequence[Struck]) -> None:
        """Remove messages, using what is known about them."""
        keys = [channel_key(channel, name) for name in ("out", "size", "attempts")]
        commands: list[Command] = []
        for start in range(0, len(struck), STRUCK):
            some = struck[start : start + STRUCK]
            is_counted = "1" if any(one.is_counted for one in some) else ""
            pairs = [part for one in some for part in (one.delivery, one.size)]
            commands.append(self._strike.call(keys, is_counted, *pairs))
        await self.redis.execute_many(commands)

    def note_handed(
        self,
        channel: str,
        handed: int,
        attempts: Mapping[int, int],
        failed: Callable[[Exception], None],
    ) -> bool:
        """Record the newest number handed out in order (0: no change), and how often the others
        were, without waiting.

        Returns False if nothing can be queued now. `failed` is called if the write fails.
        """
        commands: list[Command] = (
            [("SET", channel_key(channel, "handed"), handed)] if handed else []
        )
        if attempts:
            pairs = [part for pair in attempts.items() for part in pair]
            commands.append(("HSET", channel_key(channel, "attempts"), *pairs))
        return not commands or self.redis.post(commands, failed)

    async def waiting(self, channel: str) -> int:
        """How many messages nobody has acknowledged."""
        count: int = await self.redis.execute("XLEN", channel_key(channel, "out"))
        return count

    async def waits(self, channel: str) -> Waiting:
        """Look at what nobody has acknowledged."""
        key = channel_key(channel, "out")
        count, size = await self.redis.execute_many(
            [("XLEN", key), ("GET", channel_key(channel, "size"))]
        )
        if not count:
            return Waiting()
        first, last = await self.redis.execute_many(
            [
                ("XRANGE", key, "-", "+", "COUNT", 1),
                ("XREVRANGE", key, "+", "-", "COUNT", 1),
            ]
        )
        newest = int(last[0][0].split(b"-")[0]) if last else 0
        return Waiting(count, int(size or 0), _made(first[0][1][1]) if first else None, newest)

    def _know(self, channel: str, delivery: int) -> None:
        if delivery > self._newest.get(channel, 0):
            self._newest[channel] = delivery


def _parcel(place: bytes, message: bytes, times: bytes | None, handed: int) -> Parcel:
    number = int(place.split(b"-")[0])
    try:
        in_reply_to = _head(message).in_reply_to
    except ValueError:
        in_reply_to, message = None, b""
    attempts = int(times or 0) or (1 if number <= handed else 0)
    return Parcel(number, message, in_reply_to if isinstance(in_reply_to, str) else None, attempts)


def _made(message: bytes) -> datetime | None:
    """When a message was made."""
    try:
        return moment_of(_times(message).timestamp)
    except ValueError:
        return None


def _said(message: Mapping[str, Any]) -> bytes:
    """A checksum that tells whether two messages say the same to the same address."""
    text = f"{message.get('to_addr')}\0{message.get('session_event')}\0{message.get('content')}"
    return b"%d" % crc32(text.encode())
