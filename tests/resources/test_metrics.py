"""Metrics: values in buckets, aggregated each by its own aggregator, sent by the plaintext
protocol.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define, field

from resources.contract import Refused
from resources.metrics import Fire
from resources.parameters import command_converter
from resources.stores import graphite as module
from resources.stores.graphite import Target, TooManyMetrics, open_graphite

from ..gateway_client import PATIENCE
from ..programs import carbon
from ..service import eventually


@define
class Sink:
    """A TCP server that keeps lines."""

    port: int = 0
    lines: list[str] = field(factory=list)

    async def serve(self, stream: trio.SocketStream) -> None:
        rest = b""
        async for data in stream:
            *lines, rest = (rest + data).split(b"\n")
            self.lines += [line.decode() for line in lines]


@asynccontextmanager
async def sink(port: int = 0) -> AsyncIterator[Sink]:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        found = Sink(listeners[0].socket.getsockname()[1])
        nursery.start_soon(trio.serve_listeners, found.serve, listeners)
        yield found
        nursery.cancel_scope.cancel()


async def test_each_aggregator_has_its_own_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """sum, avg, min, max and last of what was fired under each, stamped with the start of the
    bucket.
    """
    monkeypatch.setattr(module.time, "time", lambda: 1_400_000_000.75)
    async with sink() as server:
        target = Target("127.0.0.1", server.port, 0.5)
        async with open_graphite() as graphite:
            for value in (4, 1, 2.5):
                for aggregator in module.AGGREGATORS:
                    graphite.fire(target, "acct", f"p.{aggregator}.m", aggregator, value)
            graphite.fire(target, "acct", "p.m", "sum", 1)
            graphite.fire(target, "acct", "p.m", "last", 5)
            monkeypatch.setattr(module.time, "time", lambda: 1_400_000_001.0)
            await eventually(lambda: len(server.lines) == 7)
        results = {line.split()[0]: line.split()[1] for line in server.lines}
        assert results == {
            "p.sum.m.sum": "7.500000", "p.avg.m.avg": "2.500000", "p.min.m.min": "1.000000",
            "p.max.m.max": "4.000000",
            "p.last.m.last": "2.500000", "p.m.sum": "1.000000", "p.m.last": "5.000000",
        }  # fmt: skip
        assert {line.split()[2] for line in server.lines} == {"1400000000"}


async def test_what_is_left_is_sent_at_the_end() -> None:
    """A bucket that has not ended goes out at shutdown."""
    async with sink() as server:
        async with open_graphite() as graphite:
            graphite.fire(Target("127.0.0.1", server.port, 3600), "acct", "p.m", "sum", 1)
        await eventually(lambda: len(server.lines) == 1)


async def test_lines_wait_for_a_graphite_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens at first, then it does: all buckets arrive."""
    monkeypatch.setattr(module, "BACKOFF", (0.05, 0.1))
    async with sink() as probe:
        port = probe.port
    async with open_graphite() as graphite:
        for n in range(3):
            graphite.fire(Target("127.0.0.1", port, 0.1), "acct", f"p.m{n}", "sum", n)
            await trio.sleep(0.15)
        async with sink(port) as server:
            await eventually(lambda: len(server.lines) == 3)


async def test_lines_of_a_connection_that_breaks_are_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More lines than fit on their way are cut off in the middle: over the next connection all of
    them come, before what is fired later.
    """
    monkeypatch.setattr(module, "BACKOFF", (0.05, 0.1))
    server, connections = Sink(), 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            await stream.receive_some(1 << 16)
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            await server.serve(stream)

    names = [f"p.{n}.{'x' * 50_000}" for n in range(300)]
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        target = Target("127.0.0.1", listeners[0].socket.getsockname()[1], 0.1)
        async with open_graphite() as graphite:
            for name in names:
                graphite.fire(target, "acct", name, "sum", 1)
            await eventually(lambda: connections == 2)
            graphite.fire(target, "acct", "later", "sum", 1)
            await eventually(lambda: server.lines[-1:] and "later" in server.lines[-1])
        nursery.cancel_scope.cancel()
    assert [line.split()[0] for line in server.lines] == [
        f"{name}.sum" for name in [*names, "later"]
    ]


def fire(value: Any) -> Fire:
    structure = command_converter().get_structure_hook(Fire)
    fired: Fire = structure({"metric": "m", "agg": "sum", "value": value}, Fire)
    return fired


@pytest.mark.parametrize(
    "value",
    [0, -1.5, 1e300, "0", "12", "-1.5", "+3", "1.", ".5", "2e3", "2.5E-3", "007"],
)
async def test_numbers_and_their_texts_are_values(value: Any) -> None:
    """Also in the spellings that every language reads."""
    assert fire(value).value == value


@pytest.mark.parametrize(
    "value",
    [
        "1_000", "1_0.5", " 1", "1 ", "1\n", "\u0661", "\uff11", "nan", "infinity", "-Inf", "1e999",
        "", ".", "-", "e5", "0x10", "1,5", "1.5.2", "--1", "1" * 5000, float("nan"), float("-inf"),
        10**400, True, None, [1], {},
    ],
)  # fmt: skip
async def test_what_only_python_calls_a_number_is_refused(value: Any) -> None:
    """As is everything else that is no finite number."""
    with pytest.raises(Refused, match="Invalid metric value"):
        fire(value)


async def test_an_account_has_a_bound_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """More distinct metrics in a bucket than may be are refused; another account's are not."""
    monkeypatch.setattr(module, "NAMES_MAX", 2)
    target = Target("127.0.0.1", 1, 3600)
    async with open_graphite() as graphite:
        for _ in range(2):
            graphite.fire(target, "a", "p.m1", "sum", 1)
            graphite.fire(target, "a", "p.m2", "sum", 1)
        with pytest.raises(TooManyMetrics):
            graphite.fire(target, "a", "p.m3", "sum", 1)
        graphite.fire(target, "b", "p.m3", "sum", 1)
        monkeypatch.setattr(module, "LAST_SECONDS", 0.05)


@pytest.mark.slow
async def test_carbon_takes_what_we_send(tmp_path: Path) -> None:
    """The lines end up in a real carbon-cache, asked for through its own query port."""
    with carbon(tmp_path) as server:
        async with open_graphite() as graphite:
            graphite.fire(
                Target("127.0.0.1", server.line_port, 1),
                "acct",
                "go.campaigns.acct.stores.s.m",
                "max",
                42.5,
            )
            with trio.fail_after(PATIENCE):
                while (
                    found := await trio.to_thread.run_sync(
                        server.query, "go.campaigns.acct.stores.s.m.max"
                    )
                ) == []:
                    await trio.sleep(0.1)
        assert [value for _, value in found] == [42.5]
