"""A channel over AMQP: declared as Vumi does, in order, nothing lost, nothing requeued."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pika.frame
import pytest
import trio
from pika.spec import Basic

from resources.fence import tally
from resources.stores.journal import Journal
from resources.stores.redis import Redis, StoreRefused
from supervisor.config.model import AmqpSide, Channel
from supervisor.gateway.amqp.publisher import filled
from supervisor.gateway.intake import Intake
from supervisor.operating import health_of

from ....service import Folder, eventually
from .broker import Peer, open_broker
from .rig import rigged, serving
from .transport import open_transport, user_message


async def test_a_service_takes_answers_and_shows_its_state(folder: Folder) -> None:
    """A message through a whole service, which is ready; a reload connects elsewhere, or not at
    all.
    """
    async with open_broker() as broker, open_broker() as other:
        async with serving(folder, broker.url) as service:
            async with open_transport(broker.url) as transport:
                transport.send(user_message("+271", "hello"))
                (reply,) = await transport.has(1)
                assert (reply["content"], reply["to_addr"]) == ("you said hello", "+271")
            metrics = (await service.metrics()).decode()
            assert 'jsbox_channel_up{channel="bulk"} 1.0' in metrics
            assert 'jsbox_channel_connections_total{channel="bulk"} 1.0' in metrics
            broker.block("low on memory")
            await eventually(lambda: service.channels.state("bulk").state == "blocked")
            checks = await health_of(service).checks()
            (check,) = [one for one in checks if one.name == "channel bulk"]
            assert (check.app, check.is_fatal) == ("phone", False)
            assert "low on memory" in check.problem
            folder.text = folder.text.replace(broker.url, other.url)
            _ = folder.config
            assert (await service.reload())["ok"]
            await eventually(lambda: other.peers and not broker.peers)
            folder.text = folder.text[: folder.text.index("[channels.bulk]")].replace(
                'endpoints = { default = "bulk" }', ""
            )
            _ = folder.config
            assert (await service.reload())["ok"]
            await eventually(lambda: not other.peers)
            assert service.channels.link("bulk") is None


async def test_everything_is_declared_as_vumi_does(redis: Redis) -> None:
    """Exchange and queues durable, no arguments; messages persistent and mandatory."""
    async with open_broker() as broker, rigged(redis, broker.url) as rig:
        await rig.up()
        assert broker.declared[:9] == [
            one
            for name in ("bulk.inbound", "bulk.event", "bulk.outbound")
            for one in (("vumi", "direct", True, {}), (name, True, {}), (name, "vumi", name))
        ]
        await rig.post("a")
        await rig.settled()
        ((properties, _),) = broker.published
        assert (properties.delivery_mode, properties.content_type) == (2, "application/json")
        assert broker.mandatory == {True}


async def test_messages_and_events_are_acknowledged_once_they_are_journalled(redis: Redis) -> None:
    """Events go to the app that sent; what comes again does not run again."""
    async with open_broker() as broker, rigged(redis, broker.url) as rig:
        async with open_transport(broker.url) as transport:
            message = user_message("+271", "hello", routing_metadata={"endpoint_name": "x"})
            for _ in range(3):
                transport.send(message)
            (reply,) = await transport.has(1)
            event = {"event_type": "ack", "user_message_id": reply["message_id"]}
            transport.send(event | {"sent_message_id": "x"}, "event")
            await eventually(lambda: len(rig.echo.entries) == 2)
            await eventually(lambda: not any(peer._unacked for peer in broker.peers))
        first, second = rig.echo.entries
        assert first.payload["routing_metadata"]["endpoint_name"] == "x"
        assert (second.kind, second.counted) == ("event", True)
        assert (broker.refused, broker.requeued, rig.state.made) == ([], 0, 1)
        assert reply["in_reply_to"] == message["message_id"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["bulk", "ussd", "123", None, None]),
        (
            {"transport_name": "t", "transport_type": "sms", "from_addr": "f"},
            ["t", "sms", "f", None, None],
        ),
        (
            {"to_addr_type": "msisdn", "from_addr_type": "whatsapp_id"},
            ["bulk", "ussd", "123", "msisdn", None],
        ),
        ({"to_addr_type": ["msisdn"], "from_addr_type": 5}, ["bulk", "ussd", "123", None, None]),
    ],
)
def test_sends_have_what_strict_transports_need(given: Any, expected: list[Any]) -> None:
    """vumi2 refuses null in transport_name, transport_type and from_addr, and unknown types."""
    side = AmqpSide("bulk", from_addr="123")
    channel = Channel("c", type="amqp", transport_type="ussd", amqp=side)
    name, text = filled(json.dumps(given | {"message_id": "m"}).encode(), channel, side)
    fields = ("transport_name", "transport_type", "from_addr", "to_addr_type", "from_addr_type")
    assert [json.loads(text)[field] for field in fields] == expected
    assert name == "m"


MALFORMED = {
    b"\xff\xfe": "expected JSON",
    b"[]": "expected a JSON object",
    b"[" * 8000: "levels of nesting",
    b'{"message_id": 5}': "msg.message_id",
    b'{"content": "%s"}' % (b"x" * 9000): "gateway.max_frame",
    b'{"session_event": "start"}': "msg.session_event",
    b'{"from_addr": ["+27"]}': "msg.from_addr",
}


async def test_what_is_malformed_is_refused_without_requeue(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Logged, a bounded number of times, and what comes after it is answered."""
    bodies = [*MALFORMED, *[b"more"] * 50]
    async with open_broker() as broker, rigged(redis, broker.url):
        async with open_transport(broker.url) as transport:
            for body in bodies:
                transport.send(body)
            transport.send(user_message("+271", "after"))
            await transport.has(1)
    assert sorted(broker.refused) == sorted(bodies)
    assert broker.requeued == 0
    logged = "\n".join(one.message for one in caplog.records if "is refused" in one.message)
    assert logged.count("\n") == 19
    for says in MALFORMED.values():
        assert says in logged


async def test_an_error_of_ours_costs_one_message(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused, so that it does not come again and again, and counted. The others are
    answered.
    """
    offer = Intake.offer

    def failing(self: Intake, one: Any) -> None:
        if one.payload["content"] == "bad":
            raise ZeroDivisionError
        offer(self, one)

    monkeypatch.setattr(Intake, "offer", failing)
    before = tally["gateway.amqp"]
    async with open_broker() as broker, rigged(redis, broker.url):
        async with open_transport(broker.url) as transport:
            for text in ("bad", "good", "bad", "good"):
                transport.send(user_message("+271", text))
            await transport.has(2)
    assert (len(broker.refused), tally["gateway.amqp"]) == (2, before + 2)


class Refusing:
    """A journal that refuses all, and later every other entry."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.refuses = True
        self.asked = 0

    async def attempt(self, entries: Any) -> Any:
        self.asked += 1
        return [
            StoreRefused("OOM")
            if self.refuses or (self.asked + n) % 2
            else (await self.journal.attempt([entry]))[0]
            for n, entry in enumerate(entries)
        ]


async def test_what_cannot_be_taken_now_is_held_in_order(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the journal refuses, messages stay with the broker, and none overtakes another of its
    user. /readyz says why, after a while.
    """
    monkeypatch.setattr("supervisor.gateway.amqp.inbound.HELD_LONG", 0.2)
    refusing = Refusing(Journal(redis))
    async with open_broker() as broker, rigged(redis, broker.url, journal=refusing) as rig:
        async with open_transport(broker.url) as transport:
            for n in range(40):
                transport.send(user_message(f"+{n % 4}", str(n)))
            await eventually(lambda: "OOM" in rig.state.problem)
            assert refusing.asked > 1
            refusing.refuses = False
            got = await transport.has(40)
        await rig.settled()
    for n in range(4):
        texts = [one["content"] for one in got if one["to_addr"] == f"+{n}"]
        assert texts == [f"you said {m}" for m in range(40) if m % 4 == n]
    assert (broker.requeued, broker.refused) == (0, [])


async def test_one_held_message_is_a_problem_too(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is offered again meanwhile; and none any more when it was taken."""
    monkeypatch.setattr("supervisor.gateway.amqp.inbound.HELD_LONG", 0.3)
    monkeypatch.setattr("supervisor.gateway.amqp.inbound.RETRY", (0.05, 0.1))
    refusing = Refusing(Journal(redis))
    async with open_broker() as broker, rigged(redis, broker.url, journal=refusing) as rig:
        async with open_transport(broker.url) as transport:
            transport.send(user_message("+271", "hello"))
            await eventually(lambda: "OOM" in rig.state.problem)
            assert refusing.asked > 2
            refusing.refuses = False
            await transport.has(1)
        assert rig.state.problem == ""


async def test_a_full_queue_and_a_tripped_app_leave_messages_with_the_broker(
    redis: Redis,
) -> None:
    """Nothing is lost, nothing requeued, and the order is kept."""
    async with open_broker() as broker, rigged(redis, broker.url, prefetch=7, credit=3) as rig:
        rig.echo.room, rig.echo.tripped = 2, True
        async with open_transport(broker.url) as transport:
            for n in range(30):
                transport.send(user_message("+1", str(n)))
            await eventually(lambda: sum(len(peer._unacked) for peer in broker.peers) == 7)
            assert not rig.echo.entries
            rig.echo.tripped = False
            got = await transport.has(30)
        assert [one["content"] for one in got] == [f"you said {n}" for n in range(30)]
        await rig.settled()
    assert (broker.requeued, broker.refused) == (0, [])


async def test_messages_in_progress_are_bounded_by_credit(redis: Redis) -> None:
    """However many the broker sends ahead; each run that ends makes room for one."""
    async with open_broker() as broker, rigged(redis, broker.url, prefetch=20, credit=3) as rig:
        rig.echo.go_on = trio.Event()
        async with open_transport(broker.url) as transport:
            for n in range(20):
                transport.send(user_message(f"+{n}", str(n)))
            # the broker gives what comes after these when they are acknowledged
            await eventually(lambda: sum(len(peer._unacked) for peer in broker.peers) == 17)
            assert len(rig.echo.entries) == 3
            rig.echo.go_on.set()
            await transport.has(20)


async def test_outbounds_wait_for_their_confirmation(redis: Redis) -> None:
    """A message that the broker has not confirmed stays in the outbox, and goes out again over the
    next connection, with the same id. Confirmations may be of several, and in any order.
    """
    numbers: list[int] = []

    def confirm(peer: Peer, channel: int, _: str, number: int) -> None:
        numbers.append(number)
        if len(numbers) == 5:
            peer.say(channel, Basic.Ack(numbers[3]), Basic.Ack(numbers[2], multiple=True))
            peer.say(channel, Basic.Ack(numbers[4], multiple=True))

    async with open_broker() as broker, rigged(redis, broker.url) as rig:
        await rig.up()
        broker.on_publish = lambda *_: None
        await rig.post(*"abcde")
        await eventually(lambda: len(broker.published) == 5)
        assert await rig.outbox.waiting("bulk") == 5
        broker.on_publish = confirm
        broker.cut()
        await rig.settled()
    texts = [json.loads(body)["content"] for _, body in broker.published]
    assert texts == [*"abcde", *"abcde"]
    assert len({one.message_id for one, _ in broker.published}) == 5


async def test_what_the_broker_does_not_take_is_kept_and_sent_again(redis: Redis) -> None:
    """Its queue is gone, or full: the state says so, and nothing is lost."""

    def refuse(peer: Peer, channel: int, _: str, number: int) -> None:
        peer.say(channel, Basic.Nack(number))

    def give_back(peer: Peer, channel: int, queue: str, number: int) -> None:
        properties, body = broker.published[-1]
        back = pika.frame.Header(channel, len(body), properties).marshal()
        method = pika.frame.Method(channel, Basic.Return(312, "NO_ROUTE", "vumi", queue))
        peer.raw(method.marshal() + back + pika.frame.Body(channel, body).marshal())
        peer.say(channel, Basic.Ack(number))

    async with open_broker() as broker, rigged(redis, broker.url) as rig:
        await rig.up()
        for how, says in ((refuse, "basic.nack"), (give_back, "312 NO_ROUTE")):
            broker.on_publish = how
            before = rig.state.returned
            await rig.post("a", "b")
            await eventually(lambda before=before: rig.state.returned >= before + 4)
            assert says in rig.state.problem
            broker.on_publish = None
            await rig.settled()
            await eventually(lambda: not rig.state.problem)
        assert rig.state.made == 1
    kept = [json.loads(body)["content"] for body, _ in broker.queues["bulk.outbound"]]
    assert kept == ["a", "b", "a", "b"]


async def test_statuses_show_in_readyz(redis: Redis) -> None:
    """If asked for; other things in that queue are ignored."""
    async with open_broker() as broker, rigged(redis, broker.url, status=True) as rig:
        await eventually(lambda: "bulk.status.status" in broker.consumers)
        down = b'{"component": "smpp", "status": "down", "message": "no bind"}'
        for body in (b"nonsense", b"[]", down):
            broker.put("bulk.status.status", body)
        await eventually(lambda: rig.state.problem == "transport: smpp down: no bind")
        broker.put("bulk.status.status", b'{"component": "smpp", "status": "ok"}')
        await eventually(lambda: not rig.state.problem)


def test_nothing_of_it_is_loaded_without_such_a_channel() -> None:
    """pika costs time and memory that only those pay who use it."""
    code = (
        "import sys, supervisor.service, supervisor.cli, supervisor.cli.serve\n"
        "assert not any(name.startswith('pika') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
