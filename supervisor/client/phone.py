"""A phone: a gateway client that sends one message at a time and waits until the app is done."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import trio
from attrs import define, field, frozen
from trio_websocket import ConnectionClosed, WebSocketConnection

from .websocket import open_websocket

EVENT_SECONDS = 5.0  # for an app to handle an event
SUBPROTOCOL = "jsbox.v1"


class Hung(Exception):
    """The app was not done in time."""


class Rejected(Exception):
    """The server did not take the message."""


@frozen
class Turn:
    """The result of one message: the app's replies, other messages that it sent over this channel,
    and the outcome. `ms`: milliseconds that the run took; `id`: of the message.
    """

    id: str

    replies: tuple[dict[str, Any], ...]
    others: tuple[dict[str, Any], ...]
    outcome: str
    ms: float

    @property
    def text(self) -> str:
        """The content of the last reply; empty if there was none."""
        return str(self.replies[-1]["content"] or "") if self.replies else ""

    @property
    def closed(self) -> bool:
        """Whether the app ended the session."""
        return any(reply["session_event"] == "close" for reply in self.replies)


@define(eq=False)
class Phone:
    """Made by `open_phone`.

    Attributes:
        last_outbound: The message_id of the app's last message.
        timestamp: Gives the timestamp of a message; None: that of the server.
        patience: Seconds that an answer may take, if more than a call allows.
    """

    socket: WebSocketConnection
    number: str
    dials: str
    _frames: trio.MemoryReceiveChannel[dict[str, Any]]
    timestamp: Callable[[], str] | None = None
    patience: float = 0.0
    in_session: bool = field(default=False, init=False)
    last_outbound: str | None = field(default=None, init=False)

    async def dial(self, seconds: float = 60.0) -> Turn:
        """Begin a session."""
        self.in_session = True
        return await self._exchange(None, "new", seconds)

    async def answer(self, text: str, seconds: float = 60.0) -> Turn:
        """Type something in the session."""
        return await self._exchange(text, "resume", seconds)

    async def send_sms(self, text: str, seconds: float = 60.0) -> Turn:
        """Send a message that belongs to no session."""
        return await self._exchange(text, None, seconds)

    async def hang_up(self, seconds: float = 60.0) -> Turn:
        """End the session from this side."""
        self.in_session = False
        return await self._exchange(None, "close", seconds)

    async def _exchange(
        self, content: str | None, session_event: str | None, seconds: float
    ) -> Turn:
        message_id = uuid4().hex
        message = {
            "message_id": message_id, "from_addr": self.number, "to_addr": self.dials,
            "content": content, "session_event": session_event,
        }  # fmt: skip
        if self.timestamp is not None:
            message["timestamp"] = self.timestamp()
        most = max(seconds, self.patience)
        return await self._ask({"type": "inbound", "id": message_id, "msg": message}, most)

    async def report(self, status: str, seconds: float = EVENT_SECONDS) -> Turn:
        """Report what became of the app's last message: delivered, failed or pending. Raises Hung
        also if the app takes no events: nothing comes back then.
        """
        event_id = uuid4().hex
        event = {
            "event_id": event_id, "event_type": "delivery_report", "delivery_status": status,
            "user_message_id": self.last_outbound,
        }  # fmt: skip
        return await self._ask({"type": "event", "id": event_id, "event": event}, seconds)

    async def _ask(self, inbound: dict[str, Any], seconds: float) -> Turn:
        """Send a message or an event, and wait until its run has ended."""
        message_id = inbound["id"]
        await self.socket.send_message(json.dumps(inbound))
        replies: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        with trio.move_on_after(seconds):
            async for frame in self._frames:
                match frame["type"]:
                    case "outbound":
                        self.last_outbound = frame["msg"]["message_id"]
                        mine = frame["msg"].get("in_reply_to") == message_id
                        (replies if mine else others).append(frame["msg"])
                    case "outcome" if frame["message_id"] == message_id:
                        outcome, ms = frame["outcome"], frame["ms"]
                        turn = Turn(message_id, tuple(replies), tuple(others), outcome, ms)
                        self.in_session = self.in_session and not turn.closed
                        return turn
                    case "rejected" if frame["id"] == message_id:
                        raise Rejected(f"{frame['code']}: {frame['detail']}")
                    case "error":
                        raise Hung(f"the gateway closed the connection: {frame['detail']}")
            raise Hung("the gateway closed the connection")
        raise Hung(f"the app was not done after {seconds:g} s")


async def _receive(phone: Phone, frames: trio.MemorySendChannel[dict[str, Any]]) -> None:
    socket = phone.socket
    async with frames:
        while True:
            try:
                frame = json.loads(await socket.get_message())
                if frame["type"] == "outbound":
                    ack = {"type": "ack", "delivery": frame["delivery"]}
                    await socket.send_message(json.dumps(ack))
            except ConnectionClosed:
                return
            await frames.send(frame)


@asynccontextmanager
async def open_phone(
    url: str,
    channel: str,
    number: str,
    dials: str,
    token: str | None = None,
    *,
    only_own: bool = False,
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[Phone]:
    """Connect to a gateway as a client of one channel. With `only_own` the phone gets nothing but
    replies to what it sends, so it can be used beside the channel's real client. `context` as in
    `open_websocket`.

    Raises:
        Rejected: The gateway does not let us in.
    """
    hello = {"type": "hello", "channel": channel, "window": 64, "outcomes": True}
    hello |= {"only_own": only_own} | ({"token": token} if token else {})
    async with open_websocket(url, [SUBPROTOCOL], context=context) as socket:
        await socket.send_message(json.dumps(hello))
        first = json.loads(await socket.get_message())
        if first["type"] != "welcome":
            raise Rejected(str(first.get("detail", first)))
        failure: Exception | None = None  # of the block; it must not come out in a group
        async with trio.open_nursery() as nursery:
            send, receive = trio.open_memory_channel[dict[str, Any]](1000)
            phone = Phone(socket, number, dials, receive)
            nursery.start_soon(_receive, phone, send)
            try:
                yield phone
            except Exception as error:  # noqa: BLE001  # raised again below
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
