"""How many messages each conversation has had: totals, distinct addresses, and how many a second
lately.

Counted where messages pass (the journal and the outbox), once per id, by the messages' own
timestamps. What is kept for a conversation does not grow with its traffic: counters, a HyperLogLog
for each direction (0.81% error), and rings of counts for the seconds of the last hour and the
minutes of the last week.

A throughput's window ends now, as the conversation's own clock has it: the newest timestamp plus
the time that passed since it came. So a campaign that is replayed with old timestamps has the rate
that it had, and one that has gone quiet decays to nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from attrs import field, frozen

from ..fence import fence
from ..messages import moment_of
from .identity import Sender
from .keys import account_key, prefix_of
from .redis import Redis, StoreError, Unavailable
from .resp import Command
from .scripts import Script, script

log = logging.getLogger(__name__)

Direction = Literal["in", "out"]

STATUS = (
    "sent", "ack", "nack", "delivery_report", "delivery_report_pending", "delivery_report_failed",
    "delivery_report_delivered",
)  # fmt: skip
SAMPLE_MAX = 7 * 86400  # seconds: the longest window of a throughput


def second_of(timestamp: str) -> int:
    """A Vumi date as whole seconds since 1970; earlier dates count as 1970."""
    return max(int(moment_of(timestamp).timestamp()), 0)


@frozen
class Totals:
    """All messages of a conversation so far, and the numbers of distinct addresses."""

    sent: int
    received: int
    inbound_uniques: int
    outbound_uniques: int


@frozen
class Statistics:
    """The counts of all conversations. Every coroutine may raise `redis.StoreError`."""

    redis: Redis
    _outbound: Script = field(factory=lambda: script("statistics_outbound"), init=False)
    _rate: Script = field(factory=lambda: script("statistics_rate"), init=False)

    def count_outbound(self, sender: Sender, message: Mapping[str, Any]) -> None:
        """Count a sent message, without waiting. Never raises: the message is on its way."""

        def failed(error: Exception) -> None:
            log.warning(
                "app %s: a message that was sent may be missing in its statistics: %s",
                sender.app,
                error,
            )

        with fence("statistics", f"app {sender.app}"):
            where = (
                prefix_of(sender.account),
                sender.app,
                message["to_addr"] or "",
                second_of(message["timestamp"]),
            )
            if not self.redis.post([self._outbound.call([_totals(sender)], *where)], failed):
                failed(Unavailable("too much waits for the store", sent=False))

    async def progress(self, sender: Sender) -> dict[str, int]:
        """The seven counts of `STATUS`."""
        names = ("out", *STATUS[1:])
        counts = await self.redis.execute("HMGET", _totals(sender), *names)
        return {name: int(count or 0) for name, count in zip(STATUS, counts, strict=True)}

    async def count(self, sender: Sender, direction: Direction) -> int:
        """Messages in one direction."""
        return int(await self.redis.execute("HGET", _totals(sender), direction) or 0)

    async def uniques(self, sender: Sender, direction: Direction) -> int:
        """Roughly how many addresses messages came from, or went to."""
        return int(await self.redis.execute("PFCOUNT", _uniques(sender, direction)))

    async def throughput(self, sender: Sender, direction: Direction, seconds: int) -> float:
        """Messages per minute in the last `seconds` (1 to `SAMPLE_MAX`)."""
        count = await self.redis.run(
            self._rate, [_totals(sender)], prefix_of(sender.account), sender.app, direction, seconds
        )
        return int(count) / (seconds / 60.0)

    async def totals(self, senders: Collection[Sender]) -> list[Totals | StoreError]:
        """The totals of several conversations, in one exchange; if the store refuses one, its error
        is in its place.
        """
        commands: list[Command] = []
        for sender in senders:
            commands.append(("HMGET", _totals(sender), "out", "in"))
            commands += [("PFCOUNT", _uniques(sender, direction)) for direction in ("in", "out")]
        answers = await self.redis.attempt(commands)
        return [_totals_of(answers[n : n + 3]) for n in range(0, len(answers), 3)]

    async def is_known(self, sender: Sender) -> bool:
        """Whether the conversation ever had a message."""
        return bool(await self.redis.execute("EXISTS", _totals(sender)))


def _totals_of(answers: Sequence[Any]) -> Totals | StoreError:
    for answer in answers:
        if isinstance(answer, StoreError):
            return answer
    counts, inbound, outbound = answers
    return Totals(int(counts[0] or 0), int(counts[1] or 0), int(inbound), int(outbound))


def _totals(sender: Sender) -> str:
    return account_key(sender.account, "stats", sender.app)


def _uniques(sender: Sender, direction: Direction) -> str:
    return account_key(sender.account, "uniques", direction, sender.app)
