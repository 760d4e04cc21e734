"""One gateway client, from its hello to its close.

The reader turns frames into work. The intake writes that work to the journal (all that waits, in
one step and in order) and hands it to the dispatcher. The writer sends what was queued. When one of
these tasks ends, so do the others. A client's mistake ends as a close code, or as the rejection of
one message.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Literal

import trio
from attrs import define, field, frozen

from resources.fence import note
from resources.messages import BadMessage, Payload, complete_event, complete_message
from resources.stores.identity import MessageIds, Sender
from resources.stores.journal import Accepted, Entry, Journal
from resources.stores.redis import StoreError

from ..config.model import Channel
from ..config.model import Gateway as GatewaySettings
from ..observe import ClientStalled, InboundAnswered, Observer
from ..runs.dispatcher import Dispatcher
from ..runs.jobs import Program
from . import frames
from .outlet import Outlet
from .socket import STUFFED, Closed, ServerSocket, TooBig, Violation

# For one write; a slower client is closed, and what it had not acknowledged goes elsewhere.
WRITE_SECONDS = 5.0
PING_SECONDS = 20.0  # between two pings
PONG_SECONDS = 20.0  # a client that sends nothing for so long after a ping counts as gone
QUEUED_MAX = 4 << 20  # bytes of frames queued to a client; one that lags further behind is closed
WORK_MAX = 1 << 20  # bytes of messages that wait for the journal; beyond that reading pauses
HELD_MAX = 8 << 20  # bytes of messages in progress; more are rejected, whatever credit is left
JOURNAL_SECONDS = 20.0  # for the journal to answer: longer than the store's own timeout
RETRY_AFTER = 1.0  # seconds after which a client should try again
RETRY_TRIPPED = 60  # seconds after which a tripped or broken app may be tried again
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
    """What every connection works with."""

    settings: GatewaySettings
    channels: Callable[[], Mapping[str, Channel]]  # as they are now
    outlet: Callable[[str], Outlet]
    journal: Journal
    ids: MessageIds
    dispatcher: Dispatcher
    observe: Observer
    is_draining: Callable[[], bool]


@frozen
class _Work:
    """A message or event to be journalled. `size`: bytes of its frame."""

    frame_id: str
    entry: Entry
    size: int


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
    _credit: int = field(init=False)  # inbound messages that the client may still send
    _returned: int = field(default=0, init=False)  # credit of runs that ended, not granted yet
    _overspent: int = field(default=0, init=False)  # messages in a row that came without credit
    _held: int = field(default=0, init=False)  # bytes of messages in progress
    _work: deque[_Work] = field(factory=deque, init=False)
    _work_size: int = field(default=0, init=False)
    _worked: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _taken: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _outlet: Outlet = field(init=False)
    _is_over: bool = field(default=False, init=False)
    _refusal: Refusal | None = field(default=None, init=False)
    _scope: trio.CancelScope = field(factory=trio.CancelScope, init=False)

    def __attrs_post_init__(self) -> None:
        self._credit = self._services.settings.credit
        self._outlet = self._services.outlet(self.channel.name)

    @property
    def is_free(self) -> bool:
        """Whether the client reads what it gets; if not, it gets no more parcels."""
        return self._socket.queued <= STUFFED

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
                    for task in (self._read, self._take_in, self._write, self._ping):
                        nursery.start_soon(_until_the_first_ends, task, nursery)
        finally:
            # Runs may go on after this. What they still push is dropped, not kept for nobody.
            self._is_over = True
            self._work.clear()
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
            while self._work_size > WORK_MAX:
                await self._taken.park()

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
            self._reject(frame.id, "overloaded", "no credit is left; wait for more", RETRY_AFTER)
            return
        self._credit -= 1
        self._overspent = 0
        self._held += size
        try:
            entry = self._entry(frame)
        except BadMessage as bad:
            self._services.observe(InboundAnswered(self.channel.name, "bad_message"))
            self.push(frames.rejected_message(frame.id, bad))
            entry = None
        if entry is None:
            self._release(size)
            return
        self._work.append(_Work(frame.id, entry, size))
        self._work_size += size
        self._worked.unpark()

    def _entry(self, frame: frames.Inbound | frames.Event | frames.Malformed) -> Entry | None:
        """Make the journal entry of a message or event; None if it was rejected.

        Raises:
            BadMessage: The message or event is malformed.
        """
        channel = self._services.channels().get(self.channel.name, self.channel)
        name, kind = channel.name, channel.transport_type
        own = self._services.dispatcher.programs.get(channel.app)
        what: Literal["message", "event"] = "message"
        if isinstance(frame, frames.Malformed):
            raise BadMessage(frame.path, frame.detail)
        if isinstance(frame, frames.Event):
            what = "event"
            payload = complete_event(frame.event, transport_name=name, transport_type=kind)
            program, counted = self._program_of_event(payload, own)
        else:
            if not 0 < len(frame.endpoint) <= ENDPOINT_MAX:
                raise BadMessage("endpoint", f"expected 1 to {ENDPOINT_MAX} characters")
            payload = complete_message(
                frame.msg, transport_name=name, transport_type=kind, endpoint=frame.endpoint
            )
            program, counted = own, True
        if program is None:
            detail = f"app {channel.app} is not configured"
            if not channel.app:
                detail = f"channel {name} has no app"
            self._reject(frame.id, "no_app", detail)
            return None
        if not self._is_admitted(frame.id, program):
            return None
        return Entry(what, program.app.account, program.app.name, name, payload, counted)

    def _is_admitted(self, frame_id: str, program: Program) -> bool:
        """Reject it if the app cannot take one more message now; return whether it can."""
        app = program.app
        if self._services.is_draining():
            self._reject(frame_id, "draining", "the server is about to restart", RETRY_AFTER)
        elif program.broken:
            detail = (
                f"app {app.name} is broken: a file of it has an error, which /readyz names;"
                " fix it, then reload"
            )
            self._reject(frame_id, "broken", detail, RETRY_TRIPPED)
        elif self._services.dispatcher.is_tripped(app.name):
            detail = (
                f"app {app.name} is tripped: its processes kept crashing;"
                " check its log, fix it, then reload"
            )
            self._reject(frame_id, "tripped", detail, RETRY_TRIPPED)
        elif not self._services.dispatcher.has_room(app.name, len(self._work) + 1):
            detail = f"{app.pool.queue} messages wait for app {app.name} already (pool.queue)"
            self._reject(frame_id, "overloaded", detail, RETRY_AFTER)
        elif self._held > max(HELD_MAX, self._services.settings.max_frame):
            detail = f"messages of {self._held} bytes are in progress on this connection"
            self._reject(frame_id, "overloaded", detail, RETRY_AFTER)
        else:
            return True
        return False

    def _program_of_event(self, event: Payload, own: Program | None) -> tuple[Program | None, bool]:
        """The app that sent the message which an event is about, and True. If it is not known, the
        channel's own app, and False.
        """
        name = self.channel.name
        candidates = [own] if own is not None else []
        for program in (*candidates, *self._services.dispatcher.that_send_over(name)):
            sender = Sender(program.app.account, program.app.name)
            if self._services.ids.is_from(event["user_message_id"], name, sender):
                return program, True
        return own, False

    def _reject(
        self, frame_id: str, code: str, detail: str, retry_after: float | None = None
    ) -> None:
        self._services.observe(InboundAnswered(self.channel.name, code))
        self.push(frames.rejected(frame_id, code, detail, None, retry_after))

    async def _take_in(self) -> None:
        """Journal all the work that waits in one step, then answer and dispatch it in order."""
        while True:
            if not self._work:
                await self._worked.park()
            batch = list(self._work)
            # Once begun, finish this even if the client leaves meanwhile: what is in the journal
            # must be run.
            with trio.move_on_after(JOURNAL_SECONDS, shield=True) as journalling:
                await self._journal_all(batch)
            if journalling.cancelled_caught:
                self._give_up(batch, f"the journal did not answer in {JOURNAL_SECONDS:g} s")
            for work in batch:
                self._work.popleft()
                self._work_size -= work.size
            self._taken.unpark_all()

    async def _journal_all(self, batch: list[_Work]) -> None:
        try:
            answers = await self._services.journal.attempt([work.entry for work in batch])
        except StoreError as error:
            for work in batch:
                self._refuse_work(work, str(error), error.retry_after)
        except Exception as error:  # noqa: BLE001  # one entry must not take the others with it
            note("gateway.intake", error, f"channel {self.channel.name}")
            if len(batch) == 1:
                self._give_up(batch, "internal error")
            for work in batch if len(batch) > 1 else ():
                await self._journal_all([work])
        else:
            for work, answer in zip(batch, answers, strict=True):
                if isinstance(answer, StoreError):
                    self._refuse_work(work, str(answer), answer.retry_after)
                else:
                    self._accepted(work, answer)

    def _refuse_work(self, work: _Work, reason: str, retry_after: float) -> None:
        self._reject(work.frame_id, "unavailable", reason, retry_after)
        self._release(work.size)

    def _give_up(self, batch: list[_Work], reason: str) -> None:
        """Refuse work that may or may not be in the journal. If it is, the dispatcher finds it
        there.
        """
        for work in batch:
            self._refuse_work(work, reason, RETRY_AFTER)
        self._services.dispatcher.settle_soon()

    def _accepted(self, work: _Work, answer: Accepted) -> None:
        entry = work.entry
        result = "duplicate" if answer.duplicate else "accepted"
        self._services.observe(InboundAnswered(self.channel.name, result))
        self.push(frames.accepted(work.frame_id, entry.kind, entry.id, duplicate=answer.duplicate))
        if answer.duplicate:
            self._release(work.size)
            return
        if entry.kind == "message":
            self._outlet.brought(entry.id, self)
        self._services.dispatcher.submit(entry, answer.place, partial(self._release, work.size))

    def _release(self, size: int) -> None:
        """One message less is in progress. Grant its credit again, in steps of half the whole."""
        self._held -= size
        self._returned += 1
        if self._returned >= max(self._services.settings.credit // 2, 1):
            self._credit += self._returned
            self.push(frames.credit(self._returned))
            self._returned = 0

    async def _write(self) -> None:
        while True:
            await self._socket.wait_queued()
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
