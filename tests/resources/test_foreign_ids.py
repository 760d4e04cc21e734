"""Names that others gave to our messages: kept for a while, and bounded."""

from __future__ import annotations

import time

import pytest

from resources.stores import foreign_ids
from resources.stores.foreign_ids import ForeignIds
from resources.stores.keys import channel_key
from resources.stores.redis import Redis


async def kept(redis: Redis) -> int:
    sizes = [
        await redis.execute("HLEN", channel_key("c", "foreign")),
        await redis.execute("ZCARD", channel_key("c", "foreign:when")),
    ]
    assert sizes[0] == sizes[1]
    return int(sizes[0])


async def test_a_name_is_known_in_its_channel(redis: Redis) -> None:
    """A newer one takes its place; other channels do not know it."""
    ids = ForeignIds(redis)
    await ids.remember("c", "theirs", "ours")
    await ids.remember("c", "theirs", "newer")
    assert await ids.ours("c", "theirs") == "newer"
    assert await ids.ours("d", "theirs") is None
    assert await ids.ours("c", "other") is None
    assert await redis.execute("TTL", channel_key("c", "foreign")) > 86_400


async def test_the_newest_are_kept(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest make room."""
    monkeypatch.setattr(foreign_ids, "KEPT_MAX", 3)
    ids = ForeignIds(redis)
    now = time.time()
    for number in range(6):
        monkeypatch.setattr(time, "time", lambda number=number: now + number)
        await ids.remember("c", f"t{number}", f"o{number}")
    assert await kept(redis) == 3
    found = [await ids.ours("c", f"t{number}") for number in range(6)]
    assert found == [None, None, None, "o3", "o4", "o5"]


async def test_after_two_days_a_name_is_forgotten(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while others keep coming."""
    ids = ForeignIds(redis)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - foreign_ids.KEPT_SECONDS - 5)
    await ids.remember("c", "old", "ours")
    monkeypatch.setattr(time, "time", lambda: now)
    await ids.remember("c", "new", "ours")
    assert await ids.ours("c", "old") is None
    assert await kept(redis) == 1


async def test_many_names_at_once(redis: Redis) -> None:
    ids = ForeignIds(redis)
    await ids.remember("c", "theirs", "ours")
    assert await ids.many("c", ["x", "theirs", "y"]) == [None, "ours", None]
    assert await ids.many("d", ["theirs"]) == [None]
