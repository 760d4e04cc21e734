"""What is posted to a channel of type http: taken, refused, or no request at all."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import trio
import trio.testing
import trustme
from attrs import frozen

from resources.fence import tally
from supervisor.gateway.intake import Offer
from supervisor.gateway.junebug.link import JunebugLink

from ...gateway_client import connect
from ...junebug import ask, junebug, message, request
from ...service import eventually, running
from .junebug_rig import folder_for, post

TOKEN = "open sesame"
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()


async def test_a_post_before_the_channel_is_open_is_unavailable(tmp_path: Path) -> None:
    """The port is open a moment before the channels are."""
    async with junebug() as june, running(folder_for(tmp_path, june.url)) as service:
        find, service.gateway.link = service.gateway.link, lambda _: None
        answer = await ask(service.gateway.port, request("/channels/menu/messages", message("m1")))
        assert answer.status == 503
        service.gateway.link = find
        await post(service, message("m1"))
        await june.has(1)


async def test_a_post_that_waits_while_the_channel_ends_is_answered(tmp_path: Path) -> None:
    """At once: Junebug posts it again, perhaps to another server."""
    async with (
        junebug() as june,
        running(folder_for(tmp_path, june.url)) as service,
        trio.open_nursery() as nursery,
    ):
        link = service.channels.link("menu")
        assert isinstance(link, JunebugLink)
        offered = trio.Event()
        link.intake = Untaken(offered)
        answers = []

        async def ask_once() -> None:
            body = request("/channels/menu/messages", message("m1"))
            answers.append(await ask(service.gateway.port, body))

        nursery.start_soon(ask_once)
        await offered.wait()
        for channel in service.channels._running.values():
            channel.scope.cancel()
        await eventually(lambda: answers)
        assert answers[0].status == 503
        assert answers[0].headers["retry-after"] == "1"


@frozen
class Untaken:
    """An intake whose journal never answers."""

    offered: trio.Event

    def offer(self, _: Offer) -> None:
        self.offered.set()


WRONG = [
    ("/channels/menu/messages", b"{", 400, "the body is not JSON"),
    ("/channels/menu/messages", b'"\xff"', 400, "the body is not JSON"),
    ("/channels/menu/messages", b"[" * 5000, 400, "levels"),
    ("/channels/menu/messages", [1], 400, "body: expected a JSON object"),
    ("/channels/menu/messages", {"content": "x"}, 400, "from: expected the address of the user"),
    ("/channels/menu/messages", message("x", to=5), 400, "to: expected a string"),
    ("/channels/menu/messages", message("x", message_id=""), 400, "message_id: expected a string"),
    ("/channels/menu/messages", message("x", timestamp="soon"), 400, "timestamp: expected a date"),
    ("/channels/menu/messages", message("x", channel_data=[]), 400, "channel_data: expected an"),
    (
        "/channels/menu/messages",
        message("x", channel_data={"session_event": "start"}),
        400,
        "channel_data.session_event: expected null, new, resume or close",
    ),
    ("/channels/menu/messages", b"x" * 9000, 413, "at most 8192 bytes"),
    ("/channels/menu/events", {"event_type": "sold"}, 400, "event_type: expected one of"),
    ("/channels/menu/events", {"event_type": "submitted"}, 400, "message_id: expected the id"),
    ("/channels/menu", {}, 404, "expected /channels/NAME/messages"),
    ("/channels/menu/messages/x", {}, 404, "expected /channels/NAME/messages"),
    ("/channels/nobody/messages", {}, 404, "there is no channel 'nobody' here"),
    ("/channels/phone/messages", {}, 404, "there is no channel 'phone' here"),
]


async def test_what_is_wrong_is_answered_as_junebug_would(tmp_path: Path) -> None:
    """JSON with status, code and description, and the error by name; the port goes on."""
    async with junebug() as june, running(folder_for(tmp_path, june.url)) as service:
        port = service.gateway.port
        for path, body, status, text in WRONG:
            answer = await ask(port, request(path, body))
            assert answer.status == status, (path, body)
            assert answer.body["status"] == status
            assert {"code", "description"} <= answer.body.keys()
            assert text in answer.body["result"]["errors"][0]["message"]
        chunked = b"POST /channels/menu/messages HTTP/1.1\r\nHost: x\r\n"
        chunked += b"Transfer-Encoding: chunked\r\n\r\n"
        assert (await ask(port, chunked + b"3000\r\n" + b"x" * 0x3000)).status == 413
        get = await ask(port, request("/channels/menu/messages", b"", method="GET"))
        assert (get.status, get.headers["allow"]) == (405, "post")
        origin = request("/channels/menu/messages", message("x"), headers="Origin: http://evil\r\n")
        assert (await ask(port, origin)).status == 403
        await post(service, message("m1"))
        async with connect(service.gateway_url) as client:
            assert (await client.say("still there"))[0]["outcome"] == "ok"
        await june.has(1)


async def test_a_post_that_comes_in_pieces_and_two_on_one_connection(tmp_path: Path) -> None:
    """A byte at a time is as good as a whole; the connection is kept."""
    async with junebug() as june, running(folder_for(tmp_path, june.url)) as service:
        stream = await trio.open_tcp_stream("127.0.0.1", service.gateway.port)
        async with stream:
            for name in ("m1", "m2"):
                data = request("/channels/menu/messages/", message(name))
                for part in (data[:1], data[1:7], data[7:20], data[20:]):
                    await stream.send_all(part)
                    await trio.testing.wait_all_tasks_blocked()
                answer = b""
                while b'"duplicate":false' not in answer:
                    answer += await stream.receive_some()
        await june.has(2)


async def test_a_later_request_for_another_path_is_not_found(tmp_path: Path) -> None:
    """The first one of a connection showed that it is for channels; each is looked at."""
    async with junebug() as june, running(folder_for(tmp_path, june.url)) as service:
        before = tally["gateway.http"]
        stream = await trio.open_tcp_stream("127.0.0.1", service.gateway.port)
        async with stream:
            for path in ("/channels/", "/", "/x", "/other/menu/messages", "/channels"):
                await stream.send_all(request(path, message("m1")))
                answer = b""
                while not answer.endswith(b"}"):
                    answer += await stream.receive_some()
                assert answer.startswith(b"HTTP/1.1 404 "), (path, answer)
        assert tally["gateway.http"] == before


async def test_tokens(tmp_path: Path) -> None:
    """Token and Bearer, of those that the channel has; the token of an event opens nothing else."""
    async with (
        junebug() as june,
        running(folder_for(tmp_path, june.url, f'tokens = ["{DIGEST}"]')) as service,
    ):
        port, path = service.gateway.port, "/channels/menu/messages"
        own = service.stores.outbox.ids.token_of("menu")
        for token in (None, "Token nonsense", f"Basic {TOKEN}", f"Token {own}", "Token \xff"):
            answer = await ask(port, request(path, message("m1"), token))
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "token")
        for token in (f"Token {TOKEN}", f"bearer {TOKEN}"):
            assert (await ask(port, request(path, message("m1"), token))).status == 200
        event = {"event_type": "submitted", "message_id": "x"}
        path = "/channels/menu/events"
        for token, status in ((None, 401), (f"Token {own}", 200), (f"Token {TOKEN}", 200)):
            assert (await ask(port, request(path, event, token))).status == status


async def test_posts_over_tls(tmp_path: Path) -> None:
    """The same port, by https; Junebug is told so for its events."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with junebug() as june:
        folder = folder_for(tmp_path, june.url)
        listen = 'gateway = "127.0.0.1:0"\n'
        tls = 'certificate = "cert.pem"\nkey = "key.pem"\n'
        folder.text = folder.text.replace(listen, listen + tls)
        async with running(folder) as service:
            data = request("/channels/menu/messages", message("m1"))
            assert (await ask(service.gateway.port, data, context)).status == 200
            await june.has(1)
            base = f"https://127.0.0.1:{service.gateway.port}/channels/menu/events/"
            assert june.posts[0]["event_url"].startswith(base)


async def test_bytes_that_are_no_request_end_only_their_connection(tmp_path: Path) -> None:
    """Heads that lie, bodies that stop, and noise behind the path of a channel."""
    heads = [
        b"POST /channels/menu/messages HTTP/1.1\r\n\r\n",
        b"POST /channels/ HTTP/9.9\r\nHost: x\r\n\r\n",
        b"POST /channels/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /channels/menu/messages HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /channels/menu/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
        b"POST /channels/menu/messages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nz",
        b"X /channels/" + b"\x00" * 20_000,
        b"POST /channels/" + b"a" * 20_000,
        b"POST /channel",
    ]
    before = tally.total()
    async with junebug() as june, running(folder_for(tmp_path, june.url)) as service:
        for head in heads:
            stream = await trio.open_tcp_stream("127.0.0.1", service.gateway.port)
            async with stream:
                await stream.send_all(head)
                await stream.send_eof()
                while await stream.receive_some():
                    pass
        assert tally.total() == before
        await post(service, message("m1"))
        await june.has(1)
        await eventually(lambda: service.gateway.door.open == 0)


async def test_a_full_app_is_busy_not_lossy(tmp_path: Path) -> None:
    """503 with Retry-After, and Junebug's way of saying it; later it is taken."""
    async with junebug() as june, running(folder_for(tmp_path, june.url)) as service:
        service.is_draining = True
        answer = await ask(service.gateway.port, request("/channels/menu/messages", message("m1")))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert answer.body["result"]["errors"][0]["type"] == "Draining"
        service.is_draining = False
        await post(service, message("m1"))
        await june.has(1)
