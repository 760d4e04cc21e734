"""outbound: replies to the message in progress, and messages to addresses, over the app's
endpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from logging import WARNING
from typing import Any

from attrs import frozen

from .contract import Caller, Refused, Resource, command
from .messages import Payload, go_metadata, missing_from, reply, send, shown
from .parameters import Json, parameter
from .stores.identity import Sender
from .stores.outbox import REPLY, Outbox, OutboxFull, Posted, Slot
from .stores.redis import StoreError

TAG_FIELDS = "Tag, content or to_addr not specified"


@frozen
class OutboundSettings:
    """What an app may send over: endpoint, or pool:tag, to channel; and the helper_metadata keys
    that it may set.
    """

    endpoints: Mapping[str, str]
    allowed_helper_metadata: tuple[str, ...]


@frozen
class Done:
    """The message is in the outbox, which does not mean that it was delivered."""


CONTENT_WRONG = "'content' must be a string or null."


def not_given(name: str, where: str) -> Callable[[Any], str]:
    """The reason for a string that is null or of another type."""
    text = f"'{name}' must be given {where}"
    return lambda value: (
        f"{text}." if value is None else f"{text}, as a string, not {shown(value)}."
    )


def given(name: str, where: str) -> str:
    """A required string, not null."""
    reason = not_given(name, where)
    field: str = parameter(missing=reason(None), wrong=reason)
    return field


@frozen
class Reply:
    """outbound.reply_to, outbound.reply_to_group. Checked in this order, helper_metadata last."""

    content: str | None = parameter(
        missing="'content' must be given in replies.", wrong=CONTENT_WRONG
    )
    in_reply_to: str = given("in_reply_to", "in replies")
    continue_session: bool = parameter(
        default=True, wrong="'continue_session' must be either true or false if given."
    )
    helper_metadata: Json = None


@frozen
class SendTo:
    """outbound.send_to."""

    content: str | None = parameter(
        missing="'content' must be given in sends.", wrong=CONTENT_WRONG
    )
    to_addr: str = given("to_addr", "in sends")
    endpoint: str = parameter("default", wrong=not_given("endpoint", "in sends"))
    helper_metadata: Json = None


@frozen
class SendToEndpoint:
    """outbound.send_to_endpoint."""

    content: str | None = parameter(
        missing="'content' must be given in sends.", wrong=CONTENT_WRONG
    )
    endpoint: str = given("endpoint", "in sends")
    to_addr: str = given("to_addr", "in sends")
    helper_metadata: Json = None


@frozen
class SendToTag:
    """outbound.send_to_tag. Null content is refused here, as it always was; helper_metadata is
    ignored.
    """

    tagpool: str = parameter(missing=TAG_FIELDS, wrong=TAG_FIELDS)
    tag: str = parameter(missing=TAG_FIELDS, wrong=TAG_FIELDS)
    content: str = parameter(missing=TAG_FIELDS, wrong=TAG_FIELDS)
    to_addr: str = parameter(missing=TAG_FIELDS, wrong=TAG_FIELDS)


@frozen
class Outbound(Resource):
    """The outbound commands."""

    outbox: Outbox

    @command("outbound.reply_to")
    async def reply_to(self, caller: Caller, request: Reply) -> Done:
        """Reply to the sender of the message in progress."""
        return await self._reply(caller, request, to_group=False)

    @command("outbound.reply_to_group")
    async def reply_to_group(self, caller: Caller, request: Reply) -> Done:
        """Reply to the group that the message in progress was sent to; to its sender if there is
        none.
        """
        return await self._reply(caller, request, to_group=True)

    @command("outbound.send_to")
    async def send_to(self, caller: Caller, request: SendTo) -> Done:
        """Send to an address, over the default endpoint or another one of the app's."""
        return await self._send(caller, request)

    @command("outbound.send_to_endpoint")
    async def send_to_endpoint(self, caller: Caller, request: SendToEndpoint) -> Done:
        """Send to an address over an endpoint of the app's."""
        return await self._send(caller, request)

    @command("outbound.send_to_tag")
    async def send_to_tag(self, caller: Caller, request: SendToTag) -> Done:
        """Send to an address over the endpoint `tagpool:tag` of the app's."""
        endpoint = f"{request.tagpool}:{request.tag}"
        channel = caller.setting(OutboundSettings).endpoints.get(endpoint)
        if channel is None:
            raise Refused(
                f"Tag ({shown(request.tagpool)}, {shown(request.tag)}) not held by account"
            )
        message = send(
            request.to_addr, request.content, endpoint=endpoint, helper_metadata=_go(caller)
        )
        await self._post(caller, channel, message, _send_name(channel, request.to_addr))
        return Done()

    async def _send(self, caller: Caller, request: SendTo | SendToEndpoint) -> Done:
        metadata = _go(caller) | _allowed_metadata(caller, request.helper_metadata)
        channel = _channel_of(caller, request.endpoint)
        message = send(
            request.to_addr, request.content, endpoint=request.endpoint, helper_metadata=metadata
        )
        await self._post(caller, channel, message, _send_name(channel, request.to_addr))
        return Done()

    async def _reply(self, caller: Caller, request: Reply, *, to_group: bool) -> Done:
        metadata = _go(caller) | _allowed_metadata(caller, request.helper_metadata)
        to = caller.message
        if to is None or to["message_id"] != request.in_reply_to:
            raise Refused(f"Could not find original message with id: {shown(request.in_reply_to)}")
        close = not request.continue_session
        if to.get("inbound_push_trigger"):
            # Nobody waits: this "reply" opens the conversation.
            channel = _channel_of(caller, "default")
            message = send(
                to["from_addr"], request.content, endpoint="default",
                helper_metadata=to["helper_metadata"] | metadata, session_event="new",
            )  # fmt: skip
        else:
            channel = caller.channel
            message = reply(
                to, request.content, close=close, to_group=to_group, helper_metadata=metadata
            )
        # at once: a run cut off in the middle may have replied
        before, caller.replied = caller.replied, True
        try:
            await self._post(caller, channel, message, REPLY)
        except Refused:
            caller.replied = before
            raise
        except BaseException as error:  # cancelled, too: the process was killed, say
            # It may be posted or not. A fallback reply has the same slot, and so is posted only if
            # this one is not; without a slot the user had better not get both.
            may_be_posted = error.sent if isinstance(error, StoreError) else True
            caller.replied = before or (may_be_posted and not caller.origin)
            raise
        return Done()

    async def _post(self, caller: Caller, channel: str, message: Payload, name: str) -> None:
        """Post a message, unless an earlier run of the same inbound has posted it.

        Of one inbound, the n-th reply is the same outbound in each of its runs, and so is the n-th
        send to an address over a channel: an app need not do everything in the same order again,
        nor in the same words.
        """
        sender, content = Sender(caller.account, caller.app), message["content"]
        if not caller.origin:
            await self._post_in(sender, channel, message, None)
            return
        slot = caller.take_slot(name, content)
        try:
            again = partial(self._post_in, sender, channel, message, Slot(caller.origin, slot))
            posted = await again()
        except BaseException:
            caller.free_slot(slot, name, content)
            raise
        caller.posted.append(again)
        if posted.differs:
            caller.log.soon(WARNING, _sent_before(message))

    async def _post_in(
        self, sender: Sender, channel: str, message: Payload, slot: Slot | None
    ) -> Posted:
        try:
            return await self.outbox.post_once(channel, sender, message, slot)
        except OutboxFull as full:
            raise Refused(str(full)) from full


def _send_name(channel: str, to_addr: str) -> str:
    return f"send\0{channel}\0{to_addr}"


def _sent_before(message: Payload) -> str:
    what = (
        f"a message to {shown(message['to_addr'])}" if message["in_reply_to"] is None else "a reply"
    )
    return (
        f"{what} is not sent: the message in progress was handled before, until the server was "
        "ended, and then"
        " another one was sent in its place"
    )


def _go(caller: Caller) -> dict[str, Any]:
    return {"go": go_metadata(caller.account, caller.app)}


def _channel_of(caller: Caller, endpoint: str) -> str:
    channel = caller.setting(OutboundSettings).endpoints.get(endpoint)
    if channel is None:
        raise Refused(f"Endpoint {shown(endpoint)} not configured")
    return channel


def _allowed_metadata(caller: Caller, given: Any) -> dict[str, Any]:
    if given is None or given == {}:
        return {}
    allowed = caller.setting(OutboundSettings).allowed_helper_metadata
    if not isinstance(given, dict):
        raise Refused("'helper_metadata' must be object or null.")
    if not allowed:
        raise Refused("'helper_metadata' is not allowed")
    if missing_from(given, allowed):
        raise Refused(
            f"'helper_metadata' may only contain the following keys: {', '.join(allowed)}"
        )
    return given
