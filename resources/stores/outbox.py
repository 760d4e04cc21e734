"""The outboxes: a message is in its channel's outbox from before the app learns of success until a
client has acknowledged it. There is one Redis stream per channel; a message's delivery number is
its place in the stream.

If several servers share the work, each has an outbox of its own for every channel, beside a common
one. A message goes into that of a server which is connected to the channel, preferably the server
that took in the message it replies to. While none is connected, it waits in the common outbox.

After a store went back in time (a failover to a lagging replica, a restart without persistence,
FLUSHALL), no number that this process has seen is used again: each post names the newest one known,
and the store continues after it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from zlib import crc32

import msgspec
from attrs import field, frozen

from .fencing import current_fence
from .identity import MessageIds, Sender
from .keys import channel_key
from .parcels import OutboxFull, Page, Parcel, Posted, Slot, Struck, Waiting, made, parcel_of
from .redis import Redis
from .resp import Command
from .room import Room
from .scripts import Script, script
from .statistics import Statistics

__all__ = ["Outbox", "OutboxFull", "Page", "Parcel", "Posted", "Slot", "Struck", "Waiting"]

WAITING_MAX = 100_000  # unacknowledged messages of a channel; more are refused
WAITING_SIZE = 128 << 20  # bytes of them
PAGE_SIZE = 1 << 20  # bytes after which a page ends
STRUCK = 1000  # messages struck in one step
REMEMBERED = 24 * 3600  # seconds for which a repeated post is recognised, at least
REMEMBERED_MAX = 500_000  # newest messages of a channel that are recognised; up to twice as many
REPLY = "reply"  # the name of the slots of replies
FIRST_REPLY, FALLBACK = f"0 {REPLY}", "fallback"


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
    host: str = ""  # who we are, if several servers share the work
    _newest: dict[str, int] = field(factory=dict, init=False)  # delivery number known, by channel
    _keys_of: dict[str, tuple[str, ...]] = field(factory=dict, init=False)
    _post: Script = field(factory=lambda: script("outbox_post"), init=False)
    _send: Script = field(factory=lambda: script("outbox_send"), init=False)
    _move: Script = field(factory=lambda: script("outbox_move"), init=False)
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
        to = self.host
        try:
            if to:
                to, number, *had = await self._send_shared(
                    channel, message, (text, *bounds, *remembered)
                )
            else:
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
        if to == self.host:
            self._know(channel, number)
            parcel = Parcel(number, text, message["in_reply_to"], is_noted=is_awaited)
            self.announce(channel, parcel)
        self.statistics.count_outbound(sender, message)
        return Posted(number)

    def _keys(self, channel: str) -> tuple[str, ...]:
        """The KEYS of outbox_post.lua, made once: that saves a good part of the cost of a post."""
        keys = self._keys_of.get(channel)
        if keys is None:
            names = ("posted", "out", "size", "had", "had:before", "handed")
            keys = self._keys_of[channel] = tuple(channel_key(channel, name) for name in names)
        return keys

    async def _send_shared(
        self, channel: str, message: Mapping[str, Any], args: Sequence[Any]
    ) -> list[Any]:
        """Post to the outbox of a server that is connected; its host, then as `_post` answers."""
        fence = current_fence()
        via, partition, epoch = "", "", 0
        if fence is not None:
            partition, epoch = fence.partition, fence.epoch
            via = fence.via if message["in_reply_to"] is not None else ""
        keys = (*self._keys(channel), channel_key(channel, "takers"), channel_key(channel, "epoch"))
        to, *answer = await self.redis.run(
            self._send, keys, self.host, via, partition, epoch, *args
        )
        return [to.decode(), *answer]

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
        keys = self._own(channel, "out", "handed", "attempts")
        start = f"({delivery}-1" if delivery else "-"
        handed, is_last, *rows = await self.redis.run(self._page, keys, start, count, PAGE_SIZE)
        handed = int(handed or 0)
        before = handed if handed_before is None else handed_before
        parcels = [parcel_of(place, message, times, before) for place, message, times in rows]
        if parcels:
            self._know(channel, parcels[-1].delivery)
        return Page(parcels, bool(is_last), handed)

    async def acknowledge(self, channel: str, deliveries: Sequence[int]) -> None:
        """Remove messages that the client has acknowledged."""
        await self.strike(channel, [Struck(delivery) for delivery in deliveries])

    async def strike(self, channel: str, struck: Sequence[Struck]) -> None:
        """Remove messages, using what is known about them."""
        keys = self._own(channel, "out", "size", "attempts")
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
        handed_key, attempts_key = self._own(channel, "handed", "attempts")
        commands: list[Command] = [("SET", handed_key, handed)] if handed else []
        if attempts:
            pairs = [part for pair in attempts.items() for part in pair]
            commands.append(("HSET", attempts_key, *pairs))
        return not commands or self.redis.post(commands, failed)

    async def waiting(self, channel: str) -> int:
        """How many messages nobody has acknowledged."""
        count: int = await self.redis.execute("XLEN", *self._own(channel, "out"))
        return count

    async def waits(self, channel: str) -> Waiting:
        """Look at what nobody has acknowledged."""
        key, size_key = self._own(channel, "out", "size")
        count, size = await self.redis.execute_many([("XLEN", key), ("GET", size_key)])
        if not count:
            return Waiting()
        first, last = await self.redis.execute_many(
            [
                ("XRANGE", key, "-", "+", "COUNT", 1),
                ("XREVRANGE", key, "+", "-", "COUNT", 1),
            ]
        )
        newest = int(last[0][0].split(b"-")[0]) if last else 0
        return Waiting(count, int(size or 0), made(first[0][1][1]) if first else None, newest)

    async def say_taker(self, channel: str, kind: str) -> None:
        """Say that we are connected to a channel: "g"; "o" if our connections take only replies to
        what they brought; "" if we are not.
        """
        key = channel_key(channel, "takers")
        if kind:
            await self.redis.execute("HSET", key, self.host, kind)
        else:
            await self.redis.execute("HDEL", key, self.host)

    async def remind(self, channel: str, kind: str) -> None:
        """A store that went back in time may have forgotten that we are connected to a channel, and
        which numbers others have used in our outbox: see to both.
        """
        await self.say_taker(channel, kind)
        newest = self._newest.get(channel, 0)
        await self.redis.run(script("outbox_raise"), self._own(channel, "posted"), newest)

    async def takers(self, channel: str) -> list[str]:
        """The hosts that are connected to a channel for messages to anybody."""
        flat = await self.redis.execute("HGETALL", channel_key(channel, "takers"))
        return [
            host.decode("utf-8", "replace")
            for host, kind in zip(flat[::2], flat[1::2], strict=True)
            if kind == b"g"
        ]

    async def all_takers(self, channel: str) -> list[str]:
        """The hosts that are said to be connected to a channel, for whatever messages."""
        found = await self.redis.execute("HKEYS", channel_key(channel, "takers"))
        return [host.decode("utf-8", "replace") for host in found]

    async def take_over(self, channel: str) -> int:
        """Move what waits in the common outbox into ours; return how many messages."""
        return await self._move_all(channel, "", self.host)

    async def leave(self, channel: str, host: str, to: str = "") -> int:
        """Move a host's waiting messages to the common outbox, or to that of another host, and
        remove the host from the takers; return how many messages were moved.
        """
        await self.redis.execute("HDEL", channel_key(channel, "takers"), host)
        return await self._move_all(channel, host, to)

    async def forget(self, channels: Collection[str], host: str) -> None:
        """Delete what is left of the outboxes of a host that is dead, and whose messages others
        have: its numbers begin anew if it comes back.
        """
        names = ("out", "posted", "size", "handed", "attempts")
        commands = [
            script("outbox_forget").call(
                [
                    channel_key(channel, "takers"),
                    *(channel_key(channel, name, host) for name in names),
                ],
                host,
            )
            for channel in channels
        ]
        if commands:
            await self.redis.execute_many(commands)

    async def _move_all(self, channel: str, source: str, target: str) -> int:
        names = ("out", "size", "handed", "attempts")
        keys = [
            channel_key(channel, name, *((host,) if host else ()))
            for host in (source, target)
            for name in names
        ]
        keys.append(channel_key(channel, "posted", *((target,) if target else ())))
        count = 0
        while moved := await self.redis.run(self._move, keys, STRUCK):
            count += moved
        return count

    def _own(self, channel: str, *names: str) -> list[str]:
        """The keys of the outbox that we hand out."""
        host = (self.host,) if self.host else ()
        return [channel_key(channel, name, *host) for name in names]

    def _know(self, channel: str, delivery: int) -> None:
        if delivery > self._newest.get(channel, 0):
            self._newest[channel] = delivery


def _said(message: Mapping[str, Any]) -> bytes:
    """A checksum that tells whether two messages say the same to the same address."""
    text = f"{message.get('to_addr')}\0{message.get('session_event')}\0{message.get('content')}"
    return b"%d" % crc32(text.encode())
