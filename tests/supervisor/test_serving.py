"""The signals of a service, around its end."""

from __future__ import annotations

import signal
from typing import cast

import trio

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
