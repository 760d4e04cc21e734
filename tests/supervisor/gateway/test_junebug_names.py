"""Events that may come before Junebug's name of their message is known, or that nobody knows: how
long they wait, and what they cost the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest
import trio
import trio.testing
from attrs import define, field
from trio.testing import MockClock

from resources.stores.foreign_ids import ForeignIds
from resources.stores.redis import StoreError, Unavailable
from supervisor.gateway.junebug import names
from supervisor.gateway.junebug.names import FOUND_SECONDS, LOOK_SECONDS, Names


@define
class Store:
    """What all servers know, and what it was asked."""

    known: dict[str, str] = field(factory=dict)
    singly: list[str] = field(factory=list)
    together: list[int] = field(factory=list)
    error: StoreError | None = None

    async def remember(self, _: str, theirs: str, ours: str) -> None:
        await trio.sleep(0.01)
        if self.error is not None:
            raise self.error
        self.known[theirs] = ours

    async def ours(self, _: str, theirs: str) -> str | None:
        self.singly.append(theirs)
        await trio.sleep(0.01)
        return self.known.get(theirs)

    async def many(self, _: str, theirs: Sequence[str]) -> list[str | None]:
        self.together.append(len(theirs))
        await trio.sleep(0.01)
        if self.error is not None:
            raise self.error
        return [self.known.get(one) for one in theirs]


def names_of(store: Store, *, is_shared: bool) -> Names:
    return Names("menu", cast("ForeignIds", store), is_shared)


async def find_all(found: Names, wanted: Sequence[str]) -> dict[str, str | StoreError | None]:
    """What is found for each name, and how long all of them took."""
    answers: dict[str, str | StoreError | None] = {}

    async def find(theirs: str) -> None:
        try:
            answers[theirs] = await found.find(theirs)
        except StoreError as error:
            answers[theirs] = error

    async with trio.open_nursery() as nursery:
        for theirs in wanted:
            nursery.start_soon(find, theirs)
    return answers


async def test_many_events_that_nobody_knows_cost_no_more_than_one(
    autojump_clock: MockClock,
) -> None:
    """One look-up each, and one for all of them at a time; the one that is known goes on."""
    now = autojump_clock.current_time
    store = Store()
    found = names_of(store, is_shared=True)
    wanted = [f"jb{n}" for n in range(500)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.keep_looking)
        began = now()

        async def other() -> None:  # another server's post is answered
            await trio.sleep(0.5)
            store.known["jb7"] = "ours"

        async def one() -> None:
            assert await found.find("jb7") == "ours"
            assert now() - began < 0.5 + 2 * LOOK_SECONDS

        nursery.start_soon(other)
        nursery.start_soon(one)
        answers = await find_all(found, wanted)
        assert now() - began == pytest.approx(FOUND_SECONDS)
        assert {theirs for theirs, ours in answers.items() if ours} == {"jb7"}
        assert len(store.singly) == 501
        assert len(store.together) <= FOUND_SECONDS / LOOK_SECONDS
        assert max(store.together) == 500
        asked = len(store.together)
        await trio.sleep(10)
        assert len(store.together) == asked  # nobody waits
        nursery.cancel_scope.cancel()


async def test_posts_that_end_cost_those_that_wait_nothing(autojump_clock: MockClock) -> None:
    """An event whose post is answered goes on at once; the others, when no post is left."""
    now = autojump_clock.current_time
    store = Store()
    found = names_of(store, is_shared=False)
    found.posts = 100
    wanted = [f"jb{n}" for n in range(0, 200, 2)]
    ends = dict[str, float]()

    async def one() -> None:
        assert await found.find("jb0") == "ours0"
        ends["jb0"] = now()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)

        async def post() -> None:
            for n in range(100):
                await found.note(f"jb{n}", f"ours{n}")
                found.end_post()

        began = now()
        nursery.start_soon(post)
        answers = await find_all(found, wanted)
    assert ends["jb0"] - began < 0.05
    known = {theirs: f"ours{theirs[2:]}" for theirs in wanted[:50]}
    assert answers == known | dict.fromkeys(wanted[50:])
    assert now() - began == pytest.approx(1.0, abs=0.1)
    assert len(store.singly) == len(wanted) + 1
    assert not store.together


async def test_nobody_waits_without_a_post_or_beyond_the_bound(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = autojump_clock.current_time
    store = Store({"jb1": "ours"})
    found = names_of(store, is_shared=False)
    began = now()
    assert await find_all(found, ["jb1", "jb2"]) == {"jb1": "ours", "jb2": None}
    assert now() - began < 0.1
    monkeypatch.setattr(names, "WAITING_MAX", 1)
    found.posts = 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.find, "jb2")
        await trio.testing.wait_all_tasks_blocked()
        assert await found.find("jb3") is None
        assert now() - began < 0.1
        found.end()
    assert now() - began < 0.1
    assert not found._awaited


async def test_a_store_that_fails_ends_the_wait(autojump_clock: MockClock) -> None:
    """Of those that ask it; who waits for a post of this server has its name from that."""
    store = Store()
    shared, own = names_of(store, is_shared=True), names_of(store, is_shared=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shared.keep_looking)

        async def fail() -> None:
            await trio.sleep(0.3)
            store.error = Unavailable("it has gone", sent=False)

        nursery.start_soon(fail)
        answers = await find_all(shared, ["jb1", "jb2"])
        assert list(answers.values()) == [store.error, store.error]
        nursery.cancel_scope.cancel()
    own.posts = 1
    async with trio.open_nursery() as nursery:

        async def note() -> None:
            with pytest.raises(Unavailable):
                await own.note("jb1", "ours")

        nursery.start_soon(note)
        assert await own.find("jb1") == "ours"
