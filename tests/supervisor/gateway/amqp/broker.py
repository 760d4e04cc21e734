"""A broker in the test's own Trio: the part of RabbitMQ that channels use, which can also be told
to misbehave. Its frames are pika's.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pika.frame
import pika.spec
import trio
from attrs import define, field
from pika.spec import Basic, BasicProperties, Confirm, Connection, Exchange, Queue
from pika.spec import Channel as ChannelMethods

Body = tuple[bytes, bool]
"""A message, and whether it was delivered before."""


@define(eq=False)
class Consumer:
    peer: Peer
    channel: int
    tag: str
    prefetch: int
    no_ack: bool
    unacked: int = 0


@define(eq=False)
class Broker:
    """It keeps its queues when its clients are gone, and when it is down."""

    queues: dict[str, deque[Body]] = field(factory=dict)
    declared: list[tuple[Any, ...]] = field(factory=list)  # as declared, in order
    refused: list[bytes] = field(factory=list)  # refused without requeue
    requeued: int = 0
    goodbyes: int = 0
    mandatory: set[bool] = field(factory=set)  # of what was published to queues out
    published: list[tuple[BasicProperties, bytes]] = field(factory=list)
    on_publish: Callable[[Peer, int, str, int], None] | None = None
    """Called instead of confirming: with the publisher, its channel, the queue, and the number."""
    password: bytes = b"guest"
    other_arguments: set[str] = field(factory=set)
    """Queues that exist with arguments."""
    accepts: bool = True
    frame_max: int = 131_072
    port: int = 0
    peers: set[Peer] = field(factory=set)
    consumers: dict[str, list[Consumer]] = field(factory=dict)

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2f"

    def cut(self) -> None:
        """Cut all connections."""
        for peer in list(self.peers):
            peer.scope.cancel()

    def block(self, reason: str | None) -> None:
        """Tell all clients that it takes no messages; None: that it does again."""
        for peer in list(self.peers):
            peer.say(0, Connection.Unblocked() if reason is None else Connection.Blocked(reason))

    def put(self, queue: str, body: bytes, *, again: bool = False, first: bool = False) -> None:
        line = self.queues[queue]
        (line.appendleft if first else line.append)((body, again))
        self.deliver(queue)

    def deliver(self, queue: str) -> None:
        for consumer in self.consumers.get(queue, ()):
            while self.queues[queue] and consumer.unacked < consumer.prefetch:
                body, again = self.queues[queue].popleft()
                consumer.peer.give(consumer, queue, body, again)

    async def serve(self, stream: trio.abc.Stream) -> None:
        if not self.accepts:
            await stream.aclose()
            return
        peer = Peer(self, stream)
        self.peers.add(peer)
        with peer.scope:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(peer.write)
                    await peer.read()
                    nursery.cancel_scope.cancel()
            except* (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        self.peers.discard(peer)
        await trio.aclose_forcefully(stream)
        peer.gone()


@define(eq=False)
class Peer:
    """A client's connection."""

    broker: Broker
    stream: trio.abc.Stream
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    reads: bool = True
    _buffer: bytes = b""
    _out: Any = field(factory=lambda: trio.open_memory_channel[bytes](10_000))
    _unacked: dict[int, tuple[Consumer, str, bytes]] = field(factory=dict)
    _tags: int = 0
    _numbers: int = 0
    _prefetch: int = 65_535
    _content: list[Any] = field(factory=list)

    def say(self, channel: int, *methods: Any) -> None:
        data = b"".join(pika.frame.Method(channel, one).marshal() for one in methods)
        self.raw(data)

    def raw(self, data: bytes) -> None:
        self._out[0].send_nowait(data)

    def content(self, channel: int, method: Any, body: bytes) -> None:
        self.raw(
            pika.frame.Method(channel, method).marshal()
            + pika.frame.Header(channel, len(body), BasicProperties()).marshal()
            + b"".join(
                pika.frame.Body(channel, body[at : at + 100_000]).marshal()
                for at in range(0, len(body), 100_000)
            )
        )

    def give(self, consumer: Consumer, queue: str, body: bytes, again: bool) -> None:
        self._tags += 1
        if not consumer.no_ack:
            consumer.unacked += 1
            self._unacked[self._tags] = (consumer, queue, body)
        method = Basic.Deliver(consumer.tag, self._tags, again, "vumi", queue)
        self.content(consumer.channel, method, body)

    def gone(self) -> None:
        for consumers in self.broker.consumers.values():
            consumers[:] = [one for one in consumers if one.peer is not self]
        for _, queue, body in reversed(self._unacked.values()):
            self.broker.put(queue, body, again=True, first=True)

    async def write(self) -> None:
        async for data in self._out[1]:
            await self.stream.send_all(data)

    async def read(self) -> None:
        self._buffer = b""
        while data := await self.stream.receive_some():
            self._buffer += data
            if self._buffer[:4] == b"AMQP" and len(self._buffer) >= 8:
                self._buffer = self._buffer[8:]
                start = Connection.Start(
                    server_properties={
                        "capabilities": {
                            "publisher_confirms": True,
                            "basic.nack": True,
                            "connection.blocked": True,
                            "consumer_cancel_notify": True,
                        }
                    },
                    mechanisms="PLAIN",
                )
                self.say(0, start)
            while True:
                size, frame = pika.frame.decode_frame(self._buffer)
                if frame is None:
                    break
                self._buffer = self._buffer[size:]
                if not self._act(frame):
                    return
            while not self.reads:
                await trio.sleep(0.01)

    def _act(self, frame: Any) -> bool:
        """Act on a frame; return False to close the connection."""
        channel = frame.channel_number
        if isinstance(frame, pika.frame.Header):
            self._content += [frame.properties, frame.body_size, b""]
        elif isinstance(frame, pika.frame.Body):
            self._content[3] += frame.fragment
            self._published(channel)
        elif isinstance(frame, pika.frame.Method):
            one = frame.method
            if isinstance(one, Connection.StartOk):
                if not one.response.endswith(b"\0" + self.broker.password):
                    return False
                self.say(0, Connection.Tune(2047, self.broker.frame_max, 60))
            elif isinstance(one, Basic.Consume):
                self._consume(channel, one)
            elif isinstance(one, Basic.Publish):
                self._content = [one]
            elif isinstance(one, Basic.Ack | Basic.Nack):
                self._acknowledged(one)
            else:
                answer = ANSWERS[type(one)](self, one)
                if answer is not None:
                    self.say(channel, answer)
        return True

    def goodbye(self, _: Connection.Close) -> Any:
        self.broker.goodbyes += 1
        return Connection.CloseOk()

    def exchange(self, one: Exchange.Declare) -> Any:
        self.broker.declared.append((one.exchange, one.type, one.durable, one.arguments))
        return Exchange.DeclareOk()

    def queue(self, one: Queue.Declare) -> Any:
        if not one.passive:
            self.broker.declared.append((one.queue, one.durable, one.arguments))
        if one.queue in self.broker.other_arguments:
            return ChannelMethods.Close(406, "PRECONDITION_FAILED - inequivalent arg", 50, 10)
        line = self.broker.queues.setdefault(one.queue, deque())
        return Queue.DeclareOk(one.queue, len(line), len(self.broker.consumers.get(one.queue, ())))

    def bind(self, one: Queue.Bind) -> Any:
        self.broker.declared.append((one.queue, one.exchange, one.routing_key))
        return Queue.BindOk()

    def qos(self, one: Basic.Qos) -> Any:
        self._prefetch = one.prefetch_count
        return Basic.QosOk()

    def _consume(self, channel: int, one: Basic.Consume) -> None:
        found = Consumer(self, channel, one.consumer_tag, self._prefetch, one.no_ack)
        self.broker.consumers.setdefault(one.queue, []).append(found)
        self.say(channel, Basic.ConsumeOk(one.consumer_tag))
        self.broker.deliver(one.queue)

    def _acknowledged(self, one: Basic.Ack | Basic.Nack) -> None:
        tags = [one.delivery_tag]
        if one.multiple:
            tags = [tag for tag in self._unacked if tag <= one.delivery_tag]
        for tag in tags:
            _, queue, body = self._settle(tag)
            if isinstance(one, Basic.Ack):
                continue
            if one.requeue:
                self.broker.requeued += 1
                self.broker.put(queue, body, again=True, first=True)
            else:
                self.broker.refused.append(body)

    def _settle(self, tag: int) -> tuple[Consumer, str, bytes]:
        consumer, queue, body = self._unacked.pop(tag)
        consumer.unacked -= 1
        self.broker.deliver(queue)
        return consumer, queue, body

    def _published(self, channel: int) -> None:
        method, properties, size, body = self._content
        if len(body) < size:
            return
        self._numbers += 1
        queue, broker = method.routing_key, self.broker
        broker.published.append((properties, body))
        if queue.endswith(".outbound"):
            broker.mandatory.add(method.mandatory)
        if broker.on_publish is not None and queue.endswith(".outbound"):
            broker.on_publish(self, channel, queue, self._numbers)
            return
        if queue in broker.queues:
            broker.put(queue, body)
        elif method.mandatory:
            self.content(channel, Basic.Return(312, "NO_ROUTE", "vumi", queue), body)
        self.say(channel, Basic.Ack(self._numbers))


ANSWERS: dict[type, Callable[[Peer, Any], Any]] = {
    Connection.Open: lambda *_: Connection.OpenOk(),
    Connection.TuneOk: lambda *_: None,
    Connection.Close: Peer.goodbye,
    Connection.CloseOk: lambda *_: None,
    ChannelMethods.Open: lambda *_: ChannelMethods.OpenOk(),
    ChannelMethods.CloseOk: lambda *_: None,
    ChannelMethods.Close: lambda *_: ChannelMethods.CloseOk(),
    Exchange.Declare: Peer.exchange,
    Queue.Declare: Peer.queue,
    Queue.Bind: Peer.bind,
    Confirm.Select: lambda *_: Confirm.SelectOk(),
    Basic.Qos: Peer.qos,
    Basic.Cancel: lambda _, one: Basic.CancelOk(one.consumer_tag),
}


@asynccontextmanager
async def open_broker(tls: ssl.SSLContext | None = None) -> AsyncIterator[Broker]:
    broker = Broker()

    async def serve(stream: trio.SocketStream) -> None:
        await broker.serve(stream if tls is None else trio.SSLStream(stream, tls, server_side=True))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        broker.port = listeners[0].socket.getsockname()[1]
        yield broker
        nursery.cancel_scope.cancel()
