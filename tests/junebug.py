"""A scripted Junebug: takes what is posted to it, and answers as the test says; and what it posts
to us, byte by byte.
"""

from __future__ import annotations

import json
import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from attrs import define, field

from .service import eventually


@define
class Reply:
    """An answer: a status with a body, or `raw` bytes. `wait`: it is not given before. `cut`: the
    connection is closed instead.
    """

    status: int = 201
    body: Any = None
    headers: str = ""
    raw: bytes | None = None
    wait: trio.Event | None = None
    cut: bool = False

    def bytes(self, number: int) -> bytes:
        if self.raw is not None:
            return self.raw
        body = self.body
        if body is None:
            body = {"status": self.status, "result": {"message_id": f"jb{number}"}}
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"HTTP/1.1 {self.status} X\r\n{self.headers}Content-Type: application/json\r\n"
        return f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text


@define(eq=False)
class Junebug:
    """`posts`: the bodies that came, in order. `heads`: their heads. `script`: the next answers;
    after them all is taken. `by_content`: the answers for single messages. `described`: what it
    says of the channel.
    """

    port: int = 0
    posts: list[dict[str, Any]] = field(factory=list)
    heads: list[str] = field(factory=list)
    script: deque[Reply] = field(factory=deque)
    described: Reply = field(factory=lambda: Reply(200, body={"result": {}}))
    by_content: dict[str, deque[Reply]] = field(factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jb/channels/c1"

    @property
    def contents(self) -> list[str]:
        return [post["content"] for post in self.posts]

    async def has(self, count: int) -> None:
        await eventually(lambda: len(self.posts) >= count)

    async def serve(self, stream: trio.SocketStream) -> None:
        buffer = b""
        with trio.CancelScope() as scope:
            try:
                while True:
                    while b"\r\n\r\n" not in buffer:
                        data = await stream.receive_some()
                        if not data:
                            return
                        buffer += data
                    head, _, buffer = buffer.partition(b"\r\n\r\n")
                    lines = head.decode().lower().split("\r\n")
                    if lines[0].startswith("get "):
                        await stream.send_all(self.described.bytes(0))
                        continue
                    (length,) = [int(one[15:]) for one in lines if one.startswith("content-length")]
                    while len(buffer) < length:
                        buffer += await stream.receive_some()
                    body, buffer = json.loads(buffer[:length]), buffer[length:]
                    self.heads.append(head.decode())
                    self.posts.append(body)
                    if not await self._answer(stream, body, len(self.posts)):
                        return
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                scope.cancel()
            finally:
                await trio.aclose_forcefully(stream)

    async def _answer(self, stream: trio.SocketStream, body: dict[str, Any], number: int) -> bool:
        script = self.by_content.get(body["content"]) or self.script
        reply = script.popleft() if script else Reply()
        if reply.wait is not None:
            await reply.wait.wait()
        if reply.cut:
            return False
        await stream.send_all(reply.bytes(number))
        return reply.raw is None


@asynccontextmanager
async def junebug(port: int = 0) -> AsyncIterator[Junebug]:
    """A Junebug that listens."""
    (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
    one = Junebug(listener.socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, one.serve, [listener])
        yield one
        nursery.cancel_scope.cancel()


@define
class Answer:
    """What we answered."""

    status: int
    headers: dict[str, str]
    body: Any


async def ask(port: int, request: bytes, tls: ssl.SSLContext | None = None) -> Answer:
    """Send a request as it is; read the answer to its end."""
    stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", port)
    if tls is not None:
        stream = trio.SSLStream(stream, tls, server_hostname="127.0.0.1", https_compatible=True)
    async with stream:
        await stream.send_all(request)
        data = b""
        while True:
            head, end, body = data.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:])
            if end and len(body) >= int(headers.get("content-length", 0)):
                return Answer(int(lines[0].split()[1]), headers, json.loads(body) if body else None)
            part = await stream.receive_some()
            assert part, data
            data += part


def request(
    path: str, body: Any, token: str | None = None, method: str = "POST", headers: str = ""
) -> bytes:
    """A request as Junebug makes it."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    authorization = f"Authorization: {token}\r\n" if token else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{authorization}{headers}"
    return (
        f"{head}Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode()
        + text
    )


def message(name: str, sender: str = "+27821", **fields: Any) -> dict[str, Any]:
    """A message of a user, as Junebug posts it; `name` is its id and its content."""
    data = fields.pop("channel_data", {"session_event": "new"})
    return {
        "message_id": name, "content": name, "from": sender, "to": "*120*1#", "group": None,
        "channel_id": "c1", "timestamp": "2026-01-02 03:04:05.678900", "reply_to": None,
        "channel_data": data,
    } | fields  # fmt: skip
