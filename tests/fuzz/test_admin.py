"""The admin port under bytes of any kind: after each example the service lives, a neighbour is
answered, no error was one of ours.
"""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources import fence

from .living import Living, folder_in, living

PATIENCE = 60.0  # seconds for an answer: the machine may be busy

WORDS = (
    "", "phone", "acct", "nobody", "0", "1", "-1", "9" * 5000, "%00", "%ff", "%ed%a0%bd",
    "%F0%9F%98%80", "..", "%2F", "%2e%2e", "a b", "é", "*",
    "true", "null", "nan", "1e999", "0x10", "%0d%0aX: y", "{}", "[]", "+27", "wall=5s", "wall=nan",
    "heap=1MiB", "commands=0", "thandi AND (", "*:*",
    "name:/[a-z]{1000}/", "limit", "cursor",
)  # fmt: skip
PATHS = (
    "/", "/livez", "/readyz", "/metrics", "/console.js", "/v1/info", "/v1/apps", "/v1/apps/{}/logs",
    "/v1/apps/{}/limits", "/v1/apps/{}/push",
    "/v1/sandboxes", "/v1/sandboxes/{}/kill", "/v1/reload", "/v1/traces", "/v1/traces/{}",
    "/v1/recordings/{}", "/v1/deadletters", "/v1/outbox", "/v1/outbox/{}", "/v1/outbox/{}/{}",
    "/v1/deadletters/{}", "/v1/deadletters/{}/retry", "/v1/accounts/{}/contacts",
    "/v1/accounts/acct/contacts/{}", "/{}", "//{}",
    "http://{}/v1/apps", "http://[{}",
)  # fmt: skip
QUERIES = ("limit", "cursor", "query", "app", "what_if", "follow", "notable", "verbose", "")
METHODS = (
    "GET",
    "GET",
    "GET",
    "POST",
    "POST",
    "PUT",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "PRI",
    "get",
    "G\u00c9T",
    "",
    "CONNECT",
)
HEADERS = (
    "Content-Length: 0", "Content-Length: 5", "Content-Length: -1",
    "Content-Length: 99999999999999999999", "Content-Length: x",
    "Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Transfer-Encoding: chunked, chunked",
    "Connection: close",
    "Connection: keep-alive", "Connection: Upgrade", "Upgrade: h2c", "HTTP2-Settings: \xff\xff!!",
    "Upgrade: websocket",
    "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Extensions: \xff",
    "Expect: 100-continue", "Expect: \xff",
    "Origin: http://[", "Origin: null", "Host: [", "Host: \xff", "Host: localhost",
    "Authorization: Bearer \xff", "Authorization: \xff",
    " folded", "X : y", "X", ": y", "X: \0", "Accept-Encoding: gzip, \xff", "Range: bytes=0-",
    "Content-Type: \xff", "Cookie: " + "a" * 9000,
)  # fmt: skip

word = st.sampled_from(WORDS) | st.text(max_size=6)
value: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from(("\ud83d", "\udc00\ud83d", "x" * 300, "+27820000001", 10**30, -(10**400),
        float("nan"))),
    lambda inner: st.lists(inner,
        max_size=3) | st.dictionaries(st.text(max_size=4) | st.just("\ud83d"), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
contact = st.dictionaries(
    st.sampled_from(("key", "name", "msisdn", "groups", "extra", "subscription", "extras-a",
        "created_at", "dob", "nome")), value, max_size=4
)  # fmt: skip
payload = (
    st.fixed_dictionaries({"contacts": st.lists(contact | value, max_size=4) | value})
    | st.fixed_dictionaries({"addrs": st.lists(value, max_size=4)})
    | st.fixed_dictionaries({"group": value}, optional={"addrs": value})
    | value
).map(lambda made: json.dumps(made).encode()) | st.sampled_from(
    (b"", b"[" * 5000, b'{"a":' * 3000, b"9" * 5000, b"\xff", b"\xef\xbb\xbf{}",
        b'{"addrs": ["a"], "addrs": []}', b'{"group": "a", "group": 5}', b"NaN", b"{")
)  # fmt: skip


@st.composite
def request(draw: st.DrawFn) -> bytes:
    """A request that is almost valid."""
    path = draw(st.sampled_from(PATHS)).replace("{}", draw(word))
    query = "&".join(
        f"{draw(st.sampled_from(QUERIES))}={draw(word)}" for _ in range(draw(st.integers(0, 2)))
    )
    if "follow=1" in query or "follow=true" in query:
        query = ""  # has no end
    body = draw(payload)
    headers = draw(st.lists(st.sampled_from(HEADERS), max_size=3))
    framing = draw(st.integers(0, 5))
    if framing == 1:
        headers.append("Transfer-Encoding: chunked")
        cut = draw(st.integers(0, len(body)))
        body = (
            b"".join(
                b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:cut], body[cut:]) if part
            )
            + b"0\r\n\r\n"
        )
    elif framing > 1:
        headers.append(f"Content-Length: {len(body)}")
    if draw(st.integers(0, 9)):
        headers.insert(0, "Host: localhost")
    version = draw(st.sampled_from(("HTTP/1.1",) * 6 + ("HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "")))
    target = path + (f"?{query}" if query else "")
    if draw(st.integers(0, 3)):
        target = "".join(
            char if "!" <= char <= "~" else f"%{ord(char) & 255:02x}" for char in target
        )
    lines = [f"{draw(st.sampled_from(METHODS))} {target} {version}", *headers]
    return "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + body


@st.composite
def conversation(draw: st.DrawFn) -> bytes:
    """What one client sends: requests, whole or bent, one after the other, or anything."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=400))
    data = b"".join(draw(st.lists(request(), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 3)) if kind < 5 else 0):
        at, less = draw(st.integers(0, len(data))), draw(st.integers(0, 5))
        data = data[:at] + draw(st.binary(max_size=5)) + data[at + less :]
    return data


def exchange(port: int, data: bytes, cuts: int = 1) -> bytes:
    """Send in a number of pieces; return all that comes until the server closes."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client, suppress(OSError):
        step = max(len(data) // cuts, 1)
        for start in range(0, len(data), step):
            client.sendall(data[start : start + step])
        client.shutdown(socket.SHUT_WR)
        while part := client.recv(1 << 16):
            answer += part
    return answer


NEIGHBOUR = b"GET /v1/apps HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def lives(service: Living, data: bytes, cuts: int = 1) -> None:
    """An example: what came back is HTTP or nothing, nothing was an error of ours, and neighbours
    on both ports are answered.
    """
    before, port = fence.tally.copy(), service.service.admin_port
    answer = exchange(port, data, cuts)
    assert not answer or answer.startswith(b"HTTP/1.1 "), answer[:200]
    assert b"HTTP/1.1 500" not in answer
    assert exchange(port, NEIGHBOUR).startswith(b"HTTP/1.1 200 ")
    assert fence.tally == before


def fuzz(tmp_path: Path, examples: int) -> None:
    """Hold a number of conversations with one service."""
    with living(folder_in(tmp_path)) as service:

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(conversation(), st.integers(1, 4))
        def run(data: bytes, cuts: int) -> None:
            lives(service, data, cuts)

        run()
        service.is_well()


FOUND = [
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nHTTP2-Settings: \xff\xff!!\r\n\r\n",
    (
        b"GET / HTTP/1.1\r\nHost: [\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Extensions: \xe9\r\n\r\n"
    ),
    b"GET /v1/apps HTTP/1.1\r\nHost: localhost\r\nOrigin: http://[\r\n\r\n",
    b"POST /v1/sandboxes/" + b"9" * 5000 + b"/kill HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /v1/traces?limit=" + b"9" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /v1/apps/phone/limits?what_if=wall="
    + b"9" * 400
    + b"s HTTP/1.1\r\nHost: localhost\r\n\r\n",
    (
        b"POST /v1/accounts/acct/contacts HTTP/1.1\r\nHost: localhost\r\n"
        b'Content-Length: 34\r\n\r\n{"contacts":[{"key":"\\ud83d"}]}    '
    ),
    (
        b"POST /v1/accounts/acct/contacts HTTP/1.1\r\nHost: localhost\r\n"
        b'Content-Length: 23\r\n\r\n{"contacts":[10000.0e5]'
    ),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nno chunks",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffff\r\n",
]
"""What ended the service, or a request, before."""


def test_what_was_found_stays_found(tmp_path: Path) -> None:
    """Each input that once did harm."""
    with living(folder_in(tmp_path)) as service:
        for data in FOUND:
            lives(service, data)
        service.is_well()


def test_requests_of_any_kind(tmp_path: Path) -> None:
    """For some seconds."""
    fuzz(tmp_path, 250)


@pytest.mark.slow
def test_requests_of_any_kind_for_long(tmp_path: Path) -> None:
    """For minutes."""
    fuzz(tmp_path, 10_000)
