"""A channel's way in over AMQP: deliveries are offered to the intake, and acknowledged to the
broker when the journal has them.

Order is kept per user: of each, one message at a time is on its way to the journal. What cannot be
taken now is held and offered again, with all that comes after it of the same user; it is never put
back into the broker's queue, which would change the order. What can never be taken is refused
without requeue, so that the broker drops it, or moves it to where its policy says.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import msgspec
import pika
import trio
from attrs import define, field
from pika.channel import Channel as RawChannel
from pika.spec import Basic, BasicProperties

from resources.fence import fence
from resources.text import read_json

from ..intake import Accepted, Answer, Intake, Offer, Services
from .wire import Wire

QUEUES = 2  # that messages come from; the prefetch is of each
RETRY = (0.05, 1.0)  # seconds until what is held is offered again: first, most
HELD_LONG = 5.0  # seconds after which held messages are a problem
LOGGED_MAX = 20  # refused messages that are logged in `LOGGED_SECONDS`
LOGGED_SECONDS = 60.0

log = logging.getLogger(__name__)

Kind = Literal["message", "event"]


class _Item(msgspec.Struct, frozen=True):
    """A delivery of the broker's. `user`: whose later messages must not overtake it."""

    kind: Kind
    tag: int
    payload: Any
    endpoint: str
    size: int
    user: Hashable


@define(eq=False)
class Inbound:
    """What comes over one connection."""

    name: str
    prefetch: int
    _services: Services
    _intake: Intake
    _wire: Wire
    _raw: RawChannel
    _waiting: deque[_Item] = field(factory=deque, init=False)
    # By user: what waits behind the one that is on its way to the journal.
    _lines: dict[Hashable, deque[_Item]] = field(factory=dict, init=False)
    _ready: deque[_Item] = field(factory=deque, init=False)  # first of their lines
    _held: list[_Item] = field(factory=list, init=False)  # likewise, rejected for now
    # Tags of what was rejected and is not settled: held, or offered again without an answer yet.
    _stuck: set[int] = field(factory=set, init=False)
    _stuck_since: float = field(default=0.0, init=False)
    _why: str = field(default="", init=False)
    _unsettled: int = field(default=0, init=False)  # neither acknowledged nor refused
    _in_progress: int = field(default=0, init=False)
    _is_pumping: bool = field(default=False, init=False)
    _has_moved: bool = field(default=False, init=False)
    _bell: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    _logged_since: float = field(default=0.0, init=False)
    _logged: int = field(default=0, init=False)

    @property
    def problem(self) -> str:
        """Why messages are held, if they have been for a while; empty if not."""
        if not self._stuck or trio.current_time() - self._stuck_since < HELD_LONG:
            return ""
        return f"messages are held, the broker keeps them: {self._why}"

    def arrived(
        self, kind: Kind, _: RawChannel, method: Basic.Deliver, __: BasicProperties, body: bytes
    ) -> None:
        """Take a delivery; never waits, never raises."""
        self._wire.completed += 1
        self._unsettled += 1
        if self._unsettled > QUEUES * self.prefetch:
            self._wire.fail("the broker sends more messages ahead than it was asked for")
            return
        item = None
        with fence("gateway.amqp", f"channel {self.name}"):
            item = self._read(kind, method.delivery_tag, body)
        if isinstance(item, _Item):
            self._waiting.append(item)
            self._pump()
        else:
            self._refuse(method.delivery_tag, kind, item or "internal error")

    async def retry(self) -> None:
        """Offer again what is held, for ever: one message, until one was accepted; then twice as
        many each time.
        """
        pause, burst = RETRY[0], 1
        while True:
            if not self._stuck:
                pause, burst = RETRY[0], 1
            if not self._held:
                await self._bell.park()
            self._has_moved = False
            await trio.sleep(pause)
            pause = RETRY[0] if self._has_moved else min(pause * 2, RETRY[1])
            burst = burst * 2 if self._has_moved else 1
            again, self._held = self._held[:burst], self._held[burst:]
            self._ready.extend(again)
            self._pump()

    def _read(self, kind: Kind, tag: int, body: bytes) -> _Item | str:
        """Read a message; return what is wrong if that cannot be done."""
        most = self._services.settings.max_frame
        if len(body) > most:
            return f"it has {len(body)} bytes, expected at most {most} (gateway.max_frame)"
        try:
            payload = read_json(body)
        except (ValueError, RecursionError) as error:
            return f"expected JSON: {error}"
        if not isinstance(payload, dict):
            return "expected a JSON object"
        routing = payload.get("routing_metadata")
        endpoint = routing.get("endpoint_name") if isinstance(routing, dict) else None
        user = payload.get("from_addr" if kind == "message" else "user_message_id")
        return _Item(
            kind=kind,
            tag=tag,
            payload=payload,
            endpoint=endpoint if isinstance(endpoint, str) and endpoint else "default",
            size=len(body),
            user=(kind, user if isinstance(user, str) else None),
        )

    def _pump(self) -> None:
        """Offer what may be offered now."""
        if self._is_pumping or self._wire.is_over:
            return  # the intake answers while it is asked; runs end when nobody is there any more
        self._is_pumping = True
        credit = self._services.settings.credit
        try:
            while self._in_progress < credit:
                if self._ready:
                    self._offer(self._ready.popleft())
                elif self._waiting:
                    item = self._waiting.popleft()
                    line = self._lines.get(item.user)
                    if line is None:
                        self._lines[item.user] = deque()
                        self._offer(item)
                    else:
                        line.append(item)
                else:
                    break
        finally:
            self._is_pumping = False

    def _offer(self, item: _Item) -> None:
        self._in_progress += 1
        with fence("gateway.amqp", f"channel {self.name}") as caught:
            answer = partial(self._answered, item)
            offer = Offer(item.kind, item.payload, item.size, answer, self._ended, item.endpoint)
            self._intake.offer(offer)
        if caught.error is not None:  # a message that we cannot even look at must not come again
            self._in_progress -= 1
            self._refuse(item.tag, item.kind, "internal error")
            self._next(item)

    def _answered(self, item: _Item, answer: Answer) -> None:
        if isinstance(answer, Accepted):
            self._has_moved = True
            self._settle(item.tag, self._raw.basic_ack)
            self._next(item)
        elif answer.retry_after is not None or (answer.code, item.kind) == ("no_app", "message"):
            if not self._stuck:
                self._stuck_since = trio.current_time()
            self._stuck.add(item.tag)
            self._why = answer.detail
            self._held.append(item)
            self._bell.unpark()
        else:
            where = f"{answer.path}: " if answer.path else ""
            self._refuse(item.tag, item.kind, f"{where}{answer.detail}")
            self._next(item)

    def _next(self, item: _Item) -> None:
        """A message is settled: the next one of its user is on its way."""
        line = self._lines[item.user]
        if line:
            self._ready.append(line.popleft())
        else:
            del self._lines[item.user]
        self._pump()

    def _ended(self) -> None:
        """One message less is in progress."""
        self._in_progress -= 1
        self._pump()

    def _settle(self, tag: int, method: Callable[[int], None]) -> None:
        """Tell the broker about a message; if it is lost meanwhile, the message comes again."""
        self._unsettled -= 1
        self._stuck.discard(tag)
        if not self._wire.is_over:
            with suppress(pika.exceptions.AMQPError):
                method(tag)

    def _refuse(self, tag: int, kind: Kind, why: str) -> None:
        """Tell the broker that a message is not wanted, now or later."""
        self._settle(tag, partial(self._raw.basic_nack, requeue=False))
        now = trio.current_time()
        if now - self._logged_since > LOGGED_SECONDS:
            if self._logged > LOGGED_MAX:
                more = self._logged - LOGGED_MAX
                log.warning("channel %s: %d more were refused", self.name, more)
            self._logged_since, self._logged = now, 0
        self._logged += 1
        if self._logged <= LOGGED_MAX:
            log.warning("channel %s: the broker's %s is refused: %s", self.name, kind, why)
