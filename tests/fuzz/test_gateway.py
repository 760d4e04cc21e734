"""Clients of the gateway that send anything: each ends alone, and its neighbours are answered."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from ..examples import examples
from ..gateway_client import PATIENCE
from .living import Living, folder_in, living

KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
HEAD = (
    b"Host: localhost",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Version: 13",
    KEY,
)
OPENING = b"\r\n".join((b"GET /v1 HTTP/1.1", *HEAD, b"Sec-WebSocket-Protocol: jsbox.v1", b"", b""))
HELLO = {"type": "hello", "channel": "phone", "outcomes": True}
MESSAGE = {
    "message_id": "m",
    "from_addr": "+27",
    "to_addr": "8181",
    "content": "hi",
    "session_event": "resume",
}
MOMENT = 0.03  # seconds in which a server usually has dealt with what came
MASK = b"\x01\x02\x03\x04"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Living]:
    with living(folder_in(tmp_path_factory.mktemp("gateway"))) as service:
        yield service


def send(
    service: Living, pieces: Sequence[bytes], *, cut: bool = False, until: bytes | None = None
) -> bytes:
    """Send the pieces one after the other, hear what is said to them, say that there will be no
    more, and read until the server closes; or be gone. What is heard is waited for until it has
    `until`, or for a moment.
    """
    heard = bytearray()
    with socket.create_connection(("127.0.0.1", service.service.gateway.port), PATIENCE) as client:
        with suppress(OSError):  # the server has had enough
            for piece in pieces:
                client.sendall(piece)
                while (
                    piece == OPENING and b"\r\n\r\n" not in heard and (data := client.recv(65536))
                ):
                    heard += data  # a client waits for the answer to its handshake
            client.settimeout(MOMENT if until is None else PATIENCE)
            with suppress(TimeoutError):
                while (data := client.recv(65536)) and (until is None or until not in heard + data):
                    heard += data
                heard += data
            if cut:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return bytes(heard)
            client.shutdown(socket.SHUT_WR)
            client.settimeout(PATIENCE)
            while data := client.recv(65536):
                heard += data
    return bytes(heard)


ODD = st.sampled_from(
    [b"", b"\0", b"\xff", b"\xc3\xa9", b"\xf0\x9f\x98\x80", b" ", b"\t", b"\r", b"\n", b",", b";",
        b"websocket, h2c", b"xn--a",
     b"[::1", b"http://[", b"null", b"-1", b"9" * 400, b"a" * 9000,
     b"permessage-deflate; server_max_window_bits=99", b"jsbox.v1\xe9"]
) | st.binary(max_size=8)  # fmt: skip
NAMES = st.sampled_from(
    [b"Host", b"Origin", b"Upgrade", b"Connection", b"Sec-WebSocket-Version", b"Sec-WebSocket-Key",
        b"Authorization",
     b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions", b"Content-Length",
     b"Transfer-Encoding", b"Expect"]
) | ODD  # fmt: skip
LINES = st.tuples(NAMES, st.sampled_from([b": ", b":", b"", b" : ", b"\r\n "]), ODD).map(b"".join)


@st.composite
def handshakes(draw: st.DrawFn) -> bytes:
    """A request that is nearly one for a WebSocket."""
    verb = draw(st.sampled_from([b"GET", b"GET", b"GET", b"POST", b"PRI", b""]) | ODD)
    path = draw(st.sampled_from([b"/v1", b"/v1", b"/v1?x", b"/", b"*", b"//", b"/v1/\xff"]) | ODD)
    version = draw(
        st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9"]) | ODD
    )
    kept = [line for line in HEAD if draw(st.integers(0, 9))]
    lines = draw(st.permutations(kept + draw(st.lists(LINES, max_size=4))))
    ending = draw(st.sampled_from([b"\r\n\r\n", b"\r\n\r\n", b"\n\n", b"\r\n", b""]))
    return b" ".join((verb, path, version)) + b"\r\n" + b"\r\n".join(lines) + ending


def frame(
    payload: bytes, first: int = 0x81, size: int | None = None, *, is_masked: bool = True
) -> bytes:
    """A WebSocket frame; `first`: FIN, reserved bits and opcode; `size`: its claimed length."""
    size = len(payload) if size is None else size
    mask = 0x80 if is_masked else 0
    if size < 126:
        head = struct.pack("!BB", first, mask | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, mask | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask | 127, size)
    if not is_masked:
        return head + payload
    return head + MASK + bytes(byte ^ MASK[n % 4] for n, byte in enumerate(payload))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = (
    "type",
    "id",
    "msg",
    "event",
    "delivery",
    "channel",
    "window",
    "token",
    "only_own",
    "endpoint",
    "outcomes",
)
TYPES = st.sampled_from(["hello", "inbound", "inbound", "event", "ack", "", "outbound"])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A frame of the protocol that is nearly right."""
    msg = {
        **MESSAGE,
        **draw(
            st.dictionaries(
                st.sampled_from([*MESSAGE, "helper_metadata", "timestamp", "x"]), VALUES, max_size=2
            )
        ),
    }
    event = {"event_id": "e", "event_type": "ack", "user_message_id": "m", "sent_message_id": "s"}
    event |= draw(
        st.dictionaries(
            st.sampled_from([*event, "delivery_status", "timestamp"]), VALUES, max_size=2
        )
    )
    value = {
        "type": draw(TYPES),
        "id": "1",
        "msg": msg,
        "event": event,
        "delivery": 1,
        "channel": "phone",
    }
    value |= draw(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=2))
    data = json.dumps(value).encode()
    at, more, less = draw(
        st.tuples(
            st.integers(0, len(data)),
            st.sampled_from([b"", b"", b'"', b"\\ud83d", b"\xff", b"[" * 300]),
            st.integers(0, 2),
        )
    )
    return data[:at] + more + data[at + less if more else at :]


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """A frame whose head may be wrong, too."""
    payload = draw(bodies() | st.binary(max_size=130))
    if draw(st.integers(0, 2)):
        return frame(payload)
    first = draw(
        st.sampled_from([0x01, 0x80, 0x00, 0x82, 0x88, 0x89, 0x8A, 0x8B, 0xC1, 0xF1, 0x09, 0x08])
        | st.integers(0, 255)
    )
    size = draw(
        st.none()
        | st.integers(0, 200)
        | st.sampled_from([126, 1 << 16, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
    )
    return frame(payload, first, size, is_masked=draw(st.booleans()))


@examples(40, 4000)
@given(
    pieces=st.lists(handshakes() | st.binary(max_size=200), min_size=1, max_size=3),
    cut=st.booleans(),
)
@example(pieces=[b"GET / HTTP/1.1\r\nHost: xn--1-zhc.evil.example:8430\r\n\r\n"], cut=False)
@example(
    pieces=[
        OPENING.replace(b"Host: localhost", b"Host: localhost\r\nOrigin: http://[")
        + frame(json.dumps(HELLO).encode())
    ],
    cut=False,
)
def test_any_request(server: Living, pieces: list[bytes], cut: bool) -> None:
    """Before there is a WebSocket."""
    send(server, pieces, cut=cut)
    server.is_well()


@examples(40, 4000)
@given(
    pieces=st.lists(frames() | st.binary(max_size=64), min_size=1, max_size=6),
    hello=st.booleans(),
    cut=st.booleans(),
)
@example(
    pieces=[
        frame(
            json.dumps({"type": "inbound", "id": "1", "msg": MESSAGE})
            .replace('"hi"', "[" * 950 + "]" * 950)
            .encode()
        )
    ],
    hello=True,
    cut=False,
)
@example(
    pieces=[
        frame(
            json.dumps({"type": "inbound", "id": "1", "msg": MESSAGE})
            .replace("hi", "\\ud83d")
            .encode()
        )
    ],
    hello=True,
    cut=False,
)
@example(
    pieces=[
        frame(
            b'{"type":"event","id":"1","event":{"event_id":"e","event_type":"ack",'
            b'"user_message_id":"m","delivery_status":true}}'
        )
    ],
    hello=True,
    cut=False,
)
def test_any_frames(server: Living, pieces: list[bytes], hello: bool, cut: bool) -> None:
    """After the handshake, with a hello or without one."""
    send(
        server, [OPENING, *([frame(json.dumps(HELLO).encode())] if hello else []), *pieces], cut=cut
    )
    server.is_well()


def test_a_right_client_is_served(server: Living) -> None:
    """So that the tests above do try what they are meant to try."""
    hello = json.dumps(HELLO).encode()
    message = json.dumps(
        {"type": "inbound", "id": "1", "msg": MESSAGE | {"message_id": "right"}}
    ).encode()
    heard = send(server, [OPENING, frame(hello), frame(message)], until=b'"outcome"')
    assert heard.startswith(b"HTTP/1.1 101 ")
    missing = [
        kind
        for kind in (b'"welcome"', b'"accepted"', b"you said hi", b'"outcome"')
        if kind not in heard
    ]
    assert missing == [], heard
