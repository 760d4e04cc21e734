"""Requests that are cancelled at every possible moment give back everything they had."""

from __future__ import annotations

import gzip
import itertools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.lowlevel
import trustme
from trio.testing import wait_all_tasks_blocked

from resources.stores.egress import Egress, Policy, open_egress
from resources.stores.egress.lookup import Lookups
from resources.stores.egress.pace import Pace

from .proxy_server import proxy_server
from .raw_server import (
    CHUNKED,
    Reply,
    get,
    is_idle,
    no_socket_left,
    plain,
    policy,
    raw_server,
)
from .test_hostile_answers import HOSTILE

Way = Callable[[ssl.SSLContext], AsyncIterator[tuple[str, Policy]]]


@asynccontextmanager
async def over_http(_: ssl.SSLContext) -> AsyncIterator[tuple[str, Policy]]:
    async with raw_server(plain(b"ok")) as server:
        yield server.url, policy("127.0.0.1")


@asynccontextmanager
async def by_name(_: ssl.SSLContext) -> AsyncIterator[tuple[str, Policy]]:
    async with raw_server(plain(gzip.compress(b"ok" * 1000), b"Content-Encoding: gzip")) as server:
        yield f"http://localhost:{server.port}/", policy("localhost")


@asynccontextmanager
async def over_tls(tls: ssl.SSLContext) -> AsyncIterator[tuple[str, Policy]]:
    async with raw_server(plain(b"ok"), tls=tls) as server:
        yield server.url.replace("http:", "https:"), policy("127.0.0.1")


@asynccontextmanager
async def through_a_tunnel(tls: ssl.SSLContext) -> AsyncIterator[tuple[str, Policy]]:
    async with raw_server(plain(b"ok"), tls=tls) as server, proxy_server() as proxy:
        yield f"https://127.0.0.1:{server.port}/", policy("127.0.0.1", proxy=proxy.url)


@asynccontextmanager
async def by_redirect(_: ssl.SSLContext) -> AsyncIterator[tuple[str, Policy]]:
    there = b"HTTP/1.1 302 x\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n"
    async with raw_server(lambda _, index: Reply(plain(b"ok") if index % 2 else there)) as server:
        yield server.url, policy("127.0.0.1")


@asynccontextmanager
async def in_slices(_: ssl.SSLContext) -> AsyncIterator[tuple[str, Policy]]:
    chunks = CHUNKED + b"4\r\nabcd\r\n" * 3000 + b"0\r\n\r\n"
    async with raw_server(chunks) as server:
        yield server.url, policy("127.0.0.1")


@asynccontextmanager
async def on_a_connection_that_died(_: ssl.SSLContext) -> AsyncIterator[tuple[str, Policy]]:
    async with raw_server(
        lambda _, index: Reply(b"", "close") if index else Reply(plain(b"ok"))
    ) as server:
        yield server.url, policy("127.0.0.1")


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when a task is about to run for the n-th time."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, step: int) -> None:
        self.task, self.scope, self.left = task, scope, step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.left -= 1
            if not self.left:
                self.scope.cancel()


async def cancelled_at(step: int, ask: Callable[[], Awaitable[object]]) -> tuple[bool, bool]:
    """Ask in a task that is cancelled at this step; return whether it came so far, and whether it
    was cancelled.
    """
    done = False
    go = trio.Event()

    async def run(
        scope: trio.CancelScope, task_status: trio.TaskStatus[trio.lowlevel.Task]
    ) -> None:
        nonlocal done
        task_status.started(trio.lowlevel.current_task())
        await go.wait()
        with scope:
            await ask()
            done = True

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        task = await nursery.start(run, scope)
        instrument = CancelAtStep(task, scope, step)
        trio.lowlevel.add_instrument(instrument)
        go.set()
    trio.lowlevel.remove_instrument(instrument)
    return instrument.left <= 0, not done


@pytest.fixture(scope="module")
def tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


WAYS = [
    over_http,
    by_name,
    over_tls,
    through_a_tunnel,
    by_redirect,
    in_slices,
    on_a_connection_that_died,
]


# A body that is worked on in slices has some hundred steps, each of which is a whole request.
FEW_STEPS = [pytest.param(way, marks=pytest.mark.slow) if way is in_slices else way for way in WAYS]


@pytest.mark.parametrize("way", FEW_STEPS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
async def test_a_cancelled_request_leaves_nothing(
    way: Way, kept: bool, tls: ssl.SSLContext
) -> None:
    """At each step, on a new and on a kept connection: no socket, place, slice or thread, and the
    next request is well.
    """
    cancelled = 0
    async with way(tls) as (url, rules):
        for step in itertools.count(1):
            async with open_egress() as egress:
                if kept:
                    await get(egress, url, rules, verify=False)
                reached, was = await cancelled_at(
                    step, lambda egress=egress: get(egress, url, rules, verify=False)
                )
                cancelled += was
                await settled(egress)
                assert len(egress._kept) <= 1
                assert (await get(egress, url, rules, verify=False)).code == 200
                assert is_idle(egress)
            if not reached:
                break
    assert not was
    assert cancelled > 2


async def settled(egress: Egress) -> None:
    """Wait for look-ups that nobody waits for."""
    with trio.fail_after(60):
        while not is_idle(egress):
            await trio.sleep(0.001)


async def test_no_socket_is_left_by_any_of_them(tls: ssl.SSLContext) -> None:
    """The same, with the sockets of this process counted."""
    with no_socket_left():
        for way in WAYS:
            async with way(tls) as (url, rules), open_egress() as egress:
                step = 1
                while (await cancelled_at(step, lambda: get(egress, url, rules, verify=False)))[0]:
                    step += 1
                    await settled(egress)


async def test_a_slice_is_not_given_to_somebody_just_cancelled() -> None:
    """Who has left the queue, and does not know yet, takes nothing out of it: the next one gets it,
    or whoever comes later.
    """
    pace = Pace()
    with trio.fail_after(60):
        for others in (0, 1):
            await pace.take("first")
            async with trio.open_nursery() as nursery:
                cancelled = await nursery.start(_queue, pace.take, "second")
                for _ in range(others):
                    nursery.start_soon(pace.take, "third")
                await wait_all_tasks_blocked()
                cancelled.cancel()
                pace.give()
            for _ in range(others):
                pace.give()
        await pace.take("later")


async def test_a_thread_is_not_given_to_somebody_just_cancelled() -> None:
    """The same for threads that look names up."""
    lookups = Lookups()
    with trio.fail_after(60):
        held = 0
        while lookups._may_start("app"):
            await lookups.acquire("app")
            held += 1
        async with trio.open_nursery() as nursery:
            cancelled = await nursery.start(_queue, lookups.acquire, "app")
            await wait_all_tasks_blocked()
            cancelled.cancel()
            lookups.release("app")
    for _ in range(held - 1):
        lookups.release("app")
    assert not lookups._running
    assert not lookups._waiting


async def _queue(
    take: Callable[[str], Awaitable[None]],
    app: str,
    *,
    task_status: trio.TaskStatus[trio.CancelScope],
) -> None:
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await take(app)


async def test_cancelled_in_a_queue_for_slices() -> None:
    """Whoever waits for its turn to work and gives up is not waited for."""
    reply, _ = HOSTILE["chunks of 32 bytes"]
    async with raw_server(reply) as server, open_egress() as egress:
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(get, egress, server.url)
                nursery.start_soon(lambda app=f"app{number}": get(egress, server.url, app=app))
            while not egress._pace._waiting:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await settled(egress)
        assert len((await get(egress, server.url)).body) == 131072
