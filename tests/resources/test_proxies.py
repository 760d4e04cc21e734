"""Behind an HTTP proxy: hosts are judged in every spelling, tunnels carry TLS, and the proxy's
credentials are the operator's.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator

import httpx2
import pytest
import trustme

from resources.stores.egress import Egress, EgressError, Forbidden, open_egress

from .proxy_server import proxy_server
from .raw_server import get, is_idle, no_socket_left, plain, policy, raw_server

PRIVATE = [
    "127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "127.0.1", "0", "127.0.0.1.",
    "127%2e0%2e0%2e1", "%31%32%37.0.0.1",
    "127。0。0。1", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
    "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "10.0.0.1",
    "100.100.100.200", "168.63.129.16", "[fec0::1]", "[fd00:ec2::254]",
    "[fe80::1%25eth0]", "localhost", "LOCALHOST.", "localhost%2e", "a.localhost",
    "localhost.localdomain", "ip6-localhost",
    "metadata.google.internal", "METADATA.google.internal.", "metadata%2egoogle.internal",
    "metadata。google。internal", "metadata", "metadata.", "metadata.goog", "instance-data",
    "a.metadata.goog", "instance-data.ec2.internal", "ip-10-0-0-1.eu-west-1.compute.internal",
    "host.docker.internal", "kubernetes.default.svc.cluster.local", "printer.local", "intranet",
    "router.home.arpa", "metadata.tencentyun.com",
]  # fmt: skip
NO_HOST = [
    "4294967296",
    "256.1.1.1",
    "1.2.3.4.5",
    "0178.1",
    "a.0x7f",
    "127.0.0.1%00",
    "a%2fb",
    "a%40127.0.0.1",
    "evil%5c127.0.0.1",
    "%zz",
]


@pytest.fixture
async def egress() -> AsyncIterator[Egress]:
    with no_socket_left():
        async with open_egress() as egress:
            yield egress


@pytest.fixture(scope="module")
def tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1", "service.example.org").configure_cert(context)
    return context


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_no_spelling_of_a_private_address_passes(egress: Egress, scheme: str) -> None:
    """The proxy is not even asked."""
    async with proxy_server() as proxy:
        rules = policy(proxy=proxy.url)
        for host in PRIVATE:
            with pytest.raises((Forbidden, httpx2.InvalidURL)):
                await get(egress, f"{scheme}://{host}/", rules)
        for host in NO_HOST:
            with pytest.raises(
                (EgressError, httpx2.InvalidURL), match=r"is not a host name|Invalid IPv4"
            ):
                await get(egress, f"{scheme}://{host}/", rules)
        assert proxy.requests == []


async def test_the_proxy_gets_the_plain_spelling(egress: Egress) -> None:
    """So that it cannot read another host into it."""
    async with proxy_server() as proxy:
        rules = policy(proxy=proxy.url)
        for written, plain_one in (
            ("134744072", "8.8.8.8"),
            ("8%2e8.2056", "8.8.8.8"),
            ("EXAMPLE%2eorg", "example.org"),
        ):
            assert (await get(egress, f"http://{written}/a?b=c#d", rules)).body == "forwarded"
            first, host = proxy.requests[-1].split(b"\r\n")[:2]
            assert first == f"GET http://{plain_one}/a?b=c HTTP/1.1".encode()
            assert host == f"Host: {plain_one}".encode()


async def test_names_behind_a_proxy_are_judged_by_name(egress: Egress) -> None:
    """A rule with a network says nothing about a name that is looked up elsewhere."""
    async with proxy_server() as proxy:
        for allow, host, allowed in (
            ("10.0.0.0/8", "evil.example", False),
            ("10.0.0.0/8", "10.1.2.3", True),
            ("10.0.0.0/8", "167837955", True),
            ("0.0.0.0/0", "localhost", False),
            ("localhost", "localhost", True),
            ("*.google.internal", "metadata.google.internal", False),
            ("*.goog", "metadata.goog", False),
            ("169.254.0.0/16", "metadata", False),
            ("metadata.google.internal", "metadata.google.internal.", True),
            ("*.corp.internal", "hub.corp.internal", True),
            ("hub", "hub", True),
            ("*.example.org", "a.example.org", True),
            ("*.example.org", "example.org", False),
            ("hub.example.org:8000", "hub.example.org:8000", True),
            ("hub.example.org:8000", "hub.example.org", False),
            ("127.1", "127.0.0.1", True),
        ):
            rules = policy(allow, proxy=proxy.url)
            if allowed:
                assert (await get(egress, f"http://{host}/", rules)).body == "forwarded"
            else:
                with pytest.raises(Forbidden, match=r"http\.allow"):
                    await get(egress, f"http://{host}/", rules)


async def test_credentials_of_the_proxy_are_the_operators(
    egress: Egress, tls: ssl.SSLContext
) -> None:
    """What an app sets is dropped, over http and https; what the URL of the proxy has is sent, to
    the proxy alone.
    """
    headers = {
        "Proxy-Authorization": "Basic app",
        "Proxy-Connection": "keep-alive",
        "Authorization": "kept",
    }
    async with proxy_server() as proxy, raw_server(plain(b"ok"), tls=tls) as server:
        for user in ("", "user:p%40ss@"):
            rules = policy(proxy=f"http://{user}127.0.0.1:{proxy.port}")
            for url in (
                "http://service.example.org/",
                f"https://service.example.org:{server.port}/",
            ):
                await get(egress, url, rules, headers=headers, verify=False)
                head = proxy.requests[-1].lower()
                assert (b"proxy-authorization: basic " in head) is bool(user)
                assert not user or base64.b64encode(b"user:p@ss").lower() in head
                assert b"basic app" not in head
                assert b"proxy-connection" not in head
        assert len(server.requests) == 2
        for request in server.requests:
            assert b"Authorization: kept" in request
            assert b"roxy-" not in request


async def test_a_tunnel_is_kept_for_its_own_host(egress: Egress, tls: ssl.SSLContext) -> None:
    """Two requests, one tunnel; another host has another."""
    async with proxy_server() as proxy, raw_server(plain(b"ok"), tls=tls) as server:
        rules = policy(proxy=proxy.url)
        for host in ("service.example.org", "service.example.org", "other.example.org"):
            assert (
                await get(egress, f"https://{host}:{server.port}/", rules, verify=False)
            ).body == "ok"
        assert len(proxy.requests) == 2
        assert server.requests[0].startswith(b"GET / HTTP/1.1\r\nHost: service.example.org:")
        with pytest.raises(EgressError, match="the certificate is not trusted"):
            await get(egress, f"https://service.example.org:{server.port}/", rules)
        assert is_idle(egress)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
            "the proxy answers 403 to CONNECT service.example.org:443",
        ),
        (b"HTTP/1.1 407 x\r\n\r\n", "the proxy answers 407"),
        (b"HTTP/1.1 200 OK\r\n\r\njunk", "more than its answer to CONNECT"),
        (b"SSH-2.0\r\n", "not valid HTTP"),
        (b"HTTP/1.1 100 x\r\n\r\n" * 100, "more than 32 informational"),
    ],
)
async def test_a_tunnel_that_is_not_made(egress: Egress, answer: bytes, reason: str) -> None:
    """The reason says what the proxy said."""
    async with proxy_server() as proxy:
        proxy.tunnel_answer = answer
        with pytest.raises(EgressError, match=reason):
            await get(egress, "https://service.example.org/", policy(proxy=proxy.url))
        assert is_idle(egress, kept=0)


async def test_a_proxy_over_tls_is_checked_whatever_the_app_says(
    egress: Egress, tls: ssl.SSLContext
) -> None:
    """VERIFY_NONE is about the app's server, not about the operator's proxy."""
    async with proxy_server(tls) as proxy:
        for url in ("http://service.example.org/", "https://service.example.org/"):
            with pytest.raises(EgressError, match="the certificate is not trusted"):
                await get(
                    egress, url, policy(proxy=f"https://127.0.0.1:{proxy.port}"), verify=False
                )
        assert proxy.requests == []


@pytest.mark.parametrize("place", ["http://127.0.0.1:99999", "http://[", "http://a b"])
async def test_a_place_that_cannot_be_reached_is_a_reason(egress: Egress, place: str) -> None:
    """A config that its check let through fails the request, with the setting's name."""
    with pytest.raises(EgressError, match=r"http\.connect_to"):
        await get(egress, "http://hub.example.org/", policy(connect_to={"hub.example.org": place}))
    with pytest.raises(EgressError, match=r"http\.proxy"):
        await get(egress, "http://hub.example.org/", policy(proxy=place))
