"""Two servers that share the work, on one broker: one of them takes in what comes on a channel of
type amqp, another if that dies, and both publish.
"""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import pytest
import trio

from ..programs import rabbitmq
from ..service import eventually
from ..supervisor.gateway.amqp.transport import user_message
from ..valkey_server import ValkeyServer
from .hosts import Host, Make, direct
from .test_amqp import APP, Traffic, traffic

pytestmark = pytest.mark.slow

USERS, EACH = 50, 16
PROCESSES = 4
CHANNEL = """pool = {{ max_processes = {} }}
endpoints = {{ default = "bulk" }}
[channels.bulk]
type = "amqp"
app = "phone"
transport_type = "ussd"
name = "bulk"
url = "{}"
"""


async def restart(host: Host) -> None:
    host.restart()
    await trio.to_thread.run_sync(host.ready)


async def test_one_takes_in_and_another_if_it_dies(
    shared: ValkeyServer, hosts: Make, tmp_path: Path
) -> None:
    """The one that takes in is killed, then the next is stopped, then the broker dies: nothing is
    lost, sent under two ids or run out of order, and nothing has its effect twice but what was in
    progress in the one that was killed.
    """
    messages = [
        user_message(f"+{user}", f"{user}:{n}") for n in range(EACH) for user in range(USERS)
    ]
    with rabbitmq(tmp_path / "rabbit") as broker, direct(shared) as store:
        more = CHANNEL.format(PROCESSES, broker.url)
        pair = [hosts(name, "shared", APP, more, lease="2s") for name in ("one", "two")]
        by_id = {await trio.to_thread.run_sync(host.id): host for host in pair}

        def taker() -> Host:
            """The server whose turn it is."""
            return by_id[store.get("jsbox:{channel:bulk}:owner").decode().split()[1]]

        async def until(share: float, sent: Traffic) -> None:
            await eventually(lambda: len(sent.ids) >= USERS * EACH * share, 200)

        async with traffic(broker, messages) as sent:
            await until(0.2, sent)
            first = taker()
            first.send(signal.SIGKILL)
            assert await trio.to_thread.run_sync(first.ended) == -signal.SIGKILL
            await until(0.4, sent)
            second = taker()
            assert second is not first
            await restart(first)
            second.send(signal.SIGTERM)
            assert await trio.to_thread.run_sync(second.ended) == 0
            await until(0.6, sent)
            assert taker() is first
            await restart(second)
            await trio.to_thread.run_sync(broker.stop)
            await trio.to_thread.run_sync(broker.start)
            await until(1.0, sent)
            await eventually(lambda: not sent.waiting)
        assert len(sent.ids) == USERS * EACH
        assert all(len(ids) == 1 for ids in sent.ids.values())
        # Those that waited in the outbox of the dead one may come late: they were sent in order.
        sent.first.sort(key=lambda one: one["timestamp"])
        assert sent.per_user() == {
            f"+{user}": [f"{user}:{n}" for n in range(EACH)] for user in range(USERS)
        }
        counts = [int(store.get(f"jsbox:{{acct}}:kv:count+{user}")) for user in range(USERS)]
        assert 0 <= sum(counts) - USERS * EACH <= PROCESSES
        assert min(counts) >= EACH
        listed = partial(broker.ctl, "list_queues", "name", "messages")
        assert "bulk.inbound\t0" in await trio.to_thread.run_sync(listed)
