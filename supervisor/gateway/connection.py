"""One gateway client, from its hello to its close.

The reader turns frames into offers to the intake, the writer sends what was queued. When one of
these tasks ends, so do the others. A client's mistake ends as a close code, or as the rejection of
one message.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio
from attrs import define, field

from ..config.model import Channel
from ..observe import ClientStalled, InboundAnswered
from . import frames
from .intake import RETRY_AFTER, Accepted, Answer, Intake, Offer, Rejected, Services
from .outlet import Outlet
from .socket import STUFFED, Closed, ServerSocket, TooBig, Violation

# For one write; a slower client is closed, and what it had not acknowledged goes elsewhere.
WRITE_SECONDS = 5.0
PING_SECONDS = 20.0  # between two pings
PONG_SECONDS = 20.0  # after a ping; a client that has sent nothing by then counts as gone
QUEUED_MAX = 4 << 20  # bytes of frames queued to a client; one that lags further behind is closed

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


@define(eq=False)
class Connection:
    """A connected client of one channel."""

    name: str
    _socket: ServerSocket
    _services: Services
    channel: Channel
    window: int
    outcomes: bool
    only_own: bool
    repeats: bool = field(default=True, init=False)
    _credit: int = field(init=False)  # inbound messages that the client may still send
    _returned: int = field(default=0, init=False)  # credit of runs that ended, not granted yet
    _overspent: int = field(default=0, init=False)  # messages in a row that came without credit
    _intake: Intake = field(init=False)
    _outlet: Outlet = field(init=False)
    _is_over: bool = field(default=False, init=False)
    _refusal: Refusal | None = field(default=None, init=False)
    _scope: trio.CancelScope = field(factory=trio.CancelScope, init=False)

    def __attrs_post_init__(self) -> None:
        self._credit = self._services.settings.credit
        self._outlet = self._services.outlet(self.channel.name)
        self._intake = Intake(self.channel, self._services, self)

    @property
    def is_free(self) -> bool:
        """Whether the client reads what it gets; if not, it gets no more parcels."""
        return self._socket.queued <= STUFFED

    def deliver(self, delivery: int, attempt: int, message: bytes) -> None:
        """Queue a parcel to the client; never waits."""
        self.push(frames.outbound(delivery, attempt, message))

    def push(self, frame: bytes) -> None:
        """Queue a frame to the client; never waits."""
        if self._is_over:
            return
        if self._socket.queued > QUEUED_MAX:
            detail = f"the client leaves {self._socket.queued} bytes unread"
            self._services.observe(ClientStalled(self.channel.name))
            self.close(Refusal(frames.CODE_OVERLOAD, "slow", detail))
            return
        self._socket.push(frame)

    def close(self, refusal: Refusal) -> None:
        """End the connection. If called several times, the first reason counts."""
        if self._refusal is None:
            self._refusal = refusal
        self._scope.cancel()

    async def serve(self) -> None:
        """Serve the client until either side ends the connection.

        Raises:
            Refusal: It is to be closed with a code.
        """
        settings = self._services.settings
        self.push(frames.welcome(self.name, settings.credit, settings.max_frame))
        self._outlet.attach(self)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for task in (self._read, self._intake.run, self._write, self._ping):
                        nursery.start_soon(_until_the_first_ends, task, nursery)
        finally:
            # Runs may go on after this. What they still push is dropped, not kept for nobody.
            self._is_over = True
            self._outlet.detach(self)
        if self._refusal is not None:
            raise self._refusal

    async def _read(self) -> None:
        most = self._services.settings.max_frame
        while True:
            try:
                data = await self._socket.receive(most)
                self._act(frames.decode(data), len(data))
            except Closed:
                return
            except TooBig:
                detail = f"expected a frame of at most {most} bytes"
                self.close(Refusal(frames.CODE_FRAME, "frame_too_big", detail))
                return
            except Violation as bad:
                self.close(Refusal(bad.code, "protocol", str(bad)))
                return
            except frames.BadFrame as bad:
                self.close(Refusal(frames.CODE_PROTOCOL, "protocol", str(bad)))
                return
            await self._intake.room()

    def _act(self, frame: frames.ClientFrame | frames.Malformed, size: int) -> None:
        match frame:
            case frames.Ack(delivery):
                self._outlet.acknowledge(delivery, self)
            case frames.Inbound() | frames.Event() | frames.Malformed():
                self._inbound(frame, size)
            case frames.Hello():
                raise frames.BadFrame("expected one hello, got another")

    def _inbound(self, frame: frames.Inbound | frames.Event | frames.Malformed, size: int) -> None:
        if self._credit == 0:
            self._overspent += 1
            if self._overspent > self._services.settings.credit:
                detail = f"{self._overspent} messages were sent without credit"
                self.close(Refusal(frames.CODE_RATE, "rate", detail))
            detail = "no credit is left; wait for more"
            self._reject(frame.id, Rejected("overloaded", detail, retry_after=RETRY_AFTER))
            return
        self._credit -= 1
        self._overspent = 0
        if isinstance(frame, frames.Malformed):
            self._reject(frame.id, Rejected("bad_message", frame.detail, frame.path))
            self._release()
            return

        def answer(found: Answer) -> None:
            self._answer(frame.id, found)

        if isinstance(frame, frames.Event):
            offer = Offer("event", frame.event, size, answer, self._release)
        else:
            offer = Offer("message", frame.msg, size, answer, self._release, frame.endpoint)
        self._intake.offer(offer)

    def _answer(self, frame_id: str, answer: Answer) -> None:
        match answer:
            case Accepted(kind, message_id, duplicate):
                self.push(frames.accepted(frame_id, kind, message_id, duplicate=duplicate))
            case Rejected(code, detail, path, retry_after):
                self.push(frames.rejected(frame_id, code, detail, path, retry_after))

    def _reject(self, frame_id: str, rejected: Rejected) -> None:
        """Answer what the intake does not see."""
        self._services.observe(InboundAnswered(self.channel.name, rejected.code))
        self._answer(frame_id, rejected)

    def _release(self) -> None:
        """One message less is in progress. Grant its credit again, in steps of half the whole."""
        self._returned += 1
        if self._returned >= max(self._services.settings.credit // 2, 1):
            self._credit += self._returned
            self.push(frames.credit(self._returned))
            self._returned = 0

    async def _write(self) -> None:
        while True:
            await self._socket.wait_queued()
            if self._socket.write_now():
                continue
            was_free = self.is_free
            try:
                with trio.fail_after(WRITE_SECONDS):
                    await self._socket.write()
            except Closed:
                return
            except trio.TooSlowError:
                self._services.observe(ClientStalled(self.channel.name))
                detail = f"a frame could not be written in {WRITE_SECONDS:g} s"
                self.close(Refusal(frames.CODE_OVERLOAD, "slow", detail))
                return
            if self.is_free and not was_free:
                self._outlet.wake()

    async def _ping(self) -> None:
        """Close the connection when the client is gone without having closed it."""
        while True:
            await trio.sleep(PING_SECONDS)
            asked = trio.current_time()
            self._socket.ping()
            await trio.sleep(PONG_SECONDS)
            since = self._socket.silent_since
            # Not "silent for PONG_SECONDS": a good answer to the ping is nearly that old, and we
            # may be woken late.
            if since is not None and since <= asked:
                detail = f"no answer to a ping in {PONG_SECONDS:g} s"
                self.close(Refusal(frames.CODE_OVERLOAD, "slow", detail))


async def _until_the_first_ends(task: Callable[[], Awaitable[None]], nursery: trio.Nursery) -> None:
    await task()
    nursery.cancel_scope.cancel()
