"""Users of one app over one connection, in their own process:
`python -m benchmarks.speed.drive URL CHANNEL USERS SECONDS [RATE]`.

Without a rate, each user sends as soon as the last message is over. With one, messages are evenly
spaced at RATE per second, and latency counts from when each was due. Prints one JSON line.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import count
from uuid import uuid4

import msgspec
import trio
from attrs import define, field
from trio_websocket import WebSocketConnection

from supervisor.client.corked import Corked
from supervisor.client.websocket import open_corked

STEPS = ((None, "new"), ("1", "resume"), ("34", "resume"), ("1", "resume"))
# What the app answers: one in its error state ends its runs as "ok", too, with another text.
REPLIES = (
    "Choose your language:\n1. English\n2. Afrikaans",
    "How old are you?",
    "Where do you live?\n1. Abel\n2. Baker\n3. Cole\n4. More",
    "Born about 1986 in Abel. Thank you!",
)
SETTLE = 5.0  # seconds for the last messages


@define(eq=False)
class Users:
    """Users who repeat the survey's four steps, each time from another address."""

    socket: WebSocketConnection
    stream: Corked
    number: int
    # by message_id: when it was due, its user, and its step
    begun: dict[str, tuple[float, int, int]] = field(factory=dict)
    steps: dict[int, int] = field(factory=dict)
    latencies: list[float] = field(factory=list)
    outcomes: dict[str, int] = field(factory=dict)
    ids: count[int] = field(factory=count)
    prefix: str = field(factory=lambda: uuid4().hex[:8])

    async def say(self, user: int, due: float) -> None:
        step = self.steps.get(user, 0)
        self.steps[user] = step + 1
        content, event = STEPS[step % len(STEPS)]
        name = f"{self.prefix}-{next(self.ids)}"
        self.begun[name] = (due, user, step % len(STEPS))
        message = {
            "message_id": name,
            "from_addr": f"+27{self.prefix}{user}-{step // len(STEPS)}",
            "to_addr": "8181",
            "content": content,
            "session_event": event,
        }
        await self.socket.send_message(json.dumps({"type": "inbound", "id": name, "msg": message}))

    async def listen(self, *, again_until: float) -> None:
        """Acknowledge and count. Until `again_until` each user goes on when a message is over."""
        while True:
            frame = msgspec.json.decode(await self.socket.get_message())
            if frame["type"] == "outbound":
                await self.socket.send_message(f'{{"type":"ack","delivery":{frame["delivery"]}}}')
                if (known := self.begun.get(frame["msg"]["in_reply_to"])) is not None:
                    self.latencies.append(trio.current_time() - known[0])
                    if (content := frame["msg"]["content"]) != REPLIES[known[2]]:
                        raise AssertionError(f"{content!r} came for {REPLIES[known[2]]!r}")
            elif (
                frame["type"] == "outcome"
                and (over := self.begun.pop(frame["message_id"], None)) is not None
            ):
                self.outcomes[frame["outcome"]] = self.outcomes.get(frame["outcome"], 0) + 1
                if trio.current_time() < again_until:
                    await self.say(over[1], trio.current_time())
                elif not self.begun and again_until:
                    return
            elif frame["type"] in ("rejected", "error"):
                raise AssertionError(frame)


async def main(url: str, channel: str, number: int, seconds: float, rate: float) -> None:
    async with open_corked(url, ["jsbox.v1"]) as (socket, stream):
        await socket.send_message(
            json.dumps({"type": "hello", "channel": channel, "outcomes": True, "window": 1000})
        )
        await socket.get_message()
        users = Users(socket, stream, number)
        wall, cpu = time.perf_counter(), time.process_time()
        if rate:
            await _evenly(users, seconds, rate)
        else:
            for user in range(number):
                await users.say(user, trio.current_time())
            await users.listen(again_until=trio.current_time() + seconds)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    messages = sum(users.outcomes.values())
    ordered = sorted(users.latencies)
    print(json.dumps({
        "messages": messages, "seconds": wall, "cpu": cpu, "outcomes": users.outcomes,
        "p50": ordered[len(ordered) // 2], "p99": ordered[int(len(ordered) * 0.99)],
    }))  # fmt: skip


async def _evenly(users: Users, seconds: float, rate: float) -> None:
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            await users.listen(again_until=0.0)

        nursery.start_soon(listen)
        for n in range(int(seconds * rate)):
            due = begin + n / rate
            await trio.sleep_until(due)
            await users.say(n % users.number, due)
        with trio.move_on_after(SETTLE):
            while users.begun:  # noqa: ASYNC110  # bounded, after measuring
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    arguments = sys.argv[1:]
    trio.run(
        main,
        arguments[0],
        arguments[1],
        int(arguments[2]),
        float(arguments[3]),
        float(arguments[4]) if arguments[4:] else 0.0,
    )
