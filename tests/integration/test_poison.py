"""What a server that is killed leaves behind: a message that was in progress sends nothing twice,
and does not kill it for ever.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from attrs import define, field

from ..gateway_client import PATIENCE, connect, inbound
from ..programs import Server, serve
from ..service import Folder

BACK_END = 'http = { allow = ["127.0.0.1"] }'
ASK = (
    "api.request('http.get', {url: 'http://127.0.0.1:%d/' + command.msg.content}, function"
    " () { %s });"
)
REPLY = (
    "api.request('outbound.reply_to', {content: %s, in_reply_to: command.msg.message_id},"
    " function () { %s });"
)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@define
class BackEnd:
    """A web server that notes who calls, and answers nothing to those who ask for what is in
    `silent`.
    """

    port: int = 0
    called: list[str] = field(factory=list)
    silent: set[str] = field(factory=set)
    _news: trio.Condition = field(factory=trio.Condition)

    async def wait_for(self, path: str, times: int) -> None:
        """Wait until a path was asked for `times` times."""
        with trio.fail_after(30):
            async with self._news:
                while self.called.count(path) < times:
                    await self._news.wait()

    async def handle(self, stream: trio.SocketStream) -> None:
        head = b""
        try:
            while b"\r\n\r\n" not in head:
                data = await stream.receive_some(4096)
                if not data:
                    return
                head += data
            path = head.split(b" ")[1].decode().lstrip("/")
            self.called.append(path)
            async with self._news:
                self._news.notify_all()
            if path in self.silent:
                await stream.receive_some(1)  # until the caller is dead
            else:
                await stream.send_all(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
                )
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def back_end() -> AsyncIterator[BackEnd]:
    stub = BackEnd()
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, stub.handle, 0, host="127.0.0.1"))
        stub.port = listener.socket.getsockname()[1]
        yield stub
        nursery.cancel_scope.cancel()


async def send(server: Server, *names: str) -> None:
    """Send messages and wait until they are accepted; the connection is closed then."""
    async with connect(server.gateway) as client:
        for name in names:
            await client.send(inbound(name, f"+{name}"))
            await client.expect("accepted", message_id=name)


async def letters(server: Server, query: str = "") -> list[dict[str, Any]]:
    async with httpx2.AsyncClient(
        base_url=server.admin, trust_env=False, timeout=PATIENCE
    ) as admin:
        answer = await admin.get(f"/v1/deadletters{query}")
        assert answer.status_code == 200, answer.text
        return list(answer.json()["deadletters"])


def kill(server: Server) -> None:
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()


async def dies_of(
    folder: Folder, stub: BackEnd, path: str, times: int, first: Callable[..., Any] | None = None
) -> None:
    """Start the server and kill it when the back end is called."""
    with serve(folder.config, expect_code=None) as server:
        if first is not None:
            await first(server)
        await stub.wait_for(path, times)
        kill(server)


async def test_a_message_that_kills_the_server_is_set_aside(folder: Folder) -> None:
    """In progress at three deaths: not run at the fourth start; kept, counted, told to whoever
    asks; others are run, and so is it on request.
    """
    async with back_end() as stub:
        stub.silent.add("bad")
        done = REPLY % ("'done'", "api.done();")
        folder.app(
            "phone", ASK % (stub.port, done), f'{BACK_END}\nlimits = {{ fallback_reply = "sorry" }}'
        )
        await dies_of(folder, stub, "bad", 1, lambda server: send(server, "good", "bad"))
        for life in (2, 3):
            await dies_of(folder, stub, "bad", life)
        with serve(folder.config) as server:
            async with connect(server.gateway) as client:
                outbounds = [await client.expect("outbound") for _ in range(2)]
                said = {frame["msg"]["in_reply_to"]: frame["msg"]["content"] for frame in outbounds}
                assert said == {"good": "done", "bad": "sorry"}
                assert (await client.expect("outcome", message_id="bad"))[
                    "outcome"
                ] == "dead_letter"
                (letter,) = await letters(server)
                assert (letter["app"], letter["account"], letter["channel"]) == (
                    "phone",
                    "acct",
                    "phone",
                )
                assert (letter["kind"], letter["message_id"], letter["attempts"]) == (
                    "message",
                    "bad",
                    3,
                )
                assert "3 times" in letter["reason"]
                assert stub.called.count("bad") == 3
                async with httpx2.AsyncClient(
                    base_url=server.admin, trust_env=False, timeout=PATIENCE
                ) as admin:
                    ready = await admin.get("/readyz?app=phone")
                    assert ready.status_code == 200
                    assert "app phone: dead letters: 1" in ready.text
                    assert (
                        'jsbox_dead_letters{app="phone"} 1.0' in (await admin.get("/metrics")).text
                    )
                    whole = (await admin.get(f"/v1/deadletters/{letter['id']}")).json()
                    assert whole["entry"]["content"] == "bad"
                    stub.silent.clear()
                    assert (
                        await admin.post(f"/v1/deadletters/{letter['id']}/retry")
                    ).status_code == 200
                    assert (await admin.get(f"/v1/deadletters/{letter['id']}")).status_code == 404
                assert (await client.expect("outcome", message_id="bad"))["outcome"] == "ok"
                assert (await client.expect("outbound"))["msg"]["content"] == "done"
                assert await letters(server) == []


async def test_a_stop_in_order_is_no_death(folder: Folder) -> None:
    """A run that is cut off by SIGTERM, twice over, is not held against its message, however
    often.
    """
    async with back_end() as stub:
        stub.silent.add("slow")
        folder.text += '[journal]\nattempts = 1\n[gateway]\ndrain = "100ms"\n'
        folder.app("phone", ASK % (stub.port, REPLY % ("'done'", "api.done();")), BACK_END)
        for life in (1, 2, 3):
            with serve(folder.config) as server:
                if life == 1:
                    await send(server, "slow")
                await stub.wait_for("slow", life)
                server.process.send_signal(signal.SIGTERM)
                assert await trio.to_thread.run_sync(server.process.wait) == 0
        stub.silent.clear()
        with serve(folder.config) as server:
            async with connect(server.gateway) as client:
                assert (await client.expect("outbound"))["msg"]["content"] == "done"
                assert await letters(server) == []


SEND = (
    "api.request('outbound.send_to', {to_addr: '%s', content: %s, endpoint: 'default'},"
    " function () { %s });"
)
COUNTED = "api.request('kv.incr', {key: 'runs'}, function (n) { %s });"
SENDS_AND_HANGS = COUNTED % (
    REPLY % ("'reply ' + n.value", SEND % ("+1", "'one ' + n.value", SEND % ("+2", "'two'", "%s")))
)


async def test_what_was_sent_before_a_kill_is_not_sent_again(folder: Folder) -> None:
    """Killed after a reply and two sends: the run that follows sends them under the same ids, also
    in other words and another order.
    """
    async with back_end() as stub:
        stub.silent.add("m1")
        more = 'endpoints = { default = "phone" }\n' + BACK_END
        folder.app("phone", SENDS_AND_HANGS % (ASK % (stub.port, "api.done();")), more)
        with serve(folder.config, expect_code=None) as server:
            async with connect(server.gateway, acknowledge=False) as client:
                await client.send(inbound("m1", "+m1"))
                first = [await client.expect("outbound") for _ in range(3)]
                await stub.wait_for("m1", 1)
                kill(server)
        ids = {frame["msg"]["message_id"]: frame["msg"]["content"] for frame in first}
        assert sorted(ids.values()) == ["one 1", "reply 1", "two"]
        stub.silent.clear()
        with serve(folder.config) as server:
            async with connect(server.gateway) as client:
                again = [await client.expect("outbound") for _ in range(3)]
                assert {
                    frame["msg"]["message_id"]: frame["msg"]["content"] for frame in again
                } == ids
                outcome = await client.expect("outcome", message_id="m1")
                assert outcome["outcome"] == "ok"
                await client.say("m2", message_id="m2")  # whatever m1 sent has come before this
                assert {f["msg"]["content"] for f in client.frames if f["type"] == "outbound"} == {
                    "reply 3",
                    "one 3",
                    "two",
                }
            async with httpx2.AsyncClient(
                base_url=server.admin, trust_env=False, timeout=PATIENCE
            ) as admin:
                text = (await admin.get("/v1/apps/phone/logs")).text
                assert text.count("is not sent: the message in progress was handled before") == 2
