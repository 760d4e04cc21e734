"""The watch over exchanges that wait for the store, without a store: what is too late, and what an
exchange that is ended has.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import redis
import trio
from attrs import define, field
from trio.testing import wait_all_tasks_blocked

from resources.stores.direct import EXCHANGE_TIMES, Direct
from resources.stores.resp import NotSent, pack

SECONDS = 5.0
PING = [("PING",)]


@define
class Talk:
    """A connection, the server's end of it, and a clock that is set by hand."""

    direct: Direct
    server: socket.socket
    now: float = 100.0
    answers: list[object] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.direct._now = lambda: self.now

    async def exchange(self) -> None:
        try:
            self.answers += await self.direct.exchange(PING, pack(PING))
        except redis.RedisError as error:
            self.answers.append(error)

    async def go_on(self, seconds: float) -> None:
        """Have time go by, what can be read be read, and the watch look."""
        await wait_all_tasks_blocked()
        self.now += seconds
        self.direct.end_overdue()
        await wait_all_tasks_blocked()


@pytest.fixture
async def talk() -> Iterator[Talk]:
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    with theirs:
        talk = Talk(Direct(ours, SECONDS), theirs)
        yield talk
        talk.direct.close()


async def test_a_server_that_says_nothing_is_too_late(talk: Talk) -> None:
    """Not before its time is over; whoever waits is told the time."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk.exchange)
        await talk.go_on(SECONDS)
        assert talk.answers == []
        await talk.go_on(0.1)
        (error,) = talk.answers
    assert isinstance(error, redis.TimeoutError)
    assert str(error) == "the server did not answer in 5 s"


async def test_a_server_that_goes_on_has_its_time_from_then(talk: Talk) -> None:
    """But a whole exchange only several times as long."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk.exchange)
        for sent in (b"+", *[b"x"] * (EXCHANGE_TIMES - 1)):
            await talk.go_on(SECONDS)
            assert talk.answers == []
            talk.server.sendall(sent)
        await talk.go_on(0.1)
        assert isinstance(talk.answers[0], redis.TimeoutError)


async def test_between_two_exchanges_nothing_is_too_late(talk: Talk) -> None:
    """Nor is the next one, for the time before it."""
    for _ in range(2):
        await talk.go_on(100 * SECONDS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk.exchange)
            await talk.go_on(SECONDS)
            talk.server.sendall(b"+OK\r\n")
        await talk.go_on(100 * SECONDS)
    assert talk.answers == [b"OK", b"OK"]


async def test_an_answer_that_has_come_is_had_though_the_watch_was_quicker(talk: Talk) -> None:
    """As when the whole supervisor was stopped for a while. The connection is at its end, and the
    next exchange says that nothing was sent.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk.exchange)
        await wait_all_tasks_blocked()
        talk.server.sendall(b"+OK\r\n")
        talk.now += 2 * SECONDS
        talk.direct.end_overdue()
    assert talk.answers == [b"OK"]
    assert talk.direct.is_stale
    with pytest.raises(NotSent):
        await talk.direct.exchange(PING, pack(PING))
