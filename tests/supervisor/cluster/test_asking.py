"""Servers that ask each other: what they answer, and what becomes of those that do not."""

from __future__ import annotations

import random
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from resources.stores.inbox import open_inbox
from resources.stores.lease import Holder
from resources.stores.peers import Peers, Record, channel_of
from resources.stores.redis import Redis
from supervisor.cluster import asking
from supervisor.cluster.asking import Asking, Budget, NoAnswer, Question, Reply

from ...service import eventually

QUESTION = Question("GET", "/v1/host", "a=1&b=%20", "me", "one (process 1)")
DEED = Question("POST", "/v1/reload", "", "me", "one (process 1)")
ONE, TWO = (Record(id=name, process=f"p{name}", name=f"{name} (process 1)") for name in "ab")


@asynccontextmanager
async def _two(
    redis: Redis, url: str, serve: Callable[[Question], Awaitable[Reply]]
) -> AsyncIterator[tuple[Asking, Asking, dict[str, Record]]]:
    """One that asks, another that answers, and who lives."""
    alive = {one.id: one for one in (ONE, TWO)}
    peers = Peers(redis, Holder())
    one, two = (Asking(peers, host.id, lambda: alive) for host in (ONE, TWO))
    two.serve = serve
    up = [trio.Event(), trio.Event()]

    def hears(who: Asking) -> Callable[[bytes], None]:
        return lambda text: who.heard(msgspec.json.decode(text))

    async with (
        open_inbox(url, channel_of(ONE.id), hears(one), up[0].set),
        open_inbox(url, channel_of(TWO.id), hears(two), up[1].set),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(one.run)
        nursery.start_soon(two.run)
        with trio.fail_after(20):
            for event in up:
                await event.wait()
        yield one, two, alive
        nursery.cancel_scope.cancel()


async def test_large_answers_come_whole_and_larger_ones_say_so(redis: Redis, valkey: str) -> None:
    asked = list[Question]()
    sizes = [0, 1000, 200_000, asking.ANSWER_MAX, asking.ANSWER_MAX + 1]
    body = random.Random(4).randbytes(sizes[-1])  # which does not compress

    async def serve(question: Question) -> Reply:
        asked.append(question)
        return Reply(207, "text/plain", body[: sizes[len(asked) - 1]])

    async with _two(redis, valkey, serve) as (one, _, _):
        for size in sizes[:-1]:
            assert await one.ask(TWO, QUESTION, 30) == Reply(207, "text/plain", body[:size])
        reply = await one.ask(TWO, QUESTION, 30)
        assert (reply.status, b"ask for less" in reply.body) == (502, True)
        assert asked == [QUESTION] * 5
        assert not one._open
        budget = Budget(300_000)
        asked[:] = asked[:2]
        assert (await one.ask(TWO, QUESTION, 30, budget)).body == body[: sizes[2]]
        asked[:] = asked[:2]
        with pytest.raises(NoAnswer, match="is too large, and left out"):
            await one.ask(TWO, QUESTION, 30, budget)
        await redis.flush()
        assert not await redis.execute("KEYS", "jsbox:answer:*")


async def test_who_does_not_answer_is_named(
    redis: Redis,
    valkey: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is slow; it dies meanwhile, or starts anew; it answers what is no answer."""
    monkeypatch.setattr(asking, "SERVED_MAX", 99)

    async def serve(_: Question) -> Reply:
        await trio.sleep_forever()
        raise AssertionError

    async with _two(redis, valkey, serve) as (one, _, alive):
        with pytest.raises(NoAnswer, match=r"host b \(process 1\) did not answer within 0.3 s"):
            await one.ask(TWO, QUESTION, 0.3)
        for becomes in ({}, {TWO.id: msgspec.structs.replace(TWO, process="another")}):
            alive.clear()
            alive.update(becomes)
            with pytest.raises(NoAnswer, match=r"host b .* did not answer: it counts as dead"):
                await one.ask(TWO, QUESTION, 60)
        alive[TWO.id] = TWO
        bomb = zlib.compress(bytes(10_000))
        for told in (
            (200, "", 10, 0, bomb),  # it is larger than it says
            (200, "", 20_000, 0, bomb),  # smaller
            (200, "", 10_000, 0, bomb[:-9]),
            (200, "", 10_000, 3, b""),  # its pieces are not there
            (200, "", 10_000, 10**12, b"x"),
            (200, "", -1, 0, bomb),
            (200, "", asking.ANSWER_MAX + 1, 0, bomb),
        ):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_learn, one, "cannot be read|too large, and left out")
                await eventually(lambda: one._open)
                number = next(iter(one._open))
                one.heard(["answer", "another", *_json(told)])
                one.heard(["answer", number, *_json(told)])
                one.heard(["answer", number, *_json(told)])
        for junk in (["answer", 4], ["ask"], ["ask", "n", "x", "soon", []], ["answer", *"123456"]):
            one.heard(junk)
        assert caplog.text.count("another server asks what this one does not know") == 4


async def _learn(one: Asking, why: str) -> None:
    with pytest.raises(NoAnswer, match=why):
        await one.ask(TWO, QUESTION, 60)


def _json(told: tuple[object, ...]) -> list[object]:
    found: list[object] = msgspec.json.decode(msgspec.json.encode(told))
    return found


async def test_a_question_that_is_heard_too_late_is_not_obeyed(
    redis: Redis, valkey: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a server that was frozen for longer than somebody waited."""
    served = list[Question]()

    async def serve(question: Question) -> Reply:
        served.append(question)
        return Reply(200, "", b"")

    async with _two(redis, valkey, serve) as (one, two, _):
        late = await Peers(redis, Holder()).now() - 0.001
        two.heard(["ask", "n", ONE.id, late, ["POST", "/v1/reload", "", "me", "one"]])
        await eventually(lambda: not any(two._served.values()))
        assert "POST /v1/reload for one: it was asked for too long ago" in caplog.text
        assert not served
        assert (await one.ask(TWO, QUESTION, 30)).status == 200


async def test_too_many_questions_are_refused_at_once(
    redis: Redis, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By who answers, and by who asks; those that read keep off no deed. An error of ours is an
    answer, too.
    """
    monkeypatch.setattr(asking, "SERVED_MAX", 2)
    monkeypatch.setattr(asking, "ASKED_MAX", 3)
    go_on, replies = trio.Event(), list[Reply]()

    async def serve(question: Question) -> Reply:
        if question == DEED:
            return Reply(200, "", b"done")
        await go_on.wait()
        raise RuntimeError("a bug")

    async with _two(redis, valkey, serve) as (one, two, _):

        async def ask() -> None:
            replies.append(await one.ask(TWO, QUESTION, 60))

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(ask)
            await eventually(lambda: two._served[False] == 2)
            await ask()
            assert (replies[0].status, b"too many" in replies[0].body) == (503, True)
            one._open["another"] = asking._Open(is_deed=False)
            with pytest.raises(NoAnswer, match="was not asked: 3 other questions wait"):
                await one.ask(TWO, QUESTION, 60)
            assert (await one.ask(TWO, DEED, 60)).body == b"done"
            go_on.set()
        assert [reply.status for reply in replies[1:]] == [500, 500]


async def test_nobody_keeps_a_server_busy_for_ever(
    redis: Redis, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the asker says that it waits."""
    monkeypatch.setattr(asking, "SECONDS_MAX", 0.2)
    began = trio.Event()

    async def serve(_: Question) -> Reply:
        began.set()
        await trio.sleep_forever()
        raise AssertionError

    async with _two(redis, valkey, serve) as (_, two, _):
        two.heard(["ask", "n", ONE.id, 1e300, ["GET", "/v1/host", "", "me", "one"]])
        with trio.fail_after(60):
            await began.wait()
        await eventually(lambda: not two._served[False])


async def test_an_answer_that_the_store_does_not_keep_says_so(
    redis: Redis, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "INLINE_MAX", 10)
    monkeypatch.setattr(asking, "_key", lambda _: "taken")  # by a key of another type
    await redis.execute("SET", "taken", "x")

    async def serve(_: Question) -> Reply:
        return Reply(200, "", b"more than ten bytes of an answer")

    async with _two(redis, valkey, serve) as (one, _, _):
        reply = await one.ask(TWO, QUESTION, 60)
    assert reply.status == 503
    assert b"which refuses it: WRONGTYPE" in reply.body
