"""A channel's way out over AMQP: each parcel of the outlet is published to NAME.outbound,
persistent and mandatory, and acknowledged to the outlet when the broker has confirmed it.
"""

from __future__ import annotations

from typing import Any

import msgspec
import trio
from attrs import define, field
from pika.channel import Channel as RawChannel
from pika.spec import Basic, BasicProperties

from resources.fence import cause_of, note

from ...config.document import one_line
from ...config.model import AmqpSide, Channel
from ..outlet import Outlet
from .wire import Wire

WINDOW = 256  # parcels that the broker has not confirmed
CONFIRM_SECONDS = 30.0  # without a confirmation; then that is a problem to be shown
STUFFED = 1 << 20  # bytes that wait to be sent; then the broker gets no more parcels for now
PERSISTENT = 2  # AMQP's delivery_mode
# vumi2 refuses messages with another one.
ADDRESS_TYPES = frozenset(
    {
        "irc_nickname", "twitter_handle", "msisdn", "gtalk_id", "jabber_id", "mxit_id", "wechat_id",
    }
)  # fmt: skip

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


def filled(message: bytes, channel: Channel, side: AmqpSide) -> tuple[str, bytes]:
    """An app's message as transports take it, with the fields that only replies have filled in.
    Routers of Vumi and vumi2 go by transport_name; vumi2 refuses null in the others. Returns its
    message_id, too.
    """
    fields = _decode(message)
    if fields.get("transport_name") is None:
        fields["transport_name"] = side.name
    if fields.get("transport_type") is None:
        fields["transport_type"] = channel.transport_type
    if fields.get("from_addr") is None:
        fields["from_addr"] = side.from_addr or ""
    for name in ("to_addr_type", "from_addr_type"):
        kind = fields.get(name)
        if not isinstance(kind, str) or kind not in ADDRESS_TYPES:
            fields[name] = None
    return str(fields.get("message_id")), _encode(fields)


@define(eq=False)
class Publisher:
    """The receiver of one connection. It stops when the broker does not take something, so that
    little overtakes that.

    Attributes:
        troubled: Set when it has stopped, and all that was published before is settled.
        returned: Parcels that the broker did not take.
        trouble: Why it did not; empty if it took all.
        is_confirmed: It took one.
    """

    _wire: Wire
    _raw: RawChannel
    _outlet: Outlet
    _channel: Channel
    _side: AmqpSide
    troubled: trio.Event = field(factory=trio.Event, init=False)
    window: int = field(default=WINDOW, init=False)
    outcomes: bool = field(default=False, init=False)
    only_own: bool = field(default=False, init=False)
    repeats: bool = field(default=False, init=False)  # the broker confirms, or is lost
    returned: int = field(default=0, init=False)
    trouble: str = field(default="", init=False)
    is_confirmed: bool = field(default=False, init=False)
    _published: int = field(default=0, init=False)
    # Delivery number and message_id by the broker's number, in order: not confirmed yet.
    _open: dict[int, tuple[int, str]] = field(factory=dict, init=False)
    _came_back: set[str] = field(factory=set, init=False)  # by message_id
    # The newest confirmation, or, if that is newer, when the oldest of `_open` was published.
    _confirmed_at: float = field(default=0.0, init=False)

    @property
    def is_free(self) -> bool:
        """Whether it takes parcels now."""
        wire = self._wire
        return not (self.trouble or wire.reason or wire.blocked) and wire.queued <= STUFFED

    @property
    def silence(self) -> str:
        """A description of overdue confirmations; empty if none is overdue."""
        seconds = trio.current_time() - self._confirmed_at
        if not self._open or seconds < CONFIRM_SECONDS:
            return ""
        return (
            f"the broker has not confirmed any of {len(self._open)} messages for"
            f" {self._side.name}.outbound for {seconds:.0f} s"
        )

    def deliver(
        self,
        delivery: int,
        attempt: int,  # noqa: ARG002  # the id tells that it comes again
        message: bytes,
    ) -> None:
        """Publish a parcel; never waits, never raises."""
        name = str(delivery)
        try:
            name, message = filled(message, self._channel, self._side)
        except (ValueError, TypeError) as error:  # sent as it is rather than never
            note("gateway.amqp", error, f"channel {self._channel.name}: parcel {delivery}")
        properties = BasicProperties(
            content_type="application/json", delivery_mode=PERSISTENT, message_id=name
        )
        key = f"{self._side.name}.outbound"
        try:
            self._raw.basic_publish(self._side.exchange, key, message, properties, mandatory=True)
        except Exception as error:  # noqa: BLE001  # the engine raises what it likes
            self._wire.fail(f"cannot publish: {cause_of(error)}")
            return
        self._published += 1
        if not self._open:
            self._confirmed_at = trio.current_time()
        self._open[self._published] = delivery, name

    def push(self, frame: bytes) -> None:
        """Outcomes of runs are not sent over AMQP."""

    def came_back(
        self, _: RawChannel, method: Basic.Return, properties: BasicProperties, __: bytes
    ) -> None:
        """The broker returns a message: no queue takes it. The confirmation comes nevertheless."""
        self._wire.completed += 1
        if len(self._came_back) < self.window:
            self._came_back.add(str(properties.message_id))
        self.trouble = (
            f"the broker returned a message for {self._side.name}.outbound:"
            f" {method.reply_code} {one_line(str(method.reply_text))}"
        )

    def confirmed(self, frame: Any) -> None:
        """The broker has taken messages, or refuses them."""
        method = frame.method
        is_taken = isinstance(method, Basic.Ack)
        self._confirmed_at = trio.current_time()
        for number in self._settled(method.delivery_tag, multiple=method.multiple):
            delivery, name = self._open.pop(number)
            if not is_taken:
                self.returned += 1
                self.trouble = "the broker refuses messages (basic.nack): a full queue?"
            elif name in self._came_back:
                self._came_back.discard(name)
                self.returned += 1
            else:
                self.is_confirmed = True
                self._outlet.acknowledge(delivery, self)
        if self.trouble and not self._open:
            self.troubled.set()

    def _settled(self, newest: int, *, multiple: bool) -> list[int]:
        if not multiple:
            return [newest] if newest in self._open else []
        settled = []
        for number in self._open:
            if number > newest:
                break
            settled.append(number)
        return settled
