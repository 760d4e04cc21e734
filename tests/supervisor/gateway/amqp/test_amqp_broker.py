"""A channel's broker: found, secured, blocked, hostile, silent or gone."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pika.frame
import pytest
import trio
import trustme
from pika.spec import Basic

from resources.stores.redis import Redis
from supervisor.gateway.amqp import publisher, wire

from ....service import eventually
from .broker import Peer, open_broker
from .rig import rigged
from .transport import open_transport, user_message


async def test_a_lost_broker_loses_nothing(redis: Redis) -> None:
    """Cut again and again: what was not acknowledged comes again, and runs once."""
    async with open_broker() as broker, rigged(redis, broker.url) as rig:
        await rig.up()
        for n in range(60):
            broker.put("bulk.inbound", json.dumps(user_message(f"+{n % 3}", str(n))).encode())
            if n % 20 == 10:
                made = rig.state.made
                await eventually(lambda: len(broker.queues["bulk.outbound"]) > 2)
                broker.cut()
                await eventually(lambda made=made: rig.state.made > made)
        await eventually(lambda: len(broker.queues["bulk.outbound"]) >= 60)
        await rig.settled()
        assert rig.state.made == 4
        assert len(rig.echo.entries) == 60
    bodies = [json.loads(body) for body, _ in broker.queues["bulk.outbound"]]
    assert len({one["message_id"] for one in bodies}) == 60


async def test_a_blocked_broker_gets_nothing_until_it_takes_messages(redis: Redis) -> None:
    """`connection.blocked` is a state of its own."""
    async with open_broker() as broker, rigged(redis, broker.url) as rig:
        await rig.up()
        broker.block("low on memory")
        await eventually(lambda: rig.state.state == "blocked")
        assert "low on memory" in rig.state.problem
        await rig.post("a")
        # what was sent before this is refused would have come before
        broker.put("bulk.inbound", b"nonsense")
        await eventually(lambda: broker.refused)
        assert not broker.published
        broker.block(None)
        await rig.settled()
        assert rig.state.state == "up"
    assert len(broker.published) == 1


async def test_urls_are_tried_in_turn_and_no_secret_is_shown(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody listens, a wrong password, then it works; each problem is logged once."""
    async with open_broker() as broker:
        broker.password = b"another"
        closed = "amqp://guest:s3cret@127.0.0.1:1/%2f"
        url = broker.url.replace("guest:guest", "guest:s3cret")
        async with rigged(redis, closed, url) as rig:
            await eventually(lambda: "not this password" in rig.state.problem)
            assert "refused" in rig.state.problem
            assert rig.state.state == "down"
            broker.password = b"s3cret"
            await rig.up()
            assert not rig.state.problem
    assert "s3cret" not in caplog.text
    assert sum("refused" in one.message for one in caplog.records) == 1


async def test_tls_is_checked_against_the_hosts_authorities(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """amqps: a certificate of nobody we know is refused, with the reason; then it works."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with open_broker(context) as broker:
        url = broker.url.replace("amqp:", "amqps:")
        async with rigged(redis, url) as rig:
            await eventually(lambda: "TLS: " in rig.state.problem)
            assert "certificate" in rig.state.problem
            authority.cert_pem.write_to_path(tmp_path / "ca.pem")
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
            await rig.up()
            await rig.post("a")
            await rig.settled()
    assert len(broker.published) == 1


RUDE: dict[str, bytes] = {
    "no AMQP": b"HTTP/1.1 400 Bad Request\r\n\r\n" * 3,
    "endless frame": b"\x03\x00\x01\xff\xff\xff\xff" + b"x" * 4000,
    "wrong end": b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x0a\x00",
    "unknown method": b"\x01\x00\x00\x00\x00\x00\x04\x7f\x7f\x7f\x7f\xce",
    "body first": b"\x03\x00\x01\x00\x00\x00\x01x\xce",
    "cut short": b"\x01\x00\x00\x00\x00\x00\x02\x00\x0a\xce",
    "nothing more": b"",
}


async def test_a_hostile_broker_ends_its_own_connection_alone(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left, and tried again."""
    monkeypatch.setattr("supervisor.gateway.amqp.link.AGAIN", (0.01, 0.05))
    async with open_broker() as broker, rigged(redis, broker.url) as rig:
        await rig.up()
        for rude in RUDE.values():
            made = rig.state.made
            for peer in list(broker.peers):
                peer.raw(rude) if rude else peer.scope.cancel()
            await eventually(lambda made=made: rig.state.made > made)
        await rig.post("a")
        await rig.settled()
    assert len(broker.published) == 1


async def test_a_broker_that_sends_more_than_it_was_asked_for_is_left(redis: Redis) -> None:
    """What it sends ahead is bounded, whatever it does."""
    async with open_broker() as broker, rigged(redis, broker.url, prefetch=5, credit=1) as rig:
        rig.echo.go_on = trio.Event()
        await rig.up()
        await eventually(lambda: "bulk.inbound" in broker.consumers)
        (consumer,) = broker.consumers["bulk.inbound"]
        consumer.prefetch = 1000
        for n in range(40):
            broker.put("bulk.inbound", json.dumps(user_message(f"+{n}", str(n))).encode())
        await eventually(lambda: rig.state.made >= 2)
        rig.echo.go_on.set()
        await eventually(lambda: len(broker.queues["bulk.outbound"]) == 40)
        assert len(rig.echo.entries) == 40


async def test_frames_of_no_size_and_words_of_any_kind(redis: Redis) -> None:
    """What a broker wants must be sane; what it says is shown in one line."""
    async with open_broker() as broker:
        broker.frame_max = 9
        async with rigged(redis, broker.url) as rig:
            await eventually(lambda: "but got 9" in rig.state.problem)
            broker.frame_max = 131_072
            await rig.up()
            broker.block("low\n2026 ERROR \x1b[31mforged")
            await eventually(lambda: rig.state.state == "blocked")
            assert rig.state.problem.endswith(r"low\n2026 ERROR \x1b[31mforged")


async def test_an_endless_message_is_not_kept(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its header says that it is huge, and its frames come on and on."""
    monkeypatch.setattr(wire, "MESSAGE_MAX", 300_000)
    async with open_broker() as broker, rigged(redis, broker.url) as rig:
        await rig.up()
        (peer,) = broker.peers
        peer.raw(
            pika.frame.Method(1, Basic.Deliver("x", 1, False, "vumi", "bulk.inbound")).marshal()
            + pika.frame.Header(1, 1 << 40, pika.spec.BasicProperties()).marshal()
            + pika.frame.Body(1, b"x" * 100_000).marshal() * 6
        )
        await eventually(lambda: rig.state.made == 2)


async def test_a_broker_that_reads_nothing_is_left(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was published goes out over the next connection."""
    monkeypatch.setattr(wire, "WRITE_SECONDS", 0.5)
    async with open_broker() as broker, rigged(redis, broker.url) as rig:
        await rig.up()
        (peer,) = broker.peers
        peer.reads = False
        await rig.post(*["x" * 60_000 for _ in range(150)])
        await eventually(lambda: rig.state.made == 2)
        await rig.settled()


async def test_a_broker_that_confirms_nothing_is_a_problem(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it confirms."""
    monkeypatch.setattr(publisher, "CONFIRM_SECONDS", 0.1)
    async with open_broker() as broker, rigged(redis, broker.url) as rig:
        await rig.up()
        published: list[tuple[Peer, int]] = []
        broker.on_publish = lambda peer, channel, *_: published.append((peer, channel))
        await rig.post("a", "b")
        await eventually(lambda: "has not confirmed any of 2 messages" in rig.state.problem)
        assert rig.state.state == "up"
        (peer, channel), _ = published
        peer.say(channel, Basic.Ack(2, multiple=True))
        await rig.settled()
        assert not rig.state.problem


@pytest.mark.slow
async def test_a_silent_broker_is_noticed(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripted broker sends no heartbeats."""
    monkeypatch.setattr(wire, "HEARTBEAT", 1)
    async with open_broker() as broker, rigged(redis, broker.url) as rig:
        await eventually(lambda: rig.state.made >= 2)


async def test_an_orderly_stop_says_goodbye(redis: Redis) -> None:
    """The broker has every acknowledgement, so that nothing comes again."""
    async with open_broker() as broker:
        async with rigged(redis, broker.url) as rig:
            async with open_transport(broker.url) as transport:
                for n in range(50):
                    transport.send(user_message(f"+{n}", str(n)))
                await transport.has(50)
            await rig.settled()
        with trio.fail_after(60):
            while broker.peers:
                await trio.sleep(0.01)
        assert not any(broker.queues.values())
        assert broker.goodbyes == 2  # the transport's, too
