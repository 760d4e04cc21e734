"""Servers that share the work, killed, frozen, cut off, reloaded and restarted under load: every
message that was accepted has one outcome, effects in the store once, users their order, and replies
are neither lost nor sent under two ids.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
import trio
from attrs import define

from ..programs import free_ports
from ..tcp_proxy import TcpProxy, tcp_proxy
from ..valkey_server import ValkeyServer
from .crowd import APP, Crowd
from .hosts import Host, Make, direct

pytestmark = pytest.mark.slow

LEASE = 2.0
PROCESSES = 4
MORE = f"pool = {{ max_processes = {PROCESSES} }}\n"


@define(eq=False)
class Fleet:
    """Servers on one store, each reaching it through a proxy of its own."""

    hosts: list[Host]
    proxies: list[TcpProxy]
    gateways: list[str]
    store: redis.Redis

    async def ready(self, n: int, times: int = 1) -> None:
        await trio.to_thread.run_sync(self.hosts[n].ready, times)


@contextmanager
def fleet(count: int, shared: ValkeyServer, hosts: Make) -> Iterator[Fleet]:
    ports = free_ports(count)
    with direct(shared) as store:
        found = Fleet([], [], [f"ws://127.0.0.1:{port}/v1" for port in ports], store)
        with contextlib.ExitStack() as stack:
            for n in range(count):
                proxy = stack.enter_context(tcp_proxy(shared.url))
                found.proxies.append(proxy)
                found.hosts.append(
                    hosts(
                        f"host{n}",
                        "shared",
                        APP,
                        MORE,
                        lease=f"{LEASE:g}s",
                        gateway=f"127.0.0.1:{ports[n]}",
                        url=proxy.url,
                    )
                )
            for host in found.hosts:
                host.ready()
            yield found
            for host in found.hosts:
                host.send(signal.SIGTERM)
            for host in found.hosts:
                host.ended()


async def killed(fleet: Fleet, crowd: Crowd) -> int:
    for n, host in enumerate(fleet.hosts):
        await crowd.wait_accepted(crowd.total * (n + 1) // (len(fleet.hosts) + 2))
        host.send(signal.SIGKILL)
        await trio.to_thread.run_sync(host.ended)
        await trio.sleep(LEASE + 1)
        host.restart()
        await fleet.ready(n)
    return len(fleet.hosts) * PROCESSES


async def frozen(fleet: Fleet, crowd: Crowd) -> int:
    for n, host in enumerate(fleet.hosts):
        await crowd.wait_accepted(crowd.total * (n + 1) // (len(fleet.hosts) + 2))
        host.send(signal.SIGSTOP)
        await trio.sleep(20)
        host.send(signal.SIGCONT)
        await fleet.ready(n, 2)
    return len(fleet.hosts) * PROCESSES


async def cut_off(fleet: Fleet, crowd: Crowd) -> int:
    for n, proxy in enumerate(fleet.proxies):
        await crowd.wait_accepted(crowd.total * (n + 1) // (len(fleet.hosts) + 2))
        proxy.cut()
        await trio.sleep(3 * LEASE)
        proxy.repair()
        await fleet.ready(n, 2)
    return len(fleet.hosts) * PROCESSES


async def restarted(fleet: Fleet, crowd: Crowd) -> int:
    for host in fleet.hosts:
        host.send(signal.SIGHUP)
    for n, host in enumerate(fleet.hosts):
        await crowd.wait_accepted(crowd.total * (n + 1) // (len(fleet.hosts) + 2))
        host.send(signal.SIGTERM)
        assert await trio.to_thread.run_sync(host.ended) == 0
        host.restart()
        await fleet.ready(n)
    return 0


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("trouble", [killed, frozen, cut_off, restarted])
async def test_nothing_is_lost_and_nothing_done_twice(
    trouble, count: int, shared: ValkeyServer, hosts: Make
) -> None:
    with fleet(count, shared, hosts) as found:
        crowd = Crowd(found.gateways, users=100, each=30, pause=0.1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crowd.stay)
            async with trio.open_nursery() as work:
                work.start_soon(crowd.speak)
                cut_off = await trouble(found, crowd)
            await crowd.all_has_ended(found.store)
            await crowd.ask()
            nursery.cancel_scope.cancel()
        crowd.check(found.store, cut_off)
