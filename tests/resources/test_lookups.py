"""Names are looked up in threads of their own, of which each app has its share."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from threading import Event, Lock
from typing import Any

import pytest
import trio
import trio.testing

from resources.stores.egress import Egress, EgressError, open_egress
from resources.stores.egress.lookup import SHARE, THREADS, Lookups

from .raw_server import get, is_idle, plain, policy, raw_server

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
REAL = socket.getaddrinfo
ANY = policy("*.example", "hanging.example", "127.0.0.0/8")


class NameServer:
    """Stands in for the C library, which asks no name server of ours: names that begin with
    "hanging" are not answered before the end.
    """

    def __init__(self) -> None:
        self.answer = Event()
        self.lock = Lock()
        self.hanging = 0
        self.asked: Counter[str] = Counter()

    def getaddrinfo(self, host: Any, *args: Any, **options: Any) -> list[Any]:
        if isinstance(host, str):  # Trio's, for the test's server
            return REAL(host, *args, **options)
        name = host.decode()
        with self.lock:
            self.asked[name] += 1
            self.hanging += name.startswith("hanging")
        if name.startswith("hanging"):
            assert self.answer.wait(60)
        if name.startswith("unknown"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if name.startswith("later"):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return FOUND


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    names = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    yield names
    names.answer.set()


async def hang(egress: Egress, app: str, seconds: float = 60) -> None:
    with trio.move_on_after(seconds):
        await get(egress, "http://hanging.example/", ANY, app=app)


async def drained(egress: Egress) -> None:
    """Wait until the threads that nobody waits for have ended."""
    with trio.fail_after(30):
        while not is_idle(egress):
            await trio.sleep(0.001)


async def test_names_that_hang_delay_no_other_app(names: NameServer) -> None:
    """A hundred of one app: another app's names, and everybody else's threads, are as quick as
    ever.
    """
    async with raw_server(plain(b"ok")) as server, open_egress() as egress:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(hang, egress, "hostile")
            while names.hanging < SHARE:
                await trio.sleep(0.001)
            with trio.fail_after(30):
                answer = await get(
                    egress,
                    f"http://quick.example:{server.port}/",
                    policy("quick.example"),
                    app="other",
                )
                # Its own requests that need no look-up go on, too.
                await get(egress, server.url, ANY, app="hostile")
                await trio.to_thread.run_sync(int)
            assert answer.body == "ok"
            assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
            assert names.hanging == SHARE
            nursery.cancel_scope.cancel()
        # abandoned, and still counted
        assert egress._connector._lookups._running == {"hostile": SHARE}
        assert not egress._connector._lookups._waiting
        names.answer.set()
        await drained(egress)


async def test_abandoned_look_ups_count_until_they_end(names: NameServer) -> None:
    """Requests that gave up do not make room for more threads; when the threads end, the waiting
    ones have their turn.
    """
    async with raw_server(plain(b"ok")) as server, open_egress() as egress:
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for _ in range(SHARE):
                    nursery.start_soon(hang, egress, "app", 0.05)
        assert names.hanging == SHARE
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                get, egress, f"http://quick.example:{server.port}/", policy("quick.example")
            )
            await trio.testing.wait_all_tasks_blocked()
            assert names.asked["quick.example"] == 0
            names.answer.set()
        assert names.asked["quick.example"] == 1
        await drained(egress)


async def test_many_hostile_apps_leave_something_for_the_next(names: NameServer) -> None:
    """The fuller it gets, the less an app gets, and one that has nothing gets one."""
    async with open_egress() as egress:
        running = egress._connector._lookups._running
        async with trio.open_nursery() as nursery:
            for number in range(20):
                for _ in range(SHARE + 2):
                    nursery.start_soon(hang, egress, f"app{number}")
                await trio.testing.wait_all_tasks_blocked()
                assert running[f"app{number}"] >= 1
            assert running.total() < THREADS
            nursery.cancel_scope.cancel()
        names.answer.set()
        await drained(egress)


async def test_threads_go_to_the_app_with_the_fewest() -> None:
    """Whoever waits is served in that order, and nobody is counted twice."""
    lookups, order = Lookups(), []

    async def want(app: str) -> None:
        await lookups.acquire(app)
        order.append(app)

    async with trio.open_nursery() as nursery:
        for number in range(THREADS // 2):
            await lookups.acquire(f"one{number}")
        for _ in range(SHARE + 2):
            nursery.start_soon(want, "greedy")
        await trio.testing.wait_all_tasks_blocked()
        assert order == ["greedy"] * SHARE
        for number in range(THREADS // 2 - SHARE):
            await lookups.acquire(f"two{number}")
        nursery.start_soon(want, "new")
        await trio.testing.wait_all_tasks_blocked()
        lookups.release("one0")
        await trio.testing.wait_all_tasks_blocked()
        assert order[SHARE:] == ["new"]
        nursery.cancel_scope.cancel()
    assert not lookups._waiting
    assert lookups._running.total() == THREADS


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("unknown.example", "the host unknown.example is not known"),
        ("later.example", "cannot be looked up at the moment: Temporary failure"),
    ],
)
async def test_a_name_without_an_address(names: NameServer, host: str, reason: str) -> None:
    """Not known, or nobody to ask: the reason says which."""
    async with open_egress() as egress:
        with pytest.raises(EgressError, match=reason):
            await get(egress, f"http://{host}/", ANY)
        assert is_idle(egress)


async def test_addresses_are_not_looked_up(names: NameServer) -> None:
    """In whatever spelling."""
    async with raw_server(plain(b"ok")) as server, open_egress() as egress:
        for host in ("127.0.0.1", "127.1", "0x7f000001", "127%2e0.0.1"):
            assert (await get(egress, f"http://{host}:{server.port}/", ANY)).body == "ok"
        assert not names.asked


async def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, those that may be reached; the last one's error is the reason."""
    async with raw_server(plain(b"ok")) as server, open_egress() as egress:
        addresses = ["127.0.0.2", "10.255.255.1", "127.0.0.1"]
        found = lambda host, *args, **options: (  # noqa: E731
            REAL(host, *args, **options)
            if isinstance(host, str)
            else [(socket.AF_INET, 1, 6, "", (address, 0)) for address in addresses]
        )
        monkeypatch.setattr(socket, "getaddrinfo", found)
        rules = policy("127.0.0.0/8")
        assert (await get(egress, f"http://many.example:{server.port}/", rules)).body == "ok"
        addresses.pop()
        with pytest.raises(EgressError, match="Connection refused"):
            await get(egress, f"http://few.example:{server.port}/", rules)
        assert is_idle(egress)
