"""The door of a port: which clients it lets in, which make way, and that it survives any error of
accept.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager

import pytest
import trio
import trio.testing

from resources.fence import tally
from supervisor.ports import accepting
from supervisor.ports.accepting import (
    GRACE_SECONDS,
    Bounds,
    Door,
    Visit,
    affordable,
    counted_as,
    is_loopback,
    turn_away,
)
from supervisor.ports.crowding import STEP, WITHIN
from supervisor.ports.http import BOUNDS


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    """What is opened here is closed at the end."""
    with ExitStack() as stack:
        yield stack


def a_stream(stack: ExitStack) -> trio.SocketStream:
    ours, theirs = socket.socketpair()
    stack.enter_context(theirs)
    stack.enter_context(ours)
    return trio.SocketStream(trio.socket.from_stdlib_socket(ours))


async def test_connections_are_counted_for_the_port_and_for_each_address(
    sockets: ExitStack,
) -> None:
    """Loopback has no bound of its own; a client that leaves makes room."""
    door = Door("test", Bounds(most=6, per_address=2))
    stream = a_stream(sockets)
    visits = [
        door.admit(stream, address)
        for address in ("10.0.0.1", "10.0.0.1", "127.0.0.1", "::1", "127.0.0.1")
    ]
    assert all(visits)
    assert door.admit(stream, "10.0.0.1") is None
    assert door.admit(stream, "10.0.0.2") is not None
    assert door.admit(stream, "10.0.0.3") is None
    assert door.open == 6
    assert visits[0] is not None
    for _ in range(2):  # twice does no harm
        door.leave(visits[0])
    assert door.open == 5
    assert door.admit(stream, "10.0.0.1") is not None
    assert door.admit(stream, "10.0.0.1") is None


async def test_strangers_make_way_for_who_comes_when_they_had_their_grace(
    sockets: ExitStack, autojump_clock: trio.testing.MockClock
) -> None:
    """The oldest first; of the same address if that one is full. Known connections stay."""
    door = Door("test", Bounds(most=3, per_address=2))
    stream = a_stream(sockets)
    known, old, young = (door.admit(stream, f"10.0.0.{n}") for n in (1, 1, 2))
    assert known is not None
    assert old is not None
    assert young is not None
    known.become_known()
    assert door.admit(stream, "10.0.0.3") is None
    await trio.sleep(GRACE_SECONDS)
    assert door.admit(stream, "10.0.0.3") is not None
    assert [visit.scope.cancel_called for visit in (known, old, young)] == [False, True, False]
    assert door.open == 3
    second = door.admit(stream, "10.0.0.1")
    assert second is not None
    assert young.scope.cancel_called
    second.become_known()
    await trio.sleep(GRACE_SECONDS)
    assert door.admit(stream, "10.0.0.1") is None  # both of that address are known


async def test_who_is_known_and_rests_makes_way_if_no_stranger_can(
    sockets: ExitStack, autojump_clock: trio.testing.MockClock
) -> None:
    """Between two requests only, after its grace, longest first: never in the middle of one, and
    never for as long as there are strangers, of which anybody can open as many as he likes.
    """
    door = Door("test", Bounds(most=3, per_address=9))
    stream = a_stream(sockets)
    visits = [door.admit(stream, "127.0.0.1") for _ in range(3)]
    first, second, busy = (visit for visit in visits if visit is not None)
    for visit in (first, second, busy):
        visit.become_known()
        visit.has_answered = True
    with second.at_rest(), first.at_rest(), busy.at_rest():
        pass
    with second.at_rest(), first.at_rest():
        surplus = door.admit(stream, "127.0.0.1")
        assert surplus is not None
        assert surplus.is_surplus  # both have rested for less than the grace
        door.leave(surplus)
        await trio.sleep(GRACE_SECONDS)
        third = door.admit(stream, "127.0.0.1")
        assert third is not None
        assert not third.is_surplus
        assert second.scope.cancel_called
        assert door.admit(stream, "127.0.0.1") is None  # there is a stranger, though a new one
        third.become_known()
        assert door.admit(stream, "127.0.0.1") is not None
        assert first.scope.cancel_called
    assert not busy.scope.cancel_called
    assert not door.resting


async def test_when_all_are_known_some_more_are_told_so(sockets: ExitStack) -> None:
    """In the port's own protocol: they are surplus. Any more get a 503."""
    door = Door("test", Bounds(most=2, per_address=9))
    stream = a_stream(sockets)
    for _ in range(2):
        visit = door.admit(stream, "127.0.0.1")
        assert visit is not None
        assert not visit.is_surplus
        visit.become_known()
    surplus = door.admit(stream, "127.0.0.1")
    assert surplus is not None
    assert surplus.is_surplus
    assert door.admit(stream, "127.0.0.1") is None


async def test_a_full_port_says_so_for_a_minute(
    sockets: ExitStack, autojump_clock: trio.testing.MockClock
) -> None:
    """Who was turned away, who made way, and who was told in the port's own protocol."""
    door = Door("test", Bounds(most=1, per_address=9))
    stream = a_stream(sockets)
    first = door.admit(stream, "10.0.0.1")
    assert not door.problem
    door.admit(stream, "10.0.0.2")
    assert door.problem == (
        "test: 1 connections were turned away, or made way for others, in the last 60 s, the last"
        " from 10.0.0.2; 1 are open, of 1 at most; 1 have not shown who they are"
    )
    await trio.sleep(GRACE_SECONDS)
    second = door.admit(stream, "10.0.0.3")
    assert first is not None
    assert first.scope.cancel_called
    assert second is not None
    second.become_known()
    assert door.admit(stream, "10.0.0.4") is not None
    assert (door.crowding.total, door.crowding.lately()) == (3, 3)
    await trio.sleep(WITHIN - STEP)
    assert door.crowding.lately() == 3
    await trio.sleep(2 * STEP)
    assert not door.problem
    assert door.crowding.total == 3


def test_what_an_address_is_counted_as() -> None:
    """IPv6 by its /64, IPv4 in IPv6 as IPv4; loopback apart."""
    assert (
        counted_as("2001:db8:1:2:3::1")
        == counted_as("2001:db8:1:2:ffff::2")
        != counted_as("2001:db8:1:3::1")
    )
    assert counted_as("::ffff:10.0.0.1") == counted_as("10.0.0.1") == "10.0.0.1"
    assert counted_as("::ffff:127.0.0.1") == counted_as("::1") == counted_as("127.9.9.9") == ""
    assert counted_as("fe80::1%eth0") == "fe80::"
    assert is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("10.0.0.1")
    assert not is_loopback("nonsense")


async def test_who_is_turned_away_is_told_and_costs_nothing(sockets: ExitStack) -> None:
    """503 with Retry-After; also a client that has gone, and one that sends and does not read."""
    for sent in (b"", b"GET / HTTP/1.1\r\n\r\n", b"x" * 60_000):
        ours, theirs = socket.socketpair()
        sockets.enter_context(theirs)
        theirs.sendall(sent)
        turn_away(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        assert ours.fileno() == -1 or theirs.recv(1000).startswith(
            b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"
        )
    ours, theirs = socket.socketpair()
    theirs.close()
    turn_away(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))


@asynccontextmanager
async def two_accepted() -> AsyncIterator[list[trio.SocketStream]]:
    """Two TCP connections, as a listener accepts them."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    clients = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(2)]
    accepted = [await listener.accept() for _ in range(2)]
    yield accepted
    for one in (*clients, *accepted, listener):
        await trio.aclose_forcefully(one)


class Listener(trio.abc.Listener[trio.SocketStream]):
    """Accepts what the test says, then nothing more."""

    def __init__(self, *what: trio.SocketStream | Exception) -> None:
        self.what = list(what)
        self.is_closed = False

    async def accept(self) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        if not self.what:
            await trio.sleep_forever()
        one = self.what.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    async def aclose(self) -> None:
        self.is_closed = True


TROUBLES = [
    *(
        OSError(number, "x")
        for number in (
            errno.EMFILE,
            errno.ENFILE,
            errno.ENOBUFS,
            errno.ENOMEM,
            errno.ECONNABORTED,
            errno.EPERM,
            errno.EPROTO,
            errno.ENETDOWN,
            errno.EHOSTUNREACH,
            errno.EINTR,
            errno.EBADF,
            errno.EINVAL,
        )
    ),
    RuntimeError("nobody expected this"),
    trio.BrokenResourceError("x"),
    ExceptionGroup("x", [ValueError("y")]),
]


async def test_accepting_goes_on_whatever_it_raises(autojump_clock: trio.testing.MockClock) -> None:
    """After a pause that grows; a listener that is closed ends it."""
    served = []
    async with two_accepted() as streams:
        door = Door("test", Bounds(9, 9))

        async def serve(visit: Visit) -> None:
            served.append(visit)
            if len(served) == 1:
                raise ValueError("of one connection")

        listener = Listener(
            *TROUBLES, streams[0], *TROUBLES, streams[1], trio.ClosedResourceError()
        )
        before = tally["test"]
        async with trio.open_nursery() as clients:
            await door.accept(listener, serve, clients)
        assert len(served) == 2
        assert listener.is_closed
        assert tally["test"] == before + 1
        assert tally["test.accept"] >= 2
        assert door.open == 0


def test_a_port_takes_half_of_the_descriptors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And says so, where that is less than configured."""
    monkeypatch.setattr(accepting.resource, "getrlimit", lambda _: (1024, 4096))
    assert affordable("gateway.connections", 512) == 512
    assert not caplog.records
    assert affordable("gateway.connections", 1000) == 512
    assert "gateway.connections is 1000" in caplog.text
    monkeypatch.setattr(accepting.resource, "getrlimit", lambda _: (256, 256))
    both = affordable("gateway.connections", 1000) + affordable("admin", BOUNDS.most, BOUNDS.part)
    assert both == 192  # a quarter is left for sandboxes and the store
    monkeypatch.setattr(accepting.resource, "getrlimit", lambda _: (4, 4))
    assert affordable("gateway.connections", 1000) == 8
