"""A gateway client for tests: sends frames as they are, keeps what comes, and acknowledges what it
is told to.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import trio
from attrs import define, field
from trio_websocket import ConnectionClosed, WebSocketConnection

from supervisor.client.websocket import open_websocket

Frame = dict[str, Any]
PATIENCE = 120.0  # seconds until what does not come is given up, on however slow a machine


def inbound(name: str, from_addr: str = "+1", **fields: Any) -> Frame:
    """A message that begins a session; `name` is its id, its frame's id and its content."""
    msg = {
        "message_id": name,
        "from_addr": from_addr,
        "to_addr": "1",
        "content": name,
        "session_event": "new",
    }
    return {"type": "inbound", "id": name, "msg": msg | fields}


@define(eq=False)
class Client:
    """One connection. `frames` has everything received, in order."""

    socket: WebSocketConnection
    acknowledge: bool = True
    frames: list[Frame] = field(factory=list)
    closed: ConnectionClosed | None = None
    _news: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)

    async def send(self, frame: Frame | str) -> None:
        await self.socket.send_message(frame if isinstance(frame, str) else json.dumps(frame))

    async def expect(self, kind: str, seconds: float = PATIENCE, **fields: Any) -> Frame:
        """The first frame, received already or still to come, of this type and with these fields;
        it is taken out.
        """
        return await self.expect_that(
            lambda frame: (
                frame["type"] == kind
                and all(frame.get(key) == value for key, value in fields.items())
            ),
            seconds,
        )

    async def expect_that(
        self, matches: Callable[[Frame], bool], seconds: float = PATIENCE
    ) -> Frame:
        with trio.move_on_after(seconds):
            while True:
                for frame in self.frames:
                    if matches(frame):
                        self.frames.remove(frame)
                        return frame
                if self.closed is not None:
                    raise AssertionError(f"closed: {self.closed}; had {self.frames}")
                await self._news.park()
        raise AssertionError(f"no such frame in {seconds} s; had {self.frames}")

    async def expect_close(self, seconds: float = PATIENCE) -> int:
        """The close code."""
        with trio.fail_after(seconds):
            while self.closed is None:
                await self._news.park()
        return int(self.closed.reason.code)

    async def say(
        self,
        content: str | None,
        session_event: str | None = None,
        *,
        seconds: float = PATIENCE,
        endpoint: str | None = None,
        **msg: Any,
    ) -> tuple[Frame, list[Frame]]:
        """One inbound message: the outcome frame, and the outbound messages that replied to it."""
        message = {
            "message_id": uuid4().hex,
            "from_addr": "+27831234567",
            "to_addr": "8181",
            "content": content,
        }
        message |= {"session_event": session_event} | msg
        frame = {"type": "inbound", "id": message["message_id"], "msg": message}
        await self.send(frame | ({"endpoint": endpoint} if endpoint else {}))
        answer = await self.expect_that(lambda f: f.get("id") == message["message_id"], seconds)
        assert answer["type"] == "accepted", answer
        outcome = await self.expect("outcome", seconds, message_id=message["message_id"])
        replies = [
            f["msg"]
            for f in self.frames
            if f["type"] == "outbound" and f["msg"]["in_reply_to"] == message["message_id"]
        ]
        return outcome, replies

    async def _receive(self) -> None:
        while True:
            try:
                frame = json.loads(await self.socket.get_message())
                if frame["type"] == "outbound" and self.acknowledge:
                    await self.send({"type": "ack", "delivery": frame["delivery"]})
            except ConnectionClosed as closed:
                self.closed = closed
                self._news.unpark_all()
                return
            self.frames.append(frame)
            self._news.unpark_all()


@asynccontextmanager
async def connect(
    url: str,
    channel: str | None = "phone",
    *,
    acknowledge: bool = True,
    headers: list[tuple[bytes, bytes]] | None = None,
    **hello: Any,
) -> AsyncIterator[Client]:
    """A client that has said hello (unless `channel` is None)."""
    async with (
        open_websocket(url, ["jsbox.v1"], headers or []) as socket,
        trio.open_nursery() as nursery,
    ):
        client = Client(socket, acknowledge)
        nursery.start_soon(client._receive)
        if channel is not None:
            await client.send({"type": "hello", "channel": channel, "outcomes": True} | hello)
            await client.expect_that(lambda frame: frame["type"] in ("welcome", "error"))
        yield client
        nursery.cancel_scope.cancel()
