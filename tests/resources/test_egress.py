"""HTTP to the outside, against real servers: the gate, redirects, limits, TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import trio
import trustme

from resources.stores.egress import (
    Egress,
    EgressError,
    Forbidden,
    Policy,
    TooLarge,
    open_egress,
)

from ..echo_server import echo_server
from .raw_server import policy


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with echo_server() as url:
        yield url


@pytest.fixture
async def egress() -> AsyncIterator[Egress]:
    async with open_egress() as egress:
        yield egress


LOCAL = policy("127.0.0.0/8")


async def get(
    egress: Egress, url: str, rules: Policy = LOCAL, method: str = "GET", **fields: Any
) -> tuple[int, str]:
    with trio.fail_after(60):
        answer = await egress.fetch(
            "app", httpx2.Request(method, url, **fields), rules, verify=True
        )
    return answer.code, answer.body


async def test_what_is_not_allowed_is_not_connected_to(egress: Egress, server: str) -> None:
    """By default no private address, under whatever name or spelling."""
    port = server.rpartition(":")[2]
    for host in (
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "localhost.",
    ):
        with pytest.raises(EgressError) as raised:
            await get(egress, f"http://{host}:{port}/echo", policy())
        assert isinstance(raised.value, Forbidden) or "not known" in str(raised.value), (
            host,
            raised.value,
        )
    with pytest.raises(
        Forbidden, match=r"127.0.0.1 is not a public address, and http.allow does not name it"
    ):
        await get(egress, f"{server}/echo", policy())
    with pytest.raises(Forbidden, match=r"127.0.0.1:\d+ is not in this app's http.allow"):
        await get(egress, f"{server}/echo", policy("hub.example.org"))


async def test_a_redirect_goes_through_the_same_gate(egress: Egress, server: str) -> None:
    """An allowed server cannot lead to one that is not."""
    port = int(server.rpartition(":")[2])
    only = policy(f"127.0.0.1:{port}")
    with echo_server() as other:
        assert (await get(egress, f"{server}/to/302?{server}/echo", only))[0] == 200
        with pytest.raises(Forbidden):
            await get(egress, f"{server}/to/302?{other}/echo", only)


async def test_a_name_that_leads_to_a_private_address_is_refused(
    egress: Egress, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: what counts is the address that the name has when the connection is made."""
    port = int(server.rpartition(":")[2])
    answers = ["93.184.216.34", "127.0.0.1"]

    def rebinding(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers[-1], 0))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with pytest.raises(Forbidden, match=r"innocent.example.org \(127.0.0.1\)"):
        await get(egress, f"http://innocent.example.org:{port}/echo", policy())
    assert (
        await get(
            egress, f"http://innocent.example.org:{port}/echo", policy("innocent.example.org")
        )
    )[0] == 200


async def test_connect_to_goes_elsewhere_and_keeps_host_and_path(
    egress: Egress, server: str
) -> None:
    """The operator names another place for a host; the request looks as if it had gone there.
    Others cannot use that door.
    """
    rules = policy(connect_to={"hub.example.org": server, "other.example.org:8000": server})
    code, body = await get(egress, "https://hub.example.org/echo?q=1", rules)
    assert code == 200
    said = __import__("json").loads(body)
    assert (said["headers"]["host"], said["path"], said["query"]) == (
        "hub.example.org",
        "/echo",
        "q=1",
    )
    assert (await get(egress, "http://other.example.org:8000/echo", rules))[0] == 200
    with pytest.raises(Forbidden):
        await get(egress, f"{server}/echo", rules)


async def test_two_apps_do_not_share_connections(egress: Egress, server: str) -> None:
    """A connection that one app may have is not lent to another that may not."""
    assert (await get(egress, f"{server}/echo"))[0] == 200
    with pytest.raises(Forbidden):
        await egress.fetch("other", httpx2.Request("GET", f"{server}/echo"), policy(), verify=True)


@pytest.mark.parametrize(
    ("code", "method", "seen"),
    [
        (301, "GET", "GET"),
        (302, "HEAD", None),
        (303, "POST", "GET"),
        (307, "GET", "GET"),
        (308, "GET", "GET"),
    ],
)
async def test_redirects_are_followed(
    egress: Egress, server: str, code: int, method: str, seen: str | None
) -> None:
    """GET and HEAD any of them; 303 makes a GET of a POST."""
    status, body = await get(egress, f"{server}/to/{code}?{server}/echo", method=method)
    assert status == 200
    assert seen is None or f'"method": "{seen}"' in body


@pytest.mark.parametrize(
    ("code", "method"), [(301, "POST"), (302, "PUT"), (307, "DELETE"), (308, "PATCH")]
)
async def test_other_methods_are_not_redirected(
    egress: Egress, server: str, code: int, method: str
) -> None:
    """A write is not repeated elsewhere; the reason says where it was sent."""
    with pytest.raises(EgressError, match=rf"{method} was redirected \({code}\) to http.*/echo"):
        await get(egress, f"{server}/to/{code}?{server}/echo", method=method)


async def test_redirects_have_an_end(egress: Egress, server: str) -> None:
    """A bounded number; a relative one is resolved; one to nowhere is an error."""
    assert (await get(egress, f"{server}/redirect/3", policy("127.0.0.0/8", redirects=3)))[0] == 200
    with pytest.raises(EgressError, match="more than 3 redirects"):
        await get(egress, f"{server}/redirect/4", policy("127.0.0.0/8", redirects=3))
    assert (await get(egress, f"{server}/to/302?/echo"))[0] == 200
    with pytest.raises(EgressError, match="expected a URL of the form"):
        await get(egress, f"{server}/to/302?ftp://127.0.0.1/")


async def test_credentials_stay_with_their_origin(egress: Egress, server: str) -> None:
    """Authorization and Cookie are not sent to another origin, other headers are."""
    headers = {"Authorization": "secret", "Cookie": "a=1", "X-Other": "kept"}
    with echo_server() as other:
        for target, present in ((server, True), (other, False)):
            _, body = await get(egress, f"{server}/to/302?{target}/echo", headers=headers)
            assert ("secret" in body) is present
            assert ("a=1" in body) is present
            assert "kept" in body


async def test_bodies_are_bounded_also_when_they_are_packed(egress: Egress, server: str) -> None:
    """The limit is on what comes out: a small bomb is refused without being unpacked."""
    small = policy("127.0.0.0/8", response_max=1000)
    assert (await get(egress, f"{server}/bytes/1000", small)) == (200, "x" * 1000)
    for path in ("bytes/1001", "chunked/5000", "bomb/100000000"):
        with pytest.raises(TooLarge, match="maximum of 1000 bytes allowed"):
            await get(egress, f"{server}/{path}", small)
    assert (await get(egress, f"{server}/bomb/1000", small))[1] == "\0" * 1000


@pytest.mark.parametrize(
    ("path", "body"), [("unicode", "Zoë ☃"), ("latin", "Zoë"), ("gzip", "unzipped"),
        ("binary", "\ufffd\ufffd\0\ufffdabc"), ("status/204", "")]
)  # fmt: skip
async def test_bodies_become_text(egress: Egress, server: str, path: str, body: str) -> None:
    """By the declared charset, else UTF-8; what is neither still gives a reply."""
    assert (await get(egress, f"{server}/{path}"))[1] == body


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/",
        "http://no-such-host.invalid/",
        "not a url",
        "ftp://x/",
        "http:///x",
        "",
    ],
)
async def test_what_cannot_be_had_says_why(egress: Egress, url: str) -> None:
    """In words, not in Python's."""
    with pytest.raises(EgressError) as raised:
        await get(egress, url)
    assert str(raised.value)
    assert "Error(" not in str(raised.value)


@asynccontextmanager
async def tls_server(context: ssl.SSLContext) -> AsyncIterator[int]:
    """Answers every request with 200 and no body."""

    async def answer(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            await stream.receive_some()
            await stream.send_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
            )
        except trio.BrokenResourceError:
            pass  # the client did not like the certificate

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, listeners)
        yield listeners[0].transport_listener.socket.getsockname()[1]  # type: ignore[attr-defined]
        nursery.cancel_scope.cancel()


async def test_certificates_are_checked_unless_the_app_says_not_to(egress: Egress) -> None:
    """An unknown authority is refused, in words; VERIFY_NONE alone takes it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with tls_server(context) as port:
        with pytest.raises(EgressError, match="the certificate is not trusted: "):
            await get(egress, f"https://127.0.0.1:{port}/")
        answer = await egress.fetch(
            "app", httpx2.Request("GET", f"https://127.0.0.1:{port}/"), LOCAL, verify=False
        )
        assert answer.body == "ok"


async def test_a_proxy_is_used_for_what_is_allowed(egress: Egress, server: str) -> None:
    """Requests go to the proxy whole; private addresses are refused before it is asked."""
    rules = policy(proxy=server)
    code, body = await get(egress, "http://service.example.org/echo", rules)
    assert (code, "service.example.org" in body) == (
        200,
        True,
    ) or code == 404  # the echo server sees an absolute URL
    for host in ("127.0.0.1", "10.0.0.1", "localhost", "169.254.169.254"):
        with pytest.raises(Forbidden):
            await get(egress, f"http://{host}/echo", rules)
