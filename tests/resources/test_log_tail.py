"""The live log of an app that several servers write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from resources.stores import log_tail
from resources.stores.log_tail import LogTail
from resources.stores.logbook import Logbook, LogEntry
from resources.stores.redis import Redis, Unavailable

KEPT = 1000


async def _tail(logbook: Logbook) -> tuple[LogTail, AsyncIterator[LogEntry]]:
    tail = LogTail(logbook, "acct", "app")
    await tail.start()
    return tail, aiter(tail)


async def _next(live: AsyncIterator[LogEntry], count: int) -> list[str]:
    with trio.fail_after(30):
        return [(await anext(live)).message for _ in range(count)]


async def _write(logbook: Logbook, *messages: Any) -> None:
    for message in messages:
        await logbook.write("acct", "app", 20, str(message), KEPT)


async def test_it_has_what_all_servers_write_each_entry_once(redis: Redis) -> None:
    """In the order of the store, also if the same text comes again and again, and in bursts."""
    one, two = Logbook(redis, host="one"), Logbook(redis, host="two")
    await _write(one, "before")
    _, live = await _tail(two)
    await _write(one, "a")
    await _write(two, "b")
    with trio.fail_after(30):
        found = [await anext(live) for _ in range(2)]
    assert [(entry.host, entry.message) for entry in found] == [("one", "a"), ("two", "b")]
    for burst in (["same"] * 5, range(40), ["same"], range(200), range(3)):
        await _write(one, *burst)
        assert await _next(live, len(burst)) == list(map(str, burst))
    assert [entry.host for entry in await one.newest("acct", "app", 2)] == ["one", "one"]


async def test_an_empty_log_is_followed_and_one_that_was_emptied(redis: Redis) -> None:
    logbook = Logbook(redis, host="one")
    _, live = await _tail(logbook)
    await _write(logbook, "first")
    assert await _next(live, 1) == ["first"]
    await redis.execute("DEL", logbook.key("acct", "app"))
    await redis.execute("LPUSH", logbook.key("acct", "app"), "no entry")
    gap, unread = await _next(live, 2)
    assert (gap, "cannot be read" in unread) == ("entries came faster than they were read", True)


async def test_what_came_too_fast_is_said_to_be_missing(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More at once than is read at once; or than the log keeps."""
    monkeypatch.setattr(log_tail, "STEPS", (4, 8))
    logbook = Logbook(redis, host="one")
    await _write(logbook, "before")
    _, live = await _tail(logbook)
    await _write(logbook, *range(20))
    gap, *rest = await _next(live, 9)
    assert (gap, rest) == (
        "entries came faster than they were read",
        [str(n) for n in range(12, 20)],
    )
    await _write(logbook, *range(5))
    await redis.execute("LTRIM", logbook.key("acct", "app"), 0, 2)
    gap, *rest = await _next(live, 4)
    assert (gap[:7], rest) == ("entries", ["2", "3", "4"])


async def test_it_goes_on_when_the_store_was_away(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    logbook = Logbook(redis, host="one")
    tail, live = await _tail(logbook)
    await _write(logbook, "a")
    tries, read = list[int](), tail._read

    async def away(self: LogTail, count: int) -> list[bytes]:
        tries.append(count)
        if len(tries) < 3:
            raise Unavailable("the store is away", sent=False)
        return await read(count)

    with monkeypatch.context() as patch:
        patch.setattr(LogTail, "_read", away)
        assert await _next(live, 1) == ["a"]
    assert tries[:3] == [1, 1, 1]
