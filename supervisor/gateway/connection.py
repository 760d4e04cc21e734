"""One gateway client, from its hello to its close.

Three tasks: the reader turns frames into work, the intake writes what came in to the journal (all that waits, in one step and in
order) and hands it to the dispatcher, the writer sends what was queued. What the client does wrong ends as a close code; it
never reaches the listener, and never another connection.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import trio
from attrs import define, field, frozen
from trio_websocket import ConnectionClosed, WebSocketConnection

from resources.messages import BadMessage, Payload, complete_event, complete_message
from resources.stores.identity import MessageIds, Sender
from resources.stores.journal import Accepted, Entry, Journal
from resources.stores.redis import StoreError

from ..config.model import Channel
from ..config.model import Gateway as GatewaySettings
from ..corked import Corked
from ..dispatcher import Dispatcher, Program
from ..observe import Observer
from . import frames
from .delivery import Outlet

HELLO_SECONDS = 5.0
WRITE_SECONDS = (
    5.0  # for one frame; a client that takes longer is closed, and what it had not acknowledged goes elsewhere
)
WRITE_SIZE = 32 << 10  # bytes of frames that are written together
PING_SECONDS = 20.0
PONG_SECONDS = 20.0
QUEUED_MAX = 4096  # frames queued to a client before its own are read again
RETRY_AFTER = 1.0  # seconds, told to a client that should try again
RETRY_TRIPPED = 60  # seconds until a tripped app may be tried again
ENDPOINT_MAX = 200

log = logging.getLogger(__name__)


class Refusal(Exception):
    """The connection is to be closed.

    Attributes:
        code: Close code.
        name: For the error frame.
    """

    def __init__(self, code: int, name: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.name = name


@frozen
class Services:
    """What a connection works with."""

    settings: GatewaySettings
    channels: Callable[[], Mapping[str, Channel]]  # as they are now
    outlet: Callable[[str], Outlet]
    journal: Journal
    ids: MessageIds
    dispatcher: Dispatcher
    observer: Observer
    is_draining: Callable[[], bool]


@frozen
class _Work:
    """A frame that asks for something to be journalled."""

    frame_id: str
    entry: Entry


@define(eq=False)
class Connection:
    """A client of one channel."""

    name: str
    _socket: WebSocketConnection
    _stream: Corked
    _services: Services
    channel: Channel
    window: int
    outcomes: bool
    _credit: int = field(init=False)  # that the client has left
    _returned: int = field(default=0, init=False)  # of runs that ended, not yet granted again
    _overspent: int = field(default=0, init=False)
    _queue: deque[bytes] = field(factory=deque, init=False)
    _queued: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _sent: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _work: deque[_Work] = field(factory=deque, init=False)
    _worked: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _refusal: Refusal | None = field(default=None, init=False)
    _scope: trio.CancelScope = field(factory=trio.CancelScope, init=False)

    def __attrs_post_init__(self) -> None:
        self._credit = self._services.settings.credit

    def push(self, frame: bytes) -> None:
        """Queue a frame to the client; never waits."""
        self._queue.append(frame)
        self._queued.unpark()

    def close(self, refusal: Refusal) -> None:
        """End the connection for this reason (the first one given)."""
        if self._refusal is None:
            self._refusal = refusal
        self._scope.cancel()

    async def serve(self) -> None:
        """Until either side has had enough. Raises Refusal when it is to be closed with a code."""
        settings = self._services.settings
        self.push(frames.welcome(self.name, settings.credit, settings.max_frame))
        outlet = self._services.outlet(self.channel.name)
        outlet.attach(self)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._take_in)
                    nursery.start_soon(self._ping)
                    await self._read()
                    nursery.cancel_scope.cancel()
        finally:
            outlet.detach(self)
        if self._refusal is not None:
            raise self._refusal

    async def _read(self) -> None:
        while True:
            try:
                text = await self._socket.get_message()
            except ConnectionClosed:
                return
            size = len(text) if isinstance(text, bytes) or text.isascii() else len(text.encode())
            if size > self._services.settings.max_frame:
                detail = f"expected at most {self._services.settings.max_frame} bytes in a frame, got {size}"
                self.close(Refusal(frames.CODE_FRAME, "frame_too_big", detail))
                return
            try:
                self._act(frames.decode(text))
            except frames.BadFrame as bad:
                self.close(Refusal(frames.CODE_PROTOCOL, "protocol", str(bad)))
                return
            if len(self._queue) > QUEUED_MAX:
                await self._sent.park()

    def _act(self, frame: frames.ClientFrame) -> None:
        match frame:
            case frames.Ack(delivery):
                self._services.outlet(self.channel.name).acknowledge(delivery)
            case frames.Inbound() | frames.Event():
                self._inbound(frame)
            case frames.Hello():
                raise frames.BadFrame("expected one hello, got another")

    def _inbound(self, frame: frames.Inbound | frames.Event) -> None:
        if self._credit == 0:
            self._overspent += 1
            if self._overspent > self._services.settings.credit:
                detail = f"{self._overspent} messages were sent without credit"
                self.close(Refusal(frames.CODE_RATE, "rate", detail))
            self._reject(frame.id, "overloaded", "no credit is left; wait for more", retry_after=RETRY_AFTER)
            return
        self._credit -= 1
        self._overspent = 0
        try:
            entry = self._entry(frame)
        except BadMessage as bad:
            self._services.observer.inbound(self.channel.name, "bad_message")
            self.push(frames.rejected_message(frame.id, bad))
            self._release()
            return
        if entry is None:
            return
        self._work.append(_Work(frame.id, entry))
        self._worked.unpark()

    def _entry(self, frame: frames.Inbound | frames.Event) -> Entry | None:
        """What is to be journalled; None where it was rejected.

        Raises:
            BadMessage: It is none.
        """
        channel = self._services.channels().get(self.channel.name, self.channel)
        name, kind = channel.name, channel.transport_type
        own = self._services.dispatcher.programs.get(channel.app)
        if isinstance(frame, frames.Event):
            payload = complete_event(frame.event, transport_name=name, transport_type=kind)
            program, counted = self._program_of_event(payload, own)
        else:
            if not 0 < len(frame.endpoint) <= ENDPOINT_MAX:
                raise BadMessage("endpoint", f"expected 1 to {ENDPOINT_MAX} characters")
            payload = complete_message(frame.msg, transport_name=name, transport_type=kind, endpoint=frame.endpoint)
            program, counted = own, True
        if program is None:
            detail = f"channel {name} has no app" if not channel.app else f"app {channel.app} is not configured"
            self._reject(frame.id, "no_app", detail)
        elif self._services.is_draining():
            self._reject(frame.id, "draining", "the server is about to restart", retry_after=RETRY_AFTER)
        elif self._services.dispatcher.is_tripped(program.app.name):
            detail = f"app {program.app.name} is tripped: its processes kept ending by themselves; see its log, mend it, reload"
            self._reject(frame.id, "tripped", detail, retry_after=RETRY_TRIPPED)
        elif not self._services.dispatcher.has_room(program.app.name, len(self._work) + 1):
            detail = f"{program.app.pool.queue} messages wait for app {program.app.name} already (pool.queue)"
            self._reject(frame.id, "overloaded", detail, retry_after=RETRY_AFTER)
        else:
            app = program.app
            what: Literal["message", "event"] = "event" if isinstance(frame, frames.Event) else "message"
            return Entry(what, app.account, app.name, name, payload, counted)
        self._release()
        return None

    def _program_of_event(self, event: Payload, own: Program | None) -> tuple[Program | None, bool]:
        """The app that sent the message which an event is about, and True; else the channel's own app, and False."""
        name = self.channel.name
        candidates = [own] if own is not None else []
        for program in (*candidates, *self._services.dispatcher.that_send_over(name)):
            sender = Sender(program.app.account, program.app.name)
            if self._services.ids.is_from(event["user_message_id"], name, sender):
                return program, True
        return own, False

    def _reject(self, frame_id: str, code: str, detail: str, retry_after: float | None = None) -> None:
        self._services.observer.inbound(self.channel.name, code)
        self.push(frames.rejected(frame_id, code, detail, None, retry_after))

    async def _take_in(self) -> None:
        """Journal all that waits in one step, then answer and dispatch in the order in which it came."""
        while True:
            if not self._work:
                await self._worked.park()
            batch = list(self._work)
            # Once begun this is done whole, also for a client that leaves meanwhile: what stands in the journal must be run. It
            # takes no longer than the store's own patience.
            with trio.CancelScope(shield=True):
                await self._journal_all(batch)
            for _ in batch:
                self._work.popleft()

    async def _journal_all(self, batch: list[_Work]) -> None:
        try:
            answers = await self._services.journal.accept([work.entry for work in batch])
        except StoreError as error:
            for work in batch:
                self._reject(work.frame_id, "unavailable", str(error), retry_after=RETRY_AFTER)
                self._release()
            return
        for work, answer in zip(batch, answers, strict=True):
            self._accepted(work, answer)

    def _accepted(self, work: _Work, answer: Accepted) -> None:
        entry = work.entry
        self._services.observer.inbound(self.channel.name, "duplicate" if answer.duplicate else "accepted")
        self.push(frames.accepted(work.frame_id, entry.kind, entry.id, duplicate=answer.duplicate))
        if answer.duplicate:
            self._release()
            return
        if entry.kind == "message":
            self._services.outlet(self.channel.name).brought(entry.id, self)
        self._services.dispatcher.submit(entry, answer.place, self._release)

    def _release(self) -> None:
        """One message less in hand; credit is granted again in halves of the whole."""
        self._returned += 1
        if self._returned >= max(self._services.settings.credit // 2, 1):
            self._credit += self._returned
            self.push(frames.credit(self._returned))
            self._returned = 0

    async def _write(self) -> None:
        while True:
            if not self._queue:
                await self._queued.park()
            try:
                with trio.fail_after(WRITE_SECONDS):
                    await self._write_some()
            except ConnectionClosed:
                return  # the reader sees it too
            except trio.TooSlowError:
                detail = f"a frame could not be written in {WRITE_SECONDS:g} s"
                self._services.observer.stalled(self.channel.name)
                self.close(Refusal(frames.CODE_OVERLOAD, "slow", detail))
                return
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # so does it see this
            self._sent.unpark_all()

    async def _write_some(self) -> None:
        """All that waits, up to some size, in one write."""
        self._stream.cork()
        size = 0
        try:
            while self._queue and size < WRITE_SIZE:
                frame = self._queue.popleft()
                size += len(frame)
                await self._socket.send_message(frame.decode())
        finally:
            self._stream.uncork()
        await self._stream.send_all(b"")

    async def _ping(self) -> None:
        """Find out when the other side is gone without a word."""
        while True:
            await trio.sleep(PING_SECONDS)
            try:
                with trio.fail_after(PONG_SECONDS):
                    await self._socket.ping()
            except ConnectionClosed:
                return
            except trio.TooSlowError:
                self.close(Refusal(frames.CODE_OVERLOAD, "slow", f"no answer to a ping in {PONG_SECONDS:g} s"))
                return


async def greet(socket: WebSocketConnection, services: Services, name: str, stream: Corked, headers: Any) -> Connection:
    """Wait for the client's hello and check its rights.

    Raises:
        Refusal: It did not come, or was wrong.
        ConnectionClosed: It left.
    """
    hello = await _hello(socket, services.settings.max_frame)
    channel = services.channels().get(hello.channel)
    bearer = _bearer(headers) or hello.token
    if channel is None:
        raise Refusal(frames.CODE_CHANNEL, "channel", f"there is no channel {hello.channel!r}")
    if channel.tokens:
        _check_token(bearer, channel)
    else:
        _check_local(stream.remote, headers)
    if not 1 <= hello.window <= frames.WINDOW_MAX:
        detail = f"expected a window of 1 to {frames.WINDOW_MAX}, got {hello.window}"
        raise Refusal(frames.CODE_PROTOCOL, "protocol", detail)
    return Connection(name, socket, stream, services, channel, hello.window, hello.outcomes)


async def _hello(socket: WebSocketConnection, max_frame: int) -> frames.Hello:
    text: str | bytes | None = None
    with trio.move_on_after(HELLO_SECONDS):
        text = await socket.get_message()
    if text is None:
        raise Refusal(frames.CODE_NO_HELLO, "no_hello", f"no hello came in {HELLO_SECONDS:g} s")
    if len(text) > max_frame:
        raise Refusal(frames.CODE_FRAME, "frame_too_big", f"expected at most {max_frame} bytes in a frame")
    try:
        frame = frames.decode(text)
    except frames.BadFrame as bad:
        raise Refusal(frames.CODE_PROTOCOL, "protocol", str(bad)) from None
    if not isinstance(frame, frames.Hello):
        raise Refusal(frames.CODE_PROTOCOL, "protocol", "expected hello first")
    return frame


def _bearer(headers: Any) -> str | None:
    for key, value in headers:
        if key.lower() == b"authorization" and value.lower().startswith(b"bearer "):
            return str(value[7:].strip().decode("latin-1"))
    return None


def _check_token(token: str | None, channel: Channel) -> None:
    digest = hashlib.sha256((token or "").encode()).hexdigest()
    # Every token is compared, so that the time says nothing about which one fits.
    known = [hmac.compare_digest(digest, one) for one in channel.tokens]
    if not token or not any(known):
        reason = "a token is needed" if not token else "the token is not known"
        raise Refusal(frames.CODE_TOKEN, "token", f"channel {channel.name}: {reason}")


def _check_local(remote: str, headers: Any) -> None:
    """A channel without tokens is for programs on this host, and not for web pages that a browser on it shows."""
    if not ipaddress.ip_address(remote).is_loopback:
        raise Refusal(frames.CODE_TOKEN, "token", "this channel has no tokens, so only clients on the host may use it")
    origin = next((value.decode("latin-1") for key, value in headers if key.lower() == b"origin"), None)
    if origin is not None and urlsplit(origin).hostname not in ("localhost", "127.0.0.1", "::1"):
        raise Refusal(frames.CODE_TOKEN, "token", f"the web page {origin} may not use a channel without tokens")
