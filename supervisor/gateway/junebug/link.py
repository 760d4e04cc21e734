"""A channel of type http: what apps send is posted to Junebug, at least once and in order.

Messages to one address are posted one after the other; those to different addresses do not wait for
each other. A post whose answer is lost is made again: Junebug may have the message already, and has
no way to ask it. What Junebug refuses for good becomes a nack for the app.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from typing import Any

import msgspec
import trio
from attrs import define, field, frozen

from resources.fence import cause_of, fence, note
from resources.stores.redis import StoreError

from ...channel_state import ChannelState
from ...config.model import Channel, HttpSide
from ..intake import Answer, Intake, Offer, Rejected, Services
from ..outlet import Outlet
from . import words
from .names import Names
from .poster import (
    CONNECTIONS,
    SECONDS,
    Failed,
    Poster,
    Refused,
    Taken,
    Verdict,
)

WINDOW = 1000  # messages in hand: one address whose messages are stuck must not take it all
BACKOFF = (0.5, 20.0)  # seconds between two tries: first, most
# A message that Junebug answers with errors of its own for so long, while it takes others, is given
# up: else it would hold back what follows for its user for ever.
GIVE_UP_SECONDS = 3600.0
FINISH_SECONDS = 4.0  # for posts in progress, when the link ends
NACK_TRIES = 10  # to journal a nack

log = logging.getLogger(__name__)


@frozen
class _Parcel:
    """A message to be posted."""

    delivery: int
    message: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.message.get("message_id") or "")


@define(eq=False)
class JunebugLink:
    """The link, and the receiver of its channel's outlet."""

    channel: Channel
    _services: Services
    intake: Intake | None = field(default=None, init=False)
    """Where posts of Junebug go; None while this is not running."""
    window: int = field(default=WINDOW, init=False)
    outcomes: bool = field(default=False, init=False)
    only_own: bool = field(default=False, init=False)
    repeats: bool = field(default=False, init=False)
    _side: HttpSide = field(init=False)
    _poster: Poster = field(init=False)
    _lanes: dict[str, deque[_Parcel]] = field(factory=dict, init=False)  # by address
    _posting: trio.CapacityLimiter = field(
        factory=lambda: trio.CapacityLimiter(CONNECTIONS), init=False
    )
    # Of posts in progress: when the link ends they have a while to finish, since one that is cut
    # off is made again.
    _posts: set[trio.CancelScope] = field(factory=set, init=False)
    _is_closing: bool = field(default=False, init=False)
    _held_until: float = field(default=0.0, init=False)  # Junebug asked not to be asked before
    _taken: int = field(default=0, init=False)  # messages that Junebug took
    _retried: int = field(default=0, init=False)
    _last: Failed | None = field(default=None, init=False)  # the newest answer, if it was no good
    _is_nameless: bool = field(default=False, init=False)  # it took a message and gave no id
    _names: Names = field(init=False)
    _nursery: trio.Nursery | None = field(default=None, init=False)
    _unanswered: set[trio.Event] = field(factory=set, init=False)  # offers; set when this ends

    def __attrs_post_init__(self) -> None:
        assert self.channel.http is not None
        self._side = self.channel.http
        services = self._services
        self._names = Names(self.channel.name, services.foreign_ids, is_shared=bool(services.via))
        self._poster = Poster.of(self._services.egress, self.channel.name, self._side.url)

    @property
    def state(self) -> ChannelState:
        """How it is doing, by the newest answer."""
        if self.intake is None:
            return ChannelState("down", problem="it is starting")
        if self._last is None:
            return ChannelState("up", 1, made=1, returned=self._retried)
        state = ChannelState("blocked" if self._last.is_answer else "down")
        problem = f"Junebug, {self._poster.url}: {self._last.problem}"
        return ChannelState(
            state.state, int(self._last.is_answer), problem, made=1, returned=self._retried
        )

    @property
    def is_free(self) -> bool:
        """While it is running, it takes what its window allows."""
        return not self._is_closing

    def push(self, frame: bytes) -> None:
        """Outcomes are not wanted."""

    def deliver(
        self,
        delivery: int,
        attempt: int,  # noqa: ARG002  # Junebug has no place for it
        message: bytes,
    ) -> None:
        """Put a message into its address's lane; never waits."""
        assert self._nursery is not None
        parcel = _Parcel(delivery, msgspec.json.decode(message, type=dict[str, Any]))
        address = parcel.message.get("to_addr") or parcel.message.get("group") or ""
        self._names.posts += 1
        lane = self._lanes.get(str(address))
        if lane is not None:
            lane.append(parcel)
            return
        lane = self._lanes[str(address)] = deque([parcel])
        self._nursery.start_soon(self._run_lane, str(address), lane)

    async def run(self) -> None:
        """Post what the outlet hands out, and take in what Junebug posts; never returns."""
        outlet = self._outlet
        self.intake, self._is_closing = Intake(self.channel, self._services, None), False
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self.intake.run)
                if self._names.is_shared:
                    self._nursery.start_soon(self._names.keep_looking)
                outlet.attach(self)
                try:
                    await trio.sleep_forever()
                finally:
                    self._is_closing = True
                    for scope in self._posts:
                        scope.deadline = trio.current_time() + FINISH_SECONDS
        finally:
            # what is in hand goes out again, by the next link
            outlet.detach(self)
            self._lanes.clear()
            self._names.end()
            self.intake = self._nursery = None
            for answered in self._unanswered:
                answered.set()

    async def message_of(self, theirs: str) -> str | None:
        """Our message_id for Junebug's. An event may be faster than the answer to the post it is
        about, so this waits for posts in progress, and for those that another server may have.
        Raises StoreError.
        """
        return await self._names.find(theirs)

    async def _run_lane(self, address: str, lane: deque[_Parcel]) -> None:
        while lane:
            await self._send(lane[0])
            lane.popleft()
            self._names.end_post()
        if self._lanes.get(address) is lane:
            del self._lanes[address]

    async def _send(self, parcel: _Parcel) -> None:
        """Post a message until Junebug has taken or refused it; then it leaves the outbox."""
        began, taken_before, pause = trio.current_time(), self._taken, BACKOFF[0]
        while True:
            verdict = await self._try(parcel)
            if isinstance(verdict, Failed):
                is_old = trio.current_time() - began > GIVE_UP_SECONDS
                if verdict.is_answer and is_old and self._taken > taken_before:
                    verdict = Refused(f"{verdict.problem}, for {GIVE_UP_SECONDS / 60:g} minutes")
            if isinstance(verdict, Taken):
                return
            if isinstance(verdict, Refused):
                await self._give_up(parcel, verdict.reason)
                return
            self._note_failure(verdict)
            await trio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311  # spreads load
            pause = min(pause * 2, BACKOFF[1])

    async def _try(self, parcel: _Parcel) -> Verdict:
        """Post a message once; if Junebug takes it, it leaves the outbox. Once begun, this goes on
        for up to `FINISH_SECONDS` after a cancellation.
        """
        verdict: Verdict = Failed("the post was given up")
        async with self._posting:
            await trio.sleep_until(self._held_until)
            with (
                fence("gateway.http", f"channel {self.channel.name}, message {parcel.id}"),
                trio.CancelScope(shield=True) as scope,
            ):
                self._posts.add(scope)
                try:
                    verdict = await self._post(parcel)
                    if isinstance(verdict, Taken):
                        self._outlet.acknowledge(parcel.delivery, self)
                        await self._note_taken(parcel, verdict)
                finally:
                    self._posts.discard(scope)
        return verdict

    @property
    def _outlet(self) -> Outlet:
        return self._services.outlet(self.channel.name)

    async def _post(self, parcel: _Parcel) -> Verdict:
        name, side = self.channel.name, self._side
        base = side.event_url or f"{self._services.base_url()}/channels/{name}/events"
        event_url = f"{base.rstrip('/')}/{parcel.id}"
        token = self._services.ids.token_of(name)
        try:
            body = words.body_of(parcel.message, side.from_addr, event_url, token)
        except Exception as error:  # noqa: BLE001  # else it would hold back its user's for ever
            note("gateway.http", error, f"channel {name}, message {parcel.id}")
            return Refused(f"it cannot be put into a post: {cause_of(error)}")
        return await self._poster.post(body)

    def _note_failure(self, failed: Failed) -> None:
        if self._last is None or self._last.problem != failed.problem:
            log.warning(
                "channel %s: Junebug, %s: %s; messages are sent again",
                self.channel.name, self._poster.url, failed.problem,
            )  # fmt: skip
        self._last = failed
        self._retried += 1
        if failed.retry_after is not None:
            self._held_until = trio.current_time() + failed.retry_after

    def _note_answer(self) -> None:
        if self._last is not None:
            log.info("channel %s: Junebug takes messages again", self.channel.name)
        self._last = None

    async def _note_taken(self, parcel: _Parcel, verdict: Taken) -> None:
        self._note_answer()
        self._taken += 1
        if verdict.message_id is None:
            if not self._is_nameless:
                log.warning(
                    "channel %s: Junebug took message %s without giving it an id: of such messages"
                    " only events at the event_url that they were sent with reach the app",
                    self.channel.name, parcel.id,
                )  # fmt: skip
            self._is_nameless = True
            return
        try:
            await self._names.note(verdict.message_id, parcel.id)
        except StoreError as error:
            log.warning(
                "channel %s: the id that Junebug gave to message %s is not kept: %s",
                self.channel.name, parcel.id, error,
            )  # fmt: skip

    async def _give_up(self, parcel: _Parcel, reason: str) -> None:
        """Tell the app that a message was refused; then it leaves the outbox."""
        self._note_answer()
        log.warning(
            "channel %s: Junebug refused message %s: %s", self.channel.name, parcel.id, reason
        )
        payload = words.refused(parcel.id, reason)
        pause = BACKOFF[0]
        for _ in range(NACK_TRIES):
            answer = await self.take_in("event", payload, len(reason) + len(parcel.id))
            if not isinstance(answer, Rejected) or answer.retry_after is None:
                break
            await trio.sleep(pause)
            pause = min(pause * 2, BACKOFF[1])
        if isinstance(answer, Rejected):
            log.warning(
                "channel %s: the app gets no nack for message %s: %s",
                self.channel.name, parcel.id, answer.detail,
            )  # fmt: skip
        self._outlet.acknowledge(parcel.delivery, self)

    async def take_in(self, kind: Any, payload: dict[str, Any], size: int) -> Answer:
        """Offer a message or event to the app; return what became of it, once the journal has
        it. The answer is `unavailable` if this ends before.
        """
        intake, answers = self.intake, []
        answered = trio.Event()

        def answer(found: Answer) -> None:
            answers.append(found)
            answered.set()

        if intake is not None:
            intake.offer(Offer(kind, payload, size, answer, lambda: None))
            self._unanswered.add(answered)
            with trio.move_on_after(SECONDS):
                await answered.wait()
            self._unanswered.discard(answered)
        if not answers:
            return Rejected("unavailable", "the channel is starting or ending", retry_after=1.0)
        return answers[0]
