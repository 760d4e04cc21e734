"""The apps' logs: bounded, newest first, followed without silent loss."""

from __future__ import annotations

import trio

from resources.stores import logbook as module
from resources.stores.logbook import Logbook
from resources.stores.redis import Redis


async def test_the_newest_are_kept(redis: Redis) -> None:
    """A bounded number (trimmed now and then), newest first, separate for each app."""
    logbook = Logbook(redis)
    for n in range(100):
        await logbook.write("acct", "app", 20, str(n), kept=10)
    await logbook.write("acct", "other", 20, "mine", kept=10)
    assert [entry.message for entry in await logbook.newest("acct", "app", 10)] == [
        str(n) for n in range(99, 89, -1)
    ]
    assert await redis.execute("LLEN", "jsbox:{acct}:log:app") <= 10 + module.TRIM_EVERY
    assert [entry.message for entry in await logbook.newest("acct", "other", 10)] == ["mine"]


async def test_levels_have_names(redis: Redis) -> None:
    """Numbers in between have theirs."""
    logbook = Logbook(redis)
    for level in (10, 20, 25, 30, 40, 50):
        await logbook.write("acct", "app", level, "x", kept=10)
    levels = [entry.level for entry in await logbook.newest("acct", "app", 10)]
    assert levels == ["CRITICAL", "ERROR", "WARNING", "Level 25", "INFO", "DEBUG"]


async def test_a_long_message_is_cut_and_says_so(redis: Redis) -> None:
    """One entry, however long what the app wrote; newlines stay inside it."""
    logbook = Logbook(redis)
    await logbook.write("acct", "app", 20, "a\nb" + "x" * module.ENTRY_MAX, kept=10)
    (entry,) = await logbook.newest("acct", "app", 10)
    assert entry.message.startswith("a\nbxxx")
    assert entry.message.endswith("... [3 more characters]")


async def test_a_follower_sees_what_comes_and_learns_what_it_missed(redis: Redis) -> None:
    """In order while it keeps up; after a flood it learns how many it missed."""
    logbook = Logbook(redis)
    with logbook.follow("acct", "app") as follower:
        entries = aiter(follower)
        for n in range(3):
            await logbook.write("acct", "app", 20, str(n), kept=10)
            assert (await anext(entries)).message == str(n)
        for n in range(module.FOLLOWER_MAX + 7):
            await logbook.write("acct", "app", 20, f"flood {n}", kept=10)
        got = [await anext(entries) for _ in range(module.FOLLOWER_MAX + 1)]
        assert [entry.message for entry in got[:-1]] == [
            f"flood {n}" for n in range(module.FOLLOWER_MAX)
        ]
        assert (got[-1].level, got[-1].message) == (
            "MISSED",
            "7 entries came faster than they were read",
        )
        with trio.move_on_after(0.05) as waiting:
            await anext(entries)
        assert waiting.cancelled_caught
    await logbook.write("acct", "app", 20, "nobody follows", kept=10)
