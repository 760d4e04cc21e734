"""The signals of a service, around its end."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import cast

import trio
import trio.testing

from supervisor.service import Service
from supervisor.serving import _Orders


class Unasked:
    """Stands in for a service that is asked for nothing but a reload."""

    async def reload(self) -> None:
        raise AssertionError


async def test_signals_that_come_while_the_service_ends_change_nothing() -> None:
    """There is nothing left to reload, and the end is not given up."""
    orders = _Orders()
    async with trio.open_nursery() as work:
        orders.obey(cast("Service", Unasked()), work)
        orders.over.set()
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        orders.take(number)
    assert not orders.start.cancel_called


class Reloading:
    """Stands in for a service that reloads for ever, or at once."""

    def __init__(self, *, at_once: bool) -> None:
        self.asked = 0
        self._at_once = at_once

    async def reload_by_signal(self) -> None:
        self.asked += 1
        if not self._at_once:
            await trio.sleep_forever()


async def test_a_reload_that_ends_with_its_service_is_done_by_the_next() -> None:
    """Once: one that was done is not repeated."""
    orders = _Orders()
    first, second, third = (
        Reloading(at_once=False),
        Reloading(at_once=True),
        Reloading(at_once=True),
    )
    for service in (first, second, third):
        async with trio.open_nursery() as work:
            orders.obey(cast("Service", service), work)
            if service is first:
                orders.take(signal.SIGHUP)
                await trio.testing.wait_all_tasks_blocked()
            orders.release()
            if service is first:
                work.cancel_scope.cancel()
    assert [one.asked for one in (first, second, third)] == [1, 1, 0]


def test_sigterm_ends_the_imports_wherever_it_comes() -> None:
    """Also in a callback of a weak reference, out of which no exception comes."""
    program = (
        "import os, signal, weakref; from supervisor import early; early.watch(); held = set();"
        " gone = weakref.ref(held, lambda _: os.kill(os.getpid(), signal.SIGTERM)); del held;"
        " os._exit(5)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
