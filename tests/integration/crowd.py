"""Many users of a channel that several servers have, and what each of them must find in the end."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

import redis
import trio
from attrs import define, field
from trio_websocket import ConnectionClosed, HandshakeError

from ..gateway_client import Frame, connect, inbound

AGAIN = 0.2  # seconds after a message was not accepted
ANSWER_SECONDS = 4.0  # for a message to be accepted, until it is sent to another server
END_SECONDS = 120.0  # for everything to come to its end

# Counts its runs, keeps the numbers of the user's messages in the order of their runs, and replies.
APP = """
    var user = command.msg.from_addr, key = 'had ' + user;
    api.request('kv.incr', {key: 'runs ' + user}, function () {
        api.request('kv.get', {key: key}, function (reply) {
            if (!reply.success) { return api.done(); }
            var had = reply.value || [];
            had.push(command.msg.content);
            api.request('kv.set', {key: key, value: had}, function () {
                api.request('outbound.reply_to', {content: 'had ' + command.msg.content,
                    in_reply_to: command.msg.message_id}, function () { api.done(); });
            });
        });
    });"""


@define(eq=False)
class Crowd:
    """Users who each send their next message when the one before is accepted, by whichever server
    takes it.

    Attributes:
        accepted: Ids of messages that were.
        outcomes: By message id, all outcomes that clients were told.
        replies: By message id, the ids of the messages that replied to it.
    """

    gateways: Sequence[str]
    users: int
    each: int  # messages of a user
    pause: float = 0.0  # seconds between two of a user's
    accepted: set[str] = field(factory=set)
    outcomes: dict[str, list[str]] = field(factory=lambda: defaultdict(list))
    replies: dict[str, set[str]] = field(factory=lambda: defaultdict(set))
    _clients: dict[str, object] = field(factory=dict)
    _answers: dict[str, Frame] = field(factory=dict)
    _news: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)

    @property
    def total(self) -> int:
        return self.users * self.each

    async def wait_accepted(self, count: int) -> None:
        while len(self.accepted) < count:
            await self._news.park()

    async def stay(self) -> None:
        """Keep a client at each server, for ever."""
        async with trio.open_nursery() as nursery:
            for gateway in self.gateways:
                nursery.start_soon(self._client, gateway)

    async def speak(self) -> None:
        """Send everything."""
        async with trio.open_nursery() as nursery:
            for user in range(self.users):
                nursery.start_soon(self._user, user)

    async def _client(self, gateway: str) -> None:
        while True:
            try:
                async with connect(gateway, acknowledge=False, window=64) as client:
                    self._clients[gateway] = client
                    self._news.unpark_all()
                    while client.closed is None or client.frames:
                        if not client.frames:
                            await client._news.park()
                        frames, client.frames = client.frames, []
                        for frame in frames:
                            self._take(frame)
                        for frame in frames:
                            if frame["type"] == "outbound":
                                with suppress(ConnectionClosed):
                                    ack = {"type": "ack", "delivery": frame["delivery"]}
                                    await client.send(ack)
            except* (OSError, HandshakeError, ConnectionClosed, AssertionError):
                pass
            finally:
                self._clients.pop(gateway, None)
            await trio.sleep(AGAIN)

    def _take(self, frame: Frame) -> None:
        match frame["type"]:
            case "accepted":
                self.accepted.add(frame["message_id"])
                self._answers[frame["id"]] = frame
            case "rejected":
                self._answers[frame["id"]] = frame
            case "outcome":
                self.outcomes[frame["message_id"]].append(frame["outcome"])
            case "outbound":
                self.replies[frame["msg"]["in_reply_to"]].add(frame["msg"]["message_id"])
        self._news.unpark_all()

    async def _user(self, user: int) -> None:
        for number in range(self.each):
            name = f"{user}.{number}"
            attempt = 0
            while name not in self.accepted:
                gateway = self.gateways[(user + number + attempt) % len(self.gateways)]
                attempt += 1
                client = self._clients.get(gateway)
                if client is None:
                    await trio.sleep(AGAIN / 10)
                    continue
                frame = inbound(name, f"+{user}")
                frame["msg"]["content"] = str(number)
                self._answers.pop(name, None)
                try:
                    await client.send(frame)
                except ConnectionClosed:  # its client notices soon
                    await trio.sleep(AGAIN)
                    continue
                with trio.move_on_after(ANSWER_SECONDS):
                    while name not in self._answers and self._clients.get(gateway) is client:
                        await self._news.park()
                if name not in self.accepted:
                    await trio.sleep(AGAIN)
            await trio.sleep(self.pause)

    async def all_has_ended(self, store: redis.Redis) -> None:
        """Wait until the journals and outboxes are empty."""
        with trio.move_on_after(END_SECONDS):
            while left := _left_in(store):
                await trio.sleep(0.1)
            return
        raise AssertionError(f"not done: {left}")

    def check(self, store: redis.Redis, in_hand: int, most_untold: int) -> None:
        """Check what everybody has.

        Args:
            store: Where the outcomes are kept, and what the apps wrote.
            in_hand: How many runs may have been in progress when servers died: each may have run
                a second time.
            most_untold: How many outcomes may have been on their way to a client that was cut off.
        """
        assert len(self.accepted) == self.total
        prefix = "jsbox:{acct}:"
        twice = 0
        for user in range(self.users):
            had = json.loads(store.get(f"{prefix}kv:had +{user}"))
            had = [had] if isinstance(had, str) else had
            once = [number for n, number in enumerate(had) if n == 0 or had[n - 1] != number]
            assert once == [str(n) for n in range(self.each)], f"user {user} is out of order: {had}"
            runs = int(store.get(f"{prefix}kv:runs +{user}"))
            assert self.each <= len(had) <= runs
            twice += runs - self.each
        assert twice <= in_hand, f"{twice} effects twice, of at most {in_hand} runs in hand"
        ids = [f"{user}.{n}" for user in range(self.users) for n in range(self.each)]
        ended = store.mget([f"{prefix}seen:phone:message:{one}" for one in ids])
        for one, text in zip(ids, ended, strict=True):
            assert re.fullmatch(rb'\d+-\d+ \["ok",[0-9.]+,4\]', text), (one, text)
        again = {one: told for one, told in self.outcomes.items() if len(told) > 1}
        assert not again, f"outcomes told twice: {again}"
        assert not {one: told for one, told in self.outcomes.items() if told != ["ok"]}
        lost = [one for one in ids if not self.replies[one]]
        assert not lost, f"{len(lost)} replies lost: {lost[:20]}"
        ambiguous = {one: found for one, found in self.replies.items() if len(found) > 1}
        assert not ambiguous, f"under two ids: {ambiguous}"
        untold = [one for one in ids if not self.outcomes[one]]
        assert len(untold) <= most_untold, f"{len(untold)} outcomes not told: {untold[:20]}"


def _left_in(store: redis.Redis) -> dict[str, int]:
    keys = [*store.keys("jsbox:{acct}:in:*"), *store.keys("jsbox:{channel:phone}:out*")]
    counts = {key.decode(): int(store.xlen(key)) for key in keys}
    return {key: count for key, count in counts.items() if count}
