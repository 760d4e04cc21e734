"""Many users of a channel that several servers have, and what each of them must find in the end."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress

import redis
import trio
from attrs import define, field
from trio_websocket import ConnectionClosed, HandshakeError

from ..gateway_client import Client, Frame, connect, inbound

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
        sent: By message id, how often it was sent.
        outcomes: By message id, all outcomes that clients were told.
        replies: By message id, the ids of the messages that replied to it; by address, of those
            that replied to none.
        said: Likewise, their contents.
    """

    gateways: Sequence[str]
    users: int
    each: int  # messages of a user
    pause: float = 0.0  # seconds between two of a user's
    accepted: set[str] = field(factory=set)
    sent: Counter[str] = field(factory=Counter)
    outcomes: dict[str, list[Frame]] = field(factory=lambda: defaultdict(list))
    replies: dict[str, set[str]] = field(factory=lambda: defaultdict(set))
    said: dict[str, set[str]] = field(factory=lambda: defaultdict(set))
    _clients: dict[str, Client] = field(factory=dict)
    _answers: dict[str, Frame] = field(factory=dict)
    _news: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)

    @property
    def total(self) -> int:
        return self.users * self.each

    @property
    def waiting(self) -> int:
        """How many messages were accepted whose outcome nobody was told yet."""
        return sum(not self.outcomes.get(one) for one in self.accepted)

    async def wait_accepted(self, count: int) -> None:
        while len(self.accepted) < count:
            await self._news.park()

    async def has_replies(self, count: int) -> None:
        """Wait until `count` messages, or addresses, have a reply."""
        while len(self.replies) < count:
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
                self.outcomes[frame["message_id"]].append(frame)
            case "outbound":
                msg = frame["msg"]
                about = msg["in_reply_to"] or msg["to_addr"]
                self.replies[about].add(msg["message_id"])
                self.said[about].add(msg["content"])
        self._news.unpark_all()

    async def _user(self, user: int) -> None:
        for number in range(self.each):
            attempt = user + number
            while f"{user}.{number}" not in self.accepted:
                gateway = self.gateways[attempt % len(self.gateways)]
                attempt += 1
                await self._send(gateway, user, number)
            await trio.sleep(self.pause)

    async def _send(self, gateway: str, user: int, number: int) -> None:
        """Send a message to a server; wait for its answer, or for a while."""
        name, client = f"{user}.{number}", self._clients.get(gateway)
        if client is None:
            await trio.sleep(AGAIN / 10)
            return
        frame = inbound(name, f"+{user}")
        frame["msg"]["content"] = str(number)
        self._answers.pop(name, None)
        self.sent[name] += 1
        try:
            await client.send(frame)
        except ConnectionClosed:  # its client notices soon
            await trio.sleep(AGAIN)
            return
        with trio.move_on_after(ANSWER_SECONDS):
            while name not in self._answers and self._clients.get(gateway) is client:
                await self._news.park()
        if self._answers.get(name, {}).get("type") != "accepted":
            await trio.sleep(AGAIN)

    @property
    def untold(self) -> list[tuple[int, int]]:
        """The messages whose outcome nobody was told: user and number."""
        all_of_them = itertools.product(range(self.users), range(self.each))
        return [one for one in all_of_them if not self.outcomes["{}.{}".format(*one)]]

    async def ask(self) -> int:
        """When all has ended: send every message again whose outcome was on its way to a connection
        that closed, each to some server. Return how many there were.
        """
        first = len(self.untold)
        with trio.move_on_after(END_SECONDS):
            while untold := self.untold:
                for n, (user, number) in enumerate(untold):
                    await self._send(self.gateways[n % len(self.gateways)], user, number)
                await trio.sleep(AGAIN)
            return first
        raise AssertionError(f"{len(self.untold)} outcomes are not told: {self.untold[:20]}")

    async def all_has_ended(self, store: redis.Redis) -> None:
        """Wait until the journals and outboxes are empty."""
        with trio.move_on_after(END_SECONDS):
            while left := _left_in(store):
                await trio.sleep(0.1)
            return
        raise AssertionError(f"not done: {left}")

    def check(self, store: redis.Redis, cut_off: int) -> None:
        """Check what everybody has.

        Args:
            store: Where the outcomes are kept, and what the apps wrote.
            cut_off: How many runs may have been in progress when servers died: each may have run
                a second time.
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
        assert twice <= cut_off, f"{twice} effects twice, of at most {cut_off} runs cut off"
        ids = [f"{user}.{n}" for user in range(self.users) for n in range(self.each)]
        ended = store.mget([f"{prefix}seen:phone:message:{one}" for one in ids])
        for one, text in zip(ids, ended, strict=True):
            assert re.fullmatch(rb'\d+-\d+ \["ok",[0-9.]+,4\]', text), (one, text)
            kept = json.loads(text.partition(b" ")[2])
            for frame in self.outcomes[one]:
                assert [frame["outcome"], frame["ms"], frame["commands"]] == kept, frame
        again = {one: told for one, told in self.outcomes.items() if len(told) > self.sent[one]}
        assert not again, f"outcomes told again that nobody asked for: {again}"
        lost = [one for one in ids if not self.replies[one]]
        assert not lost, f"{len(lost)} replies lost: {lost[:20]}"
        ambiguous = {one: found for one, found in self.replies.items() if len(found) > 1}
        assert not ambiguous, f"under two ids: {ambiguous}"
        assert not self.untold, f"outcomes not told: {self.untold[:20]}"


def _left_in(store: redis.Redis) -> dict[str, int]:
    keys = [*store.keys("jsbox:{acct}:in:*"), *store.keys("jsbox:{channel:phone}:out*")]
    counts = {key.decode(): int(store.xlen(key)) for key in keys}
    return {key: count for key, count in counts.items() if count}
