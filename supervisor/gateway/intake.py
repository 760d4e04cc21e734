"""A channel's way in, whatever its type: what comes is checked, admitted, written to the journal
(all that waits, in one step and in order), answered, and handed to the dispatcher.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Literal

import msgspec
import trio
from attrs import define, field, frozen

from resources.fence import note
from resources.messages import BadMessage, Payload, complete_event, complete_message
from resources.stores.egress import Egress
from resources.stores.foreign_ids import ForeignIds
from resources.stores.identity import MessageIds, Sender
from resources.stores.journal import Accepted as Journalled
from resources.stores.journal import Entry, Journal
from resources.stores.redis import StoreError

from ..config.model import Channel
from ..config.model import Gateway as GatewaySettings
from ..observe import ClientRefused, InboundAnswered, Observer
from ..runs.dispatcher import Dispatcher
from ..runs.jobs import Program
from . import frames
from .lines import Receiver
from .outlet import Outlet
from .refused import Refused

WORK_MAX = 1 << 20  # bytes of messages that wait for the journal; beyond that reading pauses
HELD_MAX = 8 << 20  # bytes of messages in progress; more are rejected, whatever credit is left
JOURNAL_SECONDS = 20.0  # for the journal to answer: longer than the store's own timeout
RETRY_AFTER = 1.0  # seconds after which a client should try again
RETRY_TRIPPED = 60  # seconds after which a tripped or broken app may be tried again
ENDPOINT_MAX = 200  # characters

log = logging.getLogger(__name__)


def at_once(_: str) -> AbstractAsyncContextManager[None]:
    """The turn of a server that is alone."""
    return nullcontext()


@frozen
class Services:
    """What every channel works with."""

    settings: GatewaySettings
    channels: Callable[[], Mapping[str, Channel]]  # as they are now
    outlet: Callable[[str], Outlet]
    journal: Journal
    ids: MessageIds
    dispatcher: Dispatcher
    observe: Observer
    is_draining: Callable[[], bool]
    base_url: Callable[[], str]  # http: of the gateway's port, as others may reach it
    foreign_ids: ForeignIds
    egress: Egress
    # Held while what waits at a broker for a channel is taken in: by one server at a time.
    turn: Callable[[str], AbstractAsyncContextManager[None]] = at_once
    via: str = ""  # who we are, if several servers share the work
    refused: Refused = field(factory=Refused)

    def refuse(self, channel: str, reason: str, address: str, why: str) -> None:
        """Count a client that is not let in; `reason` as in `ClientRefused`."""
        self.observe(ClientRefused(channel, reason))
        self.refused.note(channel, address, why)


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """The message or event (`kind`) is in the journal. `duplicate`: it was there before."""

    kind: str
    id: str
    duplicate: bool


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """The message or event was not taken.

    Attributes:
        code: bad_message, no_app, draining, broken, tripped, overloaded or unavailable.
        path: The field that is wrong, of a bad_message.
        retry_after: Seconds; None if trying again will not help.
    """

    code: str
    detail: str
    path: str | None = None
    retry_after: float | None = None


Answer = Accepted | Rejected


class Offer(msgspec.Struct, frozen=True):
    """A message or event that came in.

    Attributes:
        payload: Its JSON value, not checked yet.
        size: Bytes that it takes while it is in progress.
        answer: Called once, unless the intake ends before. Must not wait or raise.
        ended: Called once, after `answer`: it is not in progress any more. It was rejected, or was
            a duplicate, or its run ended and what that sent was handed out. Must not wait or raise.
        endpoint: That a message came to.
    """

    kind: Literal["message", "event"]
    payload: Any
    size: int
    answer: Callable[[Answer], None]
    ended: Callable[[], None]
    endpoint: str = "default"


class _Work(msgspec.Struct):
    """An offer that is to be journalled as `entry`."""

    offer: Offer
    entry: Entry
    is_answered: bool = False


@define(eq=False)
class Intake:
    """The way in of one connection, or of a channel that has only one.

    Attributes:
        held: Bytes of what is in progress.
        work_size: Bytes of what waits for the journal.
    """

    channel: Channel
    _services: Services
    _receiver: Receiver | None  # replies to what it brings go back to it if they can
    held: int = field(default=0, init=False)
    work_size: int = field(default=0, init=False)
    _work: deque[_Work] = field(factory=deque, init=False)
    _worked: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _taken: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)

    def offer(self, offer: Offer) -> None:
        """Take a message or event in, or reject it at once; never waits."""
        self.held += offer.size
        try:
            entry = self._entry(offer)
        except BadMessage as bad:
            self._answer(offer, Rejected("bad_message", bad.detail, bad.path))
            entry = None
        except BaseException:
            self.held -= offer.size
            raise
        if entry is None:
            self._end(offer)
            return
        self._work.append(_Work(offer, entry))
        self.work_size += offer.size
        self._worked.unpark()

    async def room(self) -> None:
        """Wait until there is room for more: while too much waits for the journal, none is read."""
        while self.work_size > WORK_MAX:
            await self._taken.park()

    async def run(self) -> None:
        """Journal all the work that waits in one step, then answer and dispatch it in order; never
        returns. A step that has begun is finished, even if this is cancelled meanwhile.
        """
        try:
            while True:
                if not self._work:
                    await self._worked.park()
                await self._step()
        finally:
            self._work.clear()

    async def _step(self) -> None:
        batch = list(self._work)
        # Once begun, finish this even if the client leaves meanwhile: what is in the journal must
        # be run.
        with trio.move_on_after(JOURNAL_SECONDS, shield=True) as journalling:
            await self._journal_all(batch)
        if journalling.cancelled_caught:
            self._give_up(batch, f"the journal did not answer in {JOURNAL_SECONDS:g} s")
        for work in batch:
            self._work.popleft()
            self.work_size -= work.offer.size
        self._taken.unpark_all()

    def _entry(self, offer: Offer) -> Entry | None:
        """Make the journal entry of a message or event; None if it was rejected.

        Raises:
            BadMessage: The message or event is malformed.
        """
        channel = self._services.channels().get(self.channel.name, self.channel)
        name, kind = channel.name, channel.transport_type
        own = self._services.dispatcher.programs.get(channel.app)
        if offer.kind == "event":
            payload = complete_event(offer.payload, transport_name=name, transport_type=kind)
            program, counted = self._program_of_event(payload, own)
        else:
            if not 0 < len(offer.endpoint) <= ENDPOINT_MAX:
                raise BadMessage("endpoint", f"expected 1 to {ENDPOINT_MAX} characters")
            payload = complete_message(
                offer.payload, transport_name=name, transport_type=kind, endpoint=offer.endpoint
            )
            program, counted = own, True
        if program is None:
            detail = f"app {channel.app} is not configured"
            if not channel.app:
                detail = f"channel {name} has no app"
            self._answer(offer, Rejected("no_app", detail))
            return None
        if (refusal := self._refusal(program)) is not None:
            self._answer(offer, refusal)
            return None
        account, app, via = program.app.account, program.app.name, self._services.via
        return Entry(offer.kind, account, app, name, payload, counted, via=via)

    def _refusal(self, program: Program) -> Rejected | None:
        """Return why the app cannot take one more message now, if it cannot."""
        app = program.app
        if self._services.is_draining():
            return Rejected("draining", "the server is about to restart", retry_after=RETRY_AFTER)
        if program.broken:
            detail = (
                f"app {app.name} is broken: a file of it has an error, which /readyz names;"
                " fix it, then reload"
            )
            return Rejected("broken", detail, retry_after=RETRY_TRIPPED)
        if self._services.dispatcher.is_tripped(app.name):
            detail = (
                f"app {app.name} is tripped: its processes kept crashing;"
                " check its log, fix it, then reload"
            )
            return Rejected("tripped", detail, retry_after=RETRY_TRIPPED)
        if not self._services.dispatcher.has_room(app.name, len(self._work) + 1):
            detail = f"{app.pool.queue} messages wait for app {app.name} already (pool.queue)"
            return Rejected("overloaded", detail, retry_after=RETRY_AFTER)
        if self.held > max(HELD_MAX, self._services.settings.max_frame):
            detail = f"messages of {self.held} bytes are in progress on this connection"
            return Rejected("overloaded", detail, retry_after=RETRY_AFTER)
        return None

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

    async def _journal_all(self, batch: list[_Work]) -> None:
        try:
            answers = await self._services.journal.attempt([work.entry for work in batch])
        except StoreError as error:
            for work in batch:
                self._refuse(work, str(error), error.retry_after)
        except Exception as error:  # noqa: BLE001  # one entry must not take the others with it
            note("gateway.intake", error, f"channel {self.channel.name}")
            if len(batch) == 1:
                self._give_up(batch, "internal error")
                return
            for work in batch:
                await self._journal_all([work])
            # those that the journal took at the first try are duplicates now, and in no line
            self._services.dispatcher.settle_soon()
        else:
            for work, answer in zip(batch, answers, strict=True):
                if isinstance(answer, StoreError):
                    self._refuse(work, str(answer), answer.retry_after)
                else:
                    self._accept(work, answer)

    def _refuse(self, work: _Work, reason: str, retry_after: float) -> None:
        work.is_answered = True
        self._answer(work.offer, Rejected("unavailable", reason, retry_after=retry_after))
        self._end(work.offer)

    def _give_up(self, batch: list[_Work], reason: str) -> None:
        """Refuse work that may or may not be in the journal. If it is, the dispatcher finds it
        there.
        """
        for work in batch:
            if not work.is_answered:
                self._refuse(work, reason, RETRY_AFTER)
        self._services.dispatcher.settle_soon()

    def _accept(self, work: _Work, answer: Journalled) -> None:
        offer, entry = work.offer, work.entry
        work.is_answered = True
        self._answer(offer, Accepted(entry.kind, entry.id, answer.duplicate))
        if answer.duplicate:
            self._tell_again(work, answer)
            return
        if entry.kind == "message" and self._receiver is not None:
            self._services.outlet(self.channel.name).brought(entry.id, self._receiver)

        def ended() -> None:
            self._end(offer)

        self._services.dispatcher.submit(entry, answer.place, ended)

    def _tell_again(self, work: _Work, answer: Journalled) -> None:
        """See that whoever sends a message again learns how its run ended: it may not have been
        told, as its connection was gone.
        """
        entry, told, receiver = work.entry, answer.outcome, self._receiver
        if receiver is None or not receiver.outcomes:
            self._end(work.offer)
            return
        outlet = self._services.outlet(self.channel.name)
        if told is not None:
            frame = frames.outcome(entry.kind, entry.id, told.outcome, told.ms, told.commands)
            outlet.tell(entry.id, frame, receiver, lambda: self._end(work.offer))
            return
        if self._services.dispatcher.expect(entry, answer.place):
            outlet.brought(entry.id, receiver)
        self._end(work.offer)

    def _answer(self, offer: Offer, answer: Answer) -> None:
        if isinstance(answer, Rejected):
            result = answer.code
        else:
            result = "duplicate" if answer.duplicate else "accepted"
        self._services.observe(InboundAnswered(self.channel.name, result))
        offer.answer(answer)

    def _end(self, offer: Offer) -> None:
        self.held -= offer.size
        offer.ended()
