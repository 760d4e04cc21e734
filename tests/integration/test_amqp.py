"""A real RabbitMQ between a transport and jsbox, while everything is cut and killed."""

from __future__ import annotations

import json
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pika
import pytest
import trio
from attrs import define, field

from supervisor.gateway.amqp.session import declare
from supervisor.gateway.amqp.wire import Lost, Wire, open_wire

from ..programs import Broker, free_ports, jsbox, rabbitmq, serve
from ..service import Folder, eventually
from ..supervisor.gateway.amqp.transport import EXCHANGE, user_message

pytestmark = pytest.mark.slow

USERS, EACH = 100, 10
APP = """
var from = command.msg.from_addr, id = command.msg.message_id;
api.request('kv.incr', {key: 'count' + from}, function (reply) {
  if (!reply.success) throw new Error(reply.reason);
  api.request('outbound.reply_to', {content: command.msg.content, in_reply_to: id},
    function (sent) {
      if (!sent.success) throw new Error(sent.reason);
      api.done();
    });
});
"""


@define(eq=False)
class Traffic:
    """A transport that goes on whatever happens: it publishes again what was not confirmed, and
    keeps all that it is sent.
    """

    url: str
    waiting: list[dict[str, Any]] = field(factory=list)  # not confirmed, in order
    ids: dict[str, set[str]] = field(factory=lambda: defaultdict(set))  # by in_reply_to
    first: list[dict[str, Any]] = field(factory=list)  # as they came, without repetitions
    repeated: int = 0
    tags: dict[int, dict[str, Any]] = field(factory=dict)  # published and not confirmed

    async def run(self) -> None:
        while True:
            try:
                async with open_wire(self.url, "a transport") as wire:
                    await self.serve(wire)
            except Lost:
                await trio.sleep(0.1)

    async def serve(self, wire: Wire) -> None:
        raw = await wire.channel()
        for queue in ("inbound", "event", "outbound"):
            await declare(wire, raw, EXCHANGE, f"bulk.{queue}")
        confirm = partial(raw.confirm_delivery, self.confirmed)
        await wire.ask("confirmations", lambda done: confirm(callback=done))
        self.tags.clear()
        consume = partial(raw.basic_consume, "bulk.outbound", self.take)
        await wire.ask("to consume", lambda done: consume(callback=done))
        await self.publish(raw)
        await trio.sleep_forever()

    async def publish(self, raw: Any) -> None:
        for number, message in enumerate(list(self.waiting), 1):
            self.tags[number] = message
            properties = pika.BasicProperties(delivery_mode=2)
            body = json.dumps(message).encode()
            raw.basic_publish(EXCHANGE, "bulk.inbound", body, properties)
            await trio.sleep(0.025)  # slow enough for all that happens meanwhile

    def confirmed(self, frame: Any) -> None:
        newest = frame.method.delivery_tag
        done = [n for n in self.tags if n == newest or (frame.method.multiple and n < newest)]
        gone = {self.tags.pop(n)["message_id"] for n in done}
        self.waiting = [one for one in self.waiting if one["message_id"] not in gone]

    def take(self, raw: Any, method: Any, _: Any, body: bytes) -> None:
        message = json.loads(body)
        seen = self.ids[message["in_reply_to"]]
        if message["message_id"] in seen:
            self.repeated += 1
        else:
            self.first.append(message)
        seen.add(message["message_id"])
        raw.basic_ack(method.delivery_tag)

    def per_user(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for one in self.first:
            found[one["to_addr"]].append(one["content"])
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "app").mkdir()
    return Folder(tmp_path / "app")


def configured(folder: Folder, broker: Broker) -> Path:
    (port,) = free_ports(1)
    folder.text = folder.text.replace('admin = "127.0.0.1:0"', f'admin = "127.0.0.1:{port}"')
    folder.app("phone", APP, 'endpoints = { default = "bulk" }', channel="other")
    folder.text += (
        '[channels.bulk]\ntype = "amqp"\napp = "phone"\ntransport_type = "ussd"\nname = "bulk"\n'
        f'url = "{broker.url}"\n'
    )
    return folder.config


@asynccontextmanager
async def traffic(broker: Broker, messages: list[dict[str, Any]]) -> AsyncIterator[Traffic]:
    async with trio.open_nursery() as nursery:
        found = Traffic(broker.url, messages)
        nursery.start_soon(found.run)
        yield found
        nursery.cancel_scope.cancel()


async def test_nothing_is_lost_doubled_or_out_of_order(folder: Folder, tmp_path: Path) -> None:
    """All connections are cut three times; the broker and jsbox are killed once each."""
    messages = [
        user_message(f"+{user}", f"{user}:{n}") for n in range(EACH) for user in range(USERS)
    ]
    total = USERS * EACH
    with rabbitmq(tmp_path / "rabbit") as broker:
        config = configured(folder, broker)

        async def until(share: float) -> None:
            await eventually(lambda: len(sent.ids) >= total * share, 200)

        async with traffic(broker, messages) as sent:
            with serve(config, expect_code=None) as server:
                for cut in (0.1, 0.2, 0.3):
                    await until(cut)
                    await trio.to_thread.run_sync(
                        partial(broker.ctl, "close_all_connections", "a test")
                    )
                await until(0.5)
                assert sent.waiting
                await trio.to_thread.run_sync(broker.stop)
                await trio.to_thread.run_sync(broker.start)
                await until(0.7)
                assert sent.waiting
                server.process.send_signal(signal.SIGKILL)
            with serve(config) as server:
                await until(1.0)
                await eventually(lambda: not sent.waiting)
                shown = await trio.to_thread.run_sync(partial(jsbox, "ps", "-c", str(config)))
                assert "amqp up" in shown.stdout
            assert len(sent.ids) == total
            assert all(len(ids) == 1 for ids in sent.ids.values())
            assert sent.per_user() == {
                f"+{user}": [f"{user}:{n}" for n in range(EACH)] for user in range(USERS)
            }
        assert "bulk.inbound\t0" in broker.ctl("list_queues", "name", "messages")
