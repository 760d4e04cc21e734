"""What works on the store in the background: an error ends one attempt, nothing that can be kept is
lost, and what is lost is counted.
"""

from __future__ import annotations

import socket
import struct
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from attrs import define, evolve, field

from resources import fence, forever
from resources.stores import graphite as module
from resources.stores import logbook as logbook_module
from resources.stores.graphite import Graphite, Target, open_graphite
from resources.stores.identity import SECRET, Sender, open_message_ids
from resources.stores.logbook import Logbook
from resources.stores.recordings import Exchange, Recording, Recordings, decode
from resources.stores.redis import Redis, StoreError, open_redis
from resources.stores.statistics import Statistics
from supervisor import conversation_metrics as reporting
from supervisor.config.model import App, Metrics
from supervisor.config.units import Address
from supervisor.conversation_metrics import ConversationReporter

from ..service import eventually
from ..store_faults import REFUSALS, cut, garbage, refuse
from ..store_proxy import StoreProxy


@define
class Carbon:
    """A TCP server that keeps lines, or reads nothing and resets the connection."""

    port: int = 0
    reads: bool = True
    lines: list[str] = field(factory=list)
    streams: list[trio.SocketStream] = field(factory=list)

    async def serve(self, stream: trio.SocketStream) -> None:
        self.streams.append(stream)
        rest = b""
        if not self.reads:
            await trio.sleep_forever()
        try:
            async for data in stream:
                *lines, rest = (rest + data).split(b"\n")
                self.lines += [line[:100].decode() for line in lines]
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


@asynccontextmanager
async def carbon() -> AsyncIterator[Carbon]:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        found = Carbon(listeners[0].socket.getsockname()[1])
        nursery.start_soon(trio.serve_listeners, found.serve, listeners)
        yield found
        nursery.cancel_scope.cancel()


def _fill(graphite: Graphite, port: int, count: int, text: str = "") -> None:
    """Lines of a bucket that is over."""
    sender = graphite._sender(Target("127.0.0.1", port, 1))
    sender.put([f"p.m{n}{text}.sum 1 1\n" for n in range(count)])


async def test_the_batch_of_a_broken_connection_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that reads nothing and then resets the connection in the middle of a batch has all
    of it from the next one.
    """
    monkeypatch.setattr(module, "BACKOFF", (0.01, 0.1))
    async with carbon() as server, open_graphite() as graphite:
        server.reads = False
        _fill(graphite, server.port, 1000, "x" * 20_000)  # more than any buffer between us takes
        await eventually(lambda: server.streams)
        await eventually(lambda: next(iter(graphite._senders.values())).sending)
        server.reads = True
        server.streams[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await server.streams[0].aclose()
        await eventually(lambda: len(set(server.lines)) == 1000, 20)
        assert graphite.dropped == 0


async def test_a_connection_that_was_closed_meanwhile_loses_no_bucket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by a Graphite that was restarted between two buckets: it is noticed before anything is
    sent.
    """
    monkeypatch.setattr(module, "BACKOFF", (0.01, 0.1))
    async with carbon() as server, open_graphite() as graphite:
        for n in range(3):
            _fill(graphite, server.port, 5, f".round{n}")
            await eventually(lambda n=n: len(server.lines) == 5 * (n + 1))
            await server.streams[-1].aclose()
            sender = next(iter(graphite._senders.values()))
            assert not sender.lines
        assert len(set(server.lines)) == 15
        assert len(server.streams) == 3


async def test_dropped_lines_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go when too many wait."""
    monkeypatch.setattr(module, "LINES_MAX", 100)
    monkeypatch.setattr(module, "LAST_SECONDS", 0.05)
    async with open_graphite() as graphite:
        _fill(graphite, 1, 130)
        assert (graphite.dropped, graphite.waiting) == (30, 100)


async def test_a_graphite_with_no_possible_name_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An error nobody expected in one sender: it is counted, tried again, and the others go on."""
    monkeypatch.setattr(module, "BACKOFF", (0.01, 0.05))
    monkeypatch.setattr(module, "LAST_SECONDS", 0.05)
    before = fence.tally["graphite"]
    async with carbon() as server, open_graphite() as graphite:
        graphite._sender(Target("a" * 100 + ".example", 2003, 1)).put(["p.m.sum 1 1\n"])
        await eventually(lambda: fence.tally["graphite"] >= before + 2)
        graphite.fire(Target("127.0.0.1", server.port, 0.1), "acct", "p.half\ud83d", "sum", 1)
        await eventually(lambda: len(server.lines) == 1)


def _app(port: int) -> App:
    metrics = evolve(Metrics(), graphite=Address("127.0.0.1", port), bucket=3600)
    return App(name="app", account="acct", javascript=Path("app.js"), metrics=metrics)


@pytest.mark.parametrize("fault", ["OOM", "LOADING", "NOPERM", "cut", "garbage", "away"])
async def test_conversations_are_reported_when_the_store_is_well_again(
    proxy: StoreProxy, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the store does, the bucket is reported as soon as it answers."""
    monkeypatch.setattr(reporting, "TICK", 0.02)
    monkeypatch.setattr("resources.stores.redis.PATIENCE", 0.1)
    acts = {"cut": cut(), "garbage": garbage()}
    async with (
        carbon() as server,
        open_redis(proxy.url) as redis,
        open_graphite() as graphite,
        trio.open_nursery() as n,
    ):
        statistics = Statistics(redis)
        statistics.count_outbound(
            Sender("acct", "app"), {"to_addr": "+1", "timestamp": "2014-01-01 00:00:00"}
        )
        await redis.flush()
        await redis.execute("PING")
        if fault == "away":
            proxy.stop()
        else:
            proxy.fault(acts[fault] if fault in acts else refuse(fault), "HMGET", "PFCOUNT")
        reporter = ConversationReporter(lambda: {"app": _app(server.port)}, statistics, graphite)
        n.start_soon(reporter.run)
        await eventually(lambda: reporter._is_away)
        assert not graphite._buckets
        proxy.cure()
        await eventually(lambda: graphite._buckets)
        await trio.testing.wait_all_tasks_blocked(0.01)
        graphite.flush(float("inf"))
        await eventually(lambda: len(server.lines) == 4)
        assert any(
            line.startswith("go.campaigns.acct.conversations.app.messages_sent.avg 1")
            for line in server.lines
        )
        n.cancel_scope.cancel()


async def test_one_conversation_that_cannot_be_told_hides_no_other(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key of another type, an app that cannot be named: the others of the same exchange are
    reported.
    """
    monkeypatch.setattr(reporting, "TICK", 0.01)
    monkeypatch.setattr(module, "LAST_SECONDS", 0.05)
    await redis.execute("SET", "jsbox:{acct}:stats:bad", "no hash")
    looks: list[int] = []

    def apps() -> dict[str, App]:
        looks.append(1)
        if len(looks) == 2:
            raise RuntimeError("a config that fails")
        return {"bad": evolve(_app(1), name="bad"), "app": _app(1)}

    async with open_graphite() as graphite, trio.open_nursery() as nursery:
        reporter = ConversationReporter(apps, Statistics(redis), graphite)
        nursery.start_soon(forever.keep_running, "conversation metrics", reporter.run)
        await eventually(lambda: len(looks) > 5)
        (bucket,) = graphite._buckets.values()
        assert len(bucket.values) == 4
        assert not any("bad" in path for path, _ in bucket.values)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "message",
    [
        {"to_addr": "\ud83d", "timestamp": "2014-01-01 00:00:00"},
        {"to_addr": "+1", "timestamp": "yesterday"}, {},
        {"to_addr": None, "timestamp": "2014-01-01 00:00:00"}, {"to_addr": 5, "timestamp": None},
    ],
)  # fmt: skip
async def test_counting_never_fails_what_was_sent(redis: Redis, message: dict[str, object]) -> None:
    """A message that was posted is not failed by its statistics."""
    Statistics(redis).count_outbound(Sender("acct", "app"), message)
    assert await redis.execute("PING") == b"PONG"


@pytest.mark.parametrize("code", [*REFUSALS])
async def test_a_log_that_cannot_be_kept_is_an_error_of_its_writer(
    proxy: StoreProxy, code: str
) -> None:
    """Typed for who waits, logged for who does not; followers have the line either way."""
    async with open_redis(proxy.url) as redis:
        logbook = Logbook(redis)
        await logbook.write("acct", "app", 20, "first", 10)
        with logbook.follow("acct", "app") as follower:
            with proxy.fault(refuse(code), "LPUSH", "LTRIM"):
                with pytest.raises(StoreError):
                    await logbook.write("acct", "app", 20, "second", 10)
                # not while it reconnects
                is_taken = logbook.write_soon("acct", "app", 20, "third", 10)
                await redis.flush()
            expected = ["second", "third"] if is_taken else ["second"]
            with trio.fail_after(60):
                async with aclosing(aiter(follower)) as entries:
                    assert [(await anext(entries)).message for _ in expected] == expected
        with trio.fail_after(60):
            while True:
                try:
                    await logbook.write("acct", "app", 20, "last", 10)
                    break
                except StoreError:
                    await trio.sleep(0.02)
        (newest,) = await logbook.newest("acct", "app", 1)
        assert newest.message == "last"


async def test_a_log_takes_any_text_and_shows_what_is_there(redis: Redis) -> None:
    """Half of a surrogate pair becomes U+FFFD; an entry that somebody else left there is shown as
    such.
    """
    logbook = Logbook(redis)
    await logbook.write("acct", "app", 20, "half \ud83d!", 10)
    await redis.execute("LPUSH", "jsbox:{acct}:log:app", b"\xff\xfe not ours", b"[1]", b"")
    found = [entry.message for entry in await logbook.newest("acct", "app", 10)]
    assert found[-1] == "half \ufffd!"
    assert all("cannot be read" in message for message in found[:3])


async def test_what_waits_for_a_slow_follower_is_bounded_in_bytes(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It learns how many it missed."""
    monkeypatch.setattr(logbook_module, "FOLLOWER_SIZE", 50_000)
    logbook = Logbook(redis)
    with logbook.follow("acct", "app") as follower:
        for _ in range(10):
            await logbook.write("acct", "app", 20, "x" * 10_000, 10)
        async with aclosing(aiter(follower)) as entries:
            found = [await anext(entries) for _ in range(6)]
            assert found[-1].level == "MISSED"
            await logbook.write("acct", "app", 20, "after", 10)
            assert (await anext(entries)).message == "after"


def _recording(**fields: object) -> Recording:
    whole = Recording("acct", "app", "phone", "message", "m1", {}, 0.0, "ok", "", "", [])
    return Recording(
        **{name: fields.get(name, getattr(whole, name)) for name in whole.__struct_fields__}
    )


@pytest.mark.parametrize(
    "fields",
    [{"payload": {"content": "\ud83d"}}, {"payload": {"n": 10**5000}}, {"id": "\ud83d"},
        {"payload": {"o": object()}},
     {"exchanges": [Exchange("x", 0.0, {"deep": object()})]}, {"began": float("nan")}],
)  # fmt: skip
async def test_a_recording_that_cannot_be_kept_ends_nothing(
    redis: Redis, fields: dict[str, object]
) -> None:
    """It is logged; the run that it was made of, and the store, go on."""
    recordings = Recordings(redis)
    recordings.keep_soon(_recording(**fields), 2, 60)
    recordings.keep_soon(_recording(id="fine"), 2, 60)
    found = await recordings.find([("acct", "app")], "fine")
    assert found is not None
    assert decode(found).id == "fine"


async def test_a_recording_that_is_none_is_not_found(redis: Redis) -> None:
    """Neither what is not packed, nor what is cut, nor what would be endless."""
    recordings = Recordings(redis)
    packed = zlib.compress(b"x" * (10 << 20))
    for text in (b"not packed", zlib.compress(b"{}")[:-3], packed):
        await redis.execute("SET", "jsbox:{acct}:recording:app:m1", text)
        began = time.thread_time()
        assert await recordings.find([("acct", "app")], "m1") is None
        assert time.thread_time() - began < 1


@pytest.mark.parametrize("code", ["READONLY", "OOM", "MISCONF", "NOREPLICAS", "NOPERM"])
async def test_a_store_that_takes_no_writes_will_do_for_a_start(
    proxy: StoreProxy, code: str
) -> None:
    """The secret of the ids is only written at the first one."""
    async with open_redis(proxy.url) as redis:
        with proxy.fault(refuse(code)):
            with pytest.raises(StoreError):
                await open_message_ids(redis)
        ids = await open_message_ids(redis)
        with proxy.fault(refuse(code)):
            again = await open_message_ids(redis)
    sender = Sender("acct", "app")
    assert again.is_from(ids.new("phone", sender), "phone", sender)


@pytest.mark.parametrize(
    "command", [("SET", SECRET, ""), ("SET", SECRET, "x" * 100), ("LPUSH", SECRET, "x")]
)
async def test_what_is_no_secret_is_not_used(redis: Redis, command: tuple[str, ...]) -> None:
    """An id that anybody could make up is worse than no start."""
    await redis.execute(*command)
    with pytest.raises(StoreError):
        await open_message_ids(redis)
