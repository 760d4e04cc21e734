"""Connections that are used again: when they are, when not, and what happens when the server has
had enough of them.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import httpx2
import pytest
import trio
import trio.testing
import trustme

from resources.stores.egress import Egress, EgressError, open_egress
from resources.stores.egress.client import CONNECTIONS
from resources.stores.egress.kept import KEEP_ALIVE, KEPT_MAX

from .raw_server import (
    LOCAL,
    OK,
    Reply,
    get,
    is_idle,
    no_socket_left,
    plain,
    policy,
    raw_server,
)

ANSWER = plain(b"ok")


@pytest.fixture
async def egress() -> AsyncIterator[Egress]:
    with no_socket_left():
        async with open_egress() as egress:
            yield egress


@pytest.fixture(scope="module")
def tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


async def ask(
    egress: Egress, url: str, times: int = 1, method: str = "GET", *, verify: bool = True
) -> list[str]:
    return [(await get(egress, url, method=method, verify=verify)).body for _ in range(times)]


async def test_a_connection_is_used_again(egress: Egress) -> None:
    """Also after redirects, answers without a body, chunks, and HEAD."""
    replies = [
        ANSWER,
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 302 x\r\nLocation: /\r\nContent-Length: 4\r\n\r\ngone",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 x\r\n\r\n",
        b"HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n",
    ]
    async with raw_server(
        lambda _, index: Reply(replies[index] if index < 5 else ANSWER)
    ) as server:
        assert await ask(egress, server.url, 4) == ["ok", "ok", "", ""]
        assert (server.connections, len(server.requests)) == (1, 5)
        assert is_idle(egress, kept=1)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("then", ["reset", "close"])
async def test_a_kept_connection_that_died_is_replaced(
    egress: Egress, method: str, then: str
) -> None:
    """The request is sent once more, with its body, whatever its method: all 20 succeed."""
    async with raw_server(lambda *_: Reply(ANSWER, then)) as server:
        for _ in range(20):
            answer = await get(
                egress, server.url, method=method, content=None if method == "GET" else b"body"
            )
            assert answer.body == "ok"
        assert all(request.endswith(b"body") for request in server.requests if method != "GET")


async def test_a_server_that_hangs_up_when_it_is_asked_again(egress: Egress) -> None:
    """Its idle time-out met our request: nothing had arrived, so it is sent once more."""
    async with raw_server(
        lambda _, index: Reply(ANSWER) if index == 0 else Reply(b"", "close")
    ) as server:
        assert await ask(egress, server.url, 20) == ["ok"] * 20
        assert server.connections == 20
        assert len(server.requests) == 39
    async with raw_server(
        lambda number, _: Reply(ANSWER) if number == 0 else Reply(b"", "close")
    ) as server:
        assert await ask(egress, server.url) == ["ok"]
    # A new connection that dies is not tried again.
    async with raw_server(Reply(b"", "close")) as server:
        with pytest.raises(EgressError, match="closed the connection without an answer"):
            await get(egress, server.url)
        assert server.connections == 1


async def test_a_request_whose_answer_has_begun_is_not_sent_again(egress: Egress) -> None:
    """One byte is enough: the server has taken it."""
    async with raw_server(
        lambda _, index: Reply(ANSWER) if index == 0 else Reply(b"H", "close")
    ) as server:
        await get(egress, server.url)
        with pytest.raises(EgressError, match="cut off in its headers"):
            await get(egress, server.url, method="POST", content=b"x")
        assert len(server.requests) == 2


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_a_body_that_ends_too_soon_is_cut_off(egress: Egress, then: str) -> None:
    """However the connection ends: a reason, and no second request."""
    async with raw_server(Reply(OK + b"Content-Length: 9\r\n\r\nabc", then)) as server:
        with pytest.raises(EgressError, match=r"^the answer was cut off: "):
            await get(egress, server.url)
        assert len(server.requests) == 1


JUNK = {
    "204 with a body": b"HTTP/1.1 204 No Content\r\n\r\nok",
    "304 with a body": b"HTTP/1.1 304 x\r\nContent-Length: 2\r\n\r\nok",
    "more than its length": ANSWER + b"junk",
    "an answer that nobody asked for": ANSWER + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    "more after chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n\r\n",
    "two lengths": OK
    + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "Connection: close": plain(b"ok", b"Connection: Keep-Alive, Close"),
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "a redirect with more": b"HTTP/1.1 302 x\r\nLocation: /\r\nContent-Length: 0\r\n\r\njunk",
}


@pytest.mark.parametrize("name", JUNK)
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
async def test_what_comes_after_an_answer_spoils_no_other(
    egress: Egress, tls: ssl.SSLContext, name: str, secure: bool
) -> None:
    """The connection is closed; each of 10 requests has its own answer."""
    first = [True]

    def script(*_: int) -> Reply:
        if name == "a redirect with more":
            first[0] = not first[0]
            return Reply(ANSWER if first[0] else JUNK[name])
        return Reply(JUNK[name])

    async with raw_server(script, tls=tls if secure else None) as server:
        url = server.url.replace("http:", "https:") if secure else server.url
        for body in await ask(egress, url, 10, verify=not secure):
            assert body in ("", "ok")
        assert is_idle(egress)
        assert server.connections >= 10


async def test_junk_that_comes_late_closes_too(egress: Egress, tls: ssl.SSLContext) -> None:
    """Also inside of TLS, where the socket itself has been read already."""
    for context in (None, tls):
        more, sent = trio.Event(), trio.Event()

        async def serve(
            transport: trio.SocketStream,
            context: ssl.SSLContext | None = context,
            more: trio.Event = more,
            sent: trio.Event = sent,
        ) -> None:
            stream = trio.SSLStream(transport, context, server_side=True) if context else transport
            try:
                await stream.receive_some()
                await stream.send_all(ANSWER)
                await more.wait()
                await stream.send_all(plain(b"evil"))
                sent.set()
                await stream.receive_some()
            except trio.BrokenResourceError:
                pass
            finally:
                transport.socket.close()

        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listeners[0].socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, serve, listeners)
            url = f"{'https' if context else 'http'}://127.0.0.1:{port}/"
            assert (await get(egress, url, verify=False)).body == "ok"
            *_, kept = egress._kept._all
            connection = kept.connection
            assert await connection.is_usable()
            more.set()
            await sent.wait()
            while not connection.socket.is_readable():
                await trio.sleep(0.001)
            assert (await get(egress, url, verify=False)).body == "ok"
            nursery.cancel_scope.cancel()


class Collected:
    """Takes what TLS would send."""

    def __init__(self) -> None:
        self.data = b""

    async def send_all(self, data: bytes) -> None:
        self.data += data


@pytest.mark.parametrize("garbage", [b"", b"no TLS at all"])
async def test_a_second_answer_in_the_same_packet_is_seen(
    egress: Egress, tls: ssl.SSLContext, garbage: bytes
) -> None:
    """A TLS record of its own, received with the one before and not decrypted yet: the socket is
    empty.
    """

    async def serve(transport: trio.SocketStream) -> None:
        stream = trio.SSLStream(transport, tls, server_side=True)
        try:
            await stream.receive_some()
            stream.transport_stream = collected = Collected()
            await stream.send_all(ANSWER)
            if not garbage:
                await stream.send_all(plain(b"evil"))
            await transport.send_all(collected.data + garbage)
            await transport.receive_some()
        except trio.BrokenResourceError:
            pass
        finally:
            transport.socket.close()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        url = f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
        assert await ask(egress, url, 5, verify=False) == ["ok"] * 5
        nursery.cancel_scope.cancel()


async def test_idle_connections_are_closed_in_time(nursery: trio.Nursery) -> None:
    """After their seconds, at the next request of any app; more than so many of an app are not
    kept.
    """
    clock = trio.testing.MockClock()

    async def main() -> None:
        async with raw_server(ANSWER) as server, open_egress() as egress:
            for _ in range(2):
                await get(egress, server.url)
                clock.jump(KEEP_ALIVE - 1)
            assert server.connections == 1
            await get(egress, server.url, app="other")
            assert is_idle(egress, kept=2)
            clock.jump(KEEP_ALIVE + 1)
            await get(egress, server.url, app="other")
            assert is_idle(egress, kept=1)
            assert server.connections == 3
            async with trio.open_nursery() as inner:
                for _ in range(KEPT_MAX + 10):
                    inner.start_soon(get, egress, server.url)
            assert is_idle(egress, kept=KEPT_MAX + 1)

    with no_socket_left():
        await trio.to_thread.run_sync(lambda: trio.run(main, clock=clock))


async def test_an_app_has_so_many_connections_at_a_time(egress: Egress) -> None:
    """More of its requests wait; another app's do not."""
    open_now: list[int] = []
    release = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        open_now.append(1)
        await stream.receive_some()
        await release.wait()
        await stream.send_all(plain(b"ok", b"Connection: close"))
        stream.socket.close()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        async with trio.open_nursery() as asking:
            for _ in range(CONNECTIONS + 20):
                asking.start_soon(get, egress, url)
            while len(open_now) < CONNECTIONS:
                await trio.sleep(0.001)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(open_now) == CONNECTIONS
            async with raw_server(ANSWER) as server:
                assert (await get(egress, server.url, app="other")).body == "ok"
            release.set()
        assert len(open_now) == CONNECTIONS + 20
        assert is_idle(egress)
        nursery.cancel_scope.cancel()


async def test_a_kept_connection_is_for_equal_requests_alone(egress: Egress) -> None:
    """Not for another app, another policy that forbids its address, another host on the same
    address, or another check.
    """
    async with raw_server(ANSWER) as server:
        await get(egress, server.url)
        await get(egress, server.url, app="other")
        await get(egress, f"http://localhost:{server.port}/", policy("localhost"))
        assert server.connections == 3
        with pytest.raises(EgressError, match=r"is not in this app's http\.allow"):
            await get(egress, server.url, policy("10.0.0.0/8"))
        assert server.connections == 3
        await get(egress, server.url)  # the one that was forbidden is gone
        assert server.connections == 4
        await get(egress, server.url, policy("127.0.0.1"))
        assert server.connections == 4


async def test_large_requests_and_early_answers(egress: Egress) -> None:
    """A server that answers and hangs up before it has read everything: its answer counts."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(100)
        await stream.send_all(
            b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig"
        )
        await stream.send_eof()
        with trio.move_on_after(5):
            while await stream.receive_some(65536):
                pass
        stream.socket.close()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
        answer = await egress.fetch(
            "app", httpx2.Request("POST", url, content=b"x" * 5_000_000), LOCAL, verify=True
        )
        assert (answer.code, answer.body) == (413, "big")
        nursery.cancel_scope.cancel()
