"""Names that another system gave to messages that we sent to it, so that what it says about them
later is known to be about ours. Kept for two days, the newest of each channel.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from attrs import field, frozen

from .keys import channel_key
from .redis import Redis
from .scripts import Script, script

KEPT_SECONDS = 2 * 86_400
KEPT_MAX = 100_000  # of one channel: about 20 MB


@frozen
class ForeignIds:
    """The names of all channels. Every coroutine may raise `redis.StoreError`."""

    redis: Redis
    _put: Script = field(factory=lambda: script("foreign_id_put"), init=False)

    async def remember(self, channel: str, theirs: str, ours: str) -> None:
        """Note that their name `theirs` is our message `ours`."""
        keys = [channel_key(channel, "foreign"), channel_key(channel, "foreign:when")]
        now = int(time.time())
        await self.redis.run(
            self._put, keys, theirs, ours, now, now - KEPT_SECONDS, KEPT_MAX, KEPT_SECONDS
        )

    async def ours(self, channel: str, theirs: str) -> str | None:
        """Our message_id for their name; None if it is not known."""
        found = await self.redis.execute("HGET", channel_key(channel, "foreign"), theirs)
        return found.decode() if isinstance(found, bytes) else None

    async def many(self, channel: str, theirs: Sequence[str]) -> list[str | None]:
        """Our message_id for each of their names, at least one."""
        found = await self.redis.execute("HMGET", channel_key(channel, "foreign"), *theirs)
        return [ours.decode() if isinstance(ours, bytes) else None for ours in found]
