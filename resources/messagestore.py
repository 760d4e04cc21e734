"""messagestore: how many messages a conversation of the account has had."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from attrs import frozen

from .contract import Caller, Refused, Resource, command
from .messages import shown
from .parameters import Json, integer_in, parameter
from .stores.identity import Sender
from .stores.statistics import SAMPLE_MAX, Direction, Statistics

SAMPLE = 300  # seconds


@frozen
class MessagestoreSettings:
    """The conversations (apps) of the account."""

    conversations: Collection[str]


def conversation() -> Any:
    """A conversation of the account; by default, or if null, the app's own."""
    return parameter(
        None, wrong=lambda value: f"'conversation_key' must be a string or null, not {shown(value)}"
    )


def _seconds(value: Any) -> int | None:
    """As in the old system: 60, 60.9 and "60" all mean 60."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = integer_in(value) if isinstance(value, str) else int(value)
    except (ValueError, OverflowError):  # no number, or infinity
        return None
    return seconds if seconds is not None and 0 < seconds <= SAMPLE_MAX else None


@frozen
class Ask:
    """All messagestore commands but the throughputs."""

    conversation_key: str | None = conversation()


@frozen
class AskThroughput:
    """messagestore.inbound_throughput, messagestore.outbound_throughput."""

    conversation_key: str | None = conversation()
    sample_time: Json = parameter(
        SAMPLE,
        wrong=lambda value: f"'sample_time' must be 1 to {SAMPLE_MAX} seconds, not {shown(value)}",
        check=lambda value: _seconds(value) is not None,
    )


@frozen
class Progress:
    """What became of the sent messages."""

    progress_status: dict[str, int]


@frozen
class Count:
    """A number of messages or addresses."""

    count: int


@frozen
class Throughput:
    """Messages per minute."""

    throughput: float


@frozen
class Messagestore(Resource):
    """The messagestore commands."""

    statistics: Statistics

    @command("messagestore.progress_status")
    async def progress_status(self, caller: Caller, request: Ask) -> Progress:
        """Messages sent, acknowledged, refused and reported on."""
        return Progress(await self.statistics.progress(await self._conversation(caller, request)))

    @command("messagestore.count_replies")
    async def count_replies(self, caller: Caller, request: Ask) -> Count:
        """Messages received."""
        return Count(await self.statistics.count(await self._conversation(caller, request), "in"))

    @command("messagestore.count_sent_messages")
    async def count_sent_messages(self, caller: Caller, request: Ask) -> Count:
        """Messages sent."""
        return Count(await self.statistics.count(await self._conversation(caller, request), "out"))

    @command("messagestore.count_inbound_uniques")
    async def count_inbound_uniques(self, caller: Caller, request: Ask) -> Count:
        """Addresses that messages came from."""
        return Count(await self.statistics.uniques(await self._conversation(caller, request), "in"))

    @command("messagestore.count_outbound_uniques")
    async def count_outbound_uniques(self, caller: Caller, request: Ask) -> Count:
        """Addresses that messages went to."""
        return Count(
            await self.statistics.uniques(await self._conversation(caller, request), "out")
        )

    @command("messagestore.inbound_throughput")
    async def inbound_throughput(self, caller: Caller, request: AskThroughput) -> Throughput:
        """Messages per minute received lately."""
        return await self._throughput(caller, request, "in")

    @command("messagestore.outbound_throughput")
    async def outbound_throughput(self, caller: Caller, request: AskThroughput) -> Throughput:
        """Messages per minute sent lately."""
        return await self._throughput(caller, request, "out")

    async def _throughput(
        self, caller: Caller, request: AskThroughput, direction: Direction
    ) -> Throughput:
        seconds = _seconds(request.sample_time)
        assert seconds is not None
        return Throughput(
            await self.statistics.throughput(
                await self._conversation(caller, request), direction, seconds
            )
        )

    async def _conversation(self, caller: Caller, request: Ask | AskThroughput) -> Sender:
        """Another one must be in the config, or have been there while messages came."""
        name = caller.app if request.conversation_key is None else request.conversation_key
        sender = Sender(caller.account, name)
        if name not in caller.setting(
            MessagestoreSettings
        ).conversations and not await self.statistics.is_known(sender):
            raise Refused("Invalid conversation_key")
        return sender
