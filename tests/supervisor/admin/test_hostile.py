"""Hostile requests to the admin port: the answer says what is wrong, and nobody else notices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from resources import fence
from resources.stores.contacts import Change
from resources.text import clean
from supervisor.admin.bodies import BODY_MAX, PAGE_BYTES
from supervisor.admin.strict_json import Wrong, parse, problem_in
from supervisor.observe import CommandServed
from supervisor.sandboxes.pool import Pool
from supervisor.service import Service

from ...gateway_client import connect
from ...lag import lag, step_bound
from ...service import ECHO, Folder, running

CONTACTS = "/v1/accounts/acct/contacts"
PUSH = "/v1/apps/phone/push"
LOOP_MAX = step_bound()


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    folder = Folder(tmp_path)
    folder.app("phone", ECHO)
    async with running(folder) as service:
        yield service


async def ask(
    service: Service, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, Any]:
    """The status and the JSON (else the text) of an answer."""
    async with httpx2.AsyncClient(
        base_url=service.admin_url, trust_env=False, headers=headers
    ) as client:
        answer = await client.request(method, path, content=body or None)
    try:
        return answer.status_code, answer.json()
    except ValueError:
        return answer.status_code, answer.text


async def raw(service: Service, request: bytes) -> bytes:
    """The answer to some bytes, up to the close."""
    async with await trio.open_tcp_stream("127.0.0.1", service.admin_port) as stream:
        await stream.send_all(request)
        await stream.send_eof()
        data = b""
        with trio.fail_after(60):
            while more := await stream.receive_some(1 << 20):
                data += more
    return data


HALVES = [
    {"key": "\ud83d", "msisdn": "+27820000001"},
    {"key": "a", "msisdn": "\udc00"},
    {"key": "a", "name": "cut \ud83d"},
    {"key": "a", "groups": ["g", "\ud800"]},
    {"key": "a", "extra": {"x": "\ud83d"}},
    {"key": "a", "extra": {"\ud83d": "x"}},
    {"key": "a", "extras-\ud83d": "x"},
    {"\ud83d": "x"},
    {"key": "a", "extra": {"x": {"y": ["\ud83d"]}}},
    "\ud83d",
]
ODD = [
    '{"key": "a", "extra": {"n": ' + "9" * 5000 + "}}",
    '{"key": "a", "extra": {"n": 99999999999999999999}}',
    '{"key": "a", "extra": {"n": 1e999}}',
    '{"key": "a", "extra": {"n": NaN}}',
    '{"key": "a", "key": "b"}',
    '{"key": "a", "extra": {"x": 1, "x": 2}}',
    '{"key": "a", "extra": ' + '{"x":' * 70 + "1" + "}" * 70 + "}",
    '{"key": "a", "extra": ' + "[" * 300 + "]" * 300 + "}",
    json.dumps({"key": "k" * 300}),
    '{"nothing": 1}',
    "5",
    "null",
    "[]",
]


async def test_a_contact_that_cannot_be_is_an_error_by_its_index(service: Service) -> None:
    """The others of its request are written."""
    for wrong in (*map(json.dumps, HALVES), *ODD):
        body = (
            '{"contacts": [{"key": "one", "name": "Zoë \\ud83d\\ude00"}, '
            + wrong
            + ', {"key": "three"}]}'
        )
        status, answer = await ask(service, "POST", CONTACTS, body.encode())
        assert (status, answer["written"], list(answer["errors"])) == (200, 2, ["1"]), (
            wrong,
            answer,
        )
        assert "internal" not in answer["errors"]["1"], wrong
    status, page = await ask(service, "GET", CONTACTS)
    assert [(one["key"], one["name"]) for one in page["contacts"]] == [
        ("one", "Zoë \U0001f600"),
        ("three", None),
    ]


DEEP = b"[" * 100_000
BODIES = [
    (b"", 400),
    (b"{", 400),
    (b"5", 400),
    (b"[]", 400),
    (b"null", 400),
    (DEEP, 400),
    (b'{"addrs":' + DEEP, 400),
    (b'{"a":' * 50_000, 400),
    (b"9" * 5000, 400),
    (b'{"addrs": [' + b"9" * 5000 + b"]}", 400),
    (b"\xff", 400),
    (b"\xef\xbb\xbf{}", 400),
    (b'{"addrs": ["caf\xe9"]}', 400),
    (b'{"addrs": ["\\ud83d"]}', 400),
    (b'{"group": "\\ud800"}', 400),
    (b'{"group": "\\ud83d\\ude00"}', 404),
    (b'{"addrs": NaN}', 400),
    (b'{"addrs": [Infinity]}', 400),
    (b'{"addrs": ["a"], "x": 1e999}', 400),
    (b'{"addrs": ["a"], "addrs": ["b"]}', 400),
    (b'{"group": "a", "group": "a"}', 400),
    (b'{"addrs": ["a"], "group": "a"}', 400),
    (b'{"addrs": [""]}', 400),
    (b'{"addrs": ["a", 5]}', 400),
    (b'{"addrs": "abc"}', 400),
    (b'{"addrs": {"a": 1}}', 400),
    (b'{"group": ""}', 400),
    (b'{"group": 5}', 400),
    (b'{"addrs": ["' + b"a" * 100_000 + b'"]}', 400),
    (b'{"addrs": [' + b'"1",' * 200_000 + b'"1"]}', 400),
    (b'{"addrs": [' + b"1," * 500_000 + b"1]}", 400),
    (b" " * (BODY_MAX + 1), 413),
    (b'{"addrs": ["' + b"\\u0041" * 2_000_000 + b'"]}', 400),
    (b'{"a": "' + b"\\" * 100_001, 400),
]


async def test_a_body_that_cannot_be_used_is_refused(service: Service) -> None:
    """With what was expected, in a few words of valid text; nothing is an internal error, nothing
    is pushed or written.
    """
    before = fence.tally["admin"]
    for body, code in BODIES:
        for path in (PUSH, CONTACTS):
            status, answer = await ask(service, "POST", path, body)
            assert status == (400 if path == CONTACTS and code == 404 else code), (
                body[:100],
                answer,
            )
            assert "expected" in answer["error"] or code in {404, 413}, (body[:100], answer)
            assert len(answer["error"]) < 1000
            assert clean(answer["error"]) == answer["error"]
    assert fence.tally["admin"] == before
    assert (await ask(service, "GET", CONTACTS))[1]["contacts"] == []


async def test_the_address_that_is_wrong_is_named(service: Service) -> None:
    """By its index."""
    for value in (b'"\\ud83d"', b"5", b'""', b"1e999"):
        status, answer = await ask(
            service, "POST", PUSH, b'{"addrs": ["+271", "+272", %s]}' % value
        )
        assert status == 400
        assert answer["error"].startswith("addrs[2]: ")


LONG = "9" * 5000
PATHS = [
    ("GET", f"/v1/traces?limit={LONG}", 400),
    ("GET", "/v1/traces?limit=\u0663", 400),
    ("GET", "/v1/traces?limit=-1", 400),
    ("GET", f"/v1/traces?limit={LONG}&limit=1", 200),
    ("GET", f"/v1/traces/{LONG}", 404),
    ("GET", "/v1/traces?app=%00", 404),
    ("POST", f"/v1/sandboxes/{LONG}/kill", 404),
    ("POST", "/v1/sandboxes/-1/kill", 404),
    ("POST", "/v1/sandboxes/\u0663/kill", 404),
    ("POST", "/v1/sandboxes/1e5/kill", 404),
    ("GET", f"/v1/apps/phone/logs?limit={LONG}", 400),
    ("GET", "/v1/apps/phone/logs?limit=%ff", 400),
    ("GET", f"/v1/apps/phone/limits?what_if=wall={LONG[:400]}s", 400),
    ("GET", f"/v1/apps/phone/limits?what_if=commands={LONG}", 400),
    ("GET", f"/v1/apps/phone/limits?what_if=memory={LONG[:400]}GiB", 400),
    ("GET", "/v1/apps/phone/limits?what_if=wall=nan", 400),
    ("GET", f"{CONTACTS}?limit={LONG}", 400),
    ("GET", f"{CONTACTS}?cursor={LONG}", 400),
    ("GET", f"{CONTACTS}?cursor=99999999999999999", 400),
    ("GET", f"{CONTACTS}?query=%ed%a0%bd", 200),
    ("GET", f"{CONTACTS}?query=" + "(" * 3000, 400),
    ("GET", f"{CONTACTS}/%00%0a", 404),
    ("GET", f"{CONTACTS}/{LONG}", 404),
    ("GET", "/v1/accounts/%ff/contacts", 400),
    ("GET", "/v1/accounts/a%2Fb/contacts", 404),
    ("GET", f"/v1/recordings/{LONG}", 404),
    ("GET", "/v1/recordings/%0d%0a", 404),
    ("GET", f"/v1/deadletters?limit={LONG}", 400),
    ("GET", f"/v1/deadletters?cursor={LONG}", 400),
    ("GET", f"/v1/deadletters/{LONG}", 404),
    ("POST", "/v1/deadletters/%00/retry", 404),
    ("DELETE", f"/v1/deadletters/{LONG}", 404),
    ("GET", "/v1/apps/", 404),
    ("GET", "/%2e%2e", 404),
    ("GET", "/console.js/", 404),
    ("GET", "/readyz?app=%00", 404),
    ("BREW", "/v1/apps", 405),
    ("OPTIONS", "/v1/apps", 405),
    ("HEAD", "/v1/apps", 200),
    ("PUT", PUSH, 405),
    ("GET", f"/{LONG}", 404),
]


async def test_a_path_that_leads_nowhere_is_said_to(service: Service) -> None:
    """Numbers of 5,000 digits, digits of other scripts, NUL, halves."""
    before = fence.tally["admin"]
    for method, path, code in PATHS:
        status, answer = await ask(service, method, path)
        assert status == code, (method, path[:100], answer)
        assert status < 400 or set(answer) == {"error"}, (path[:100], answer)
    assert fence.tally["admin"] == before


NAMES = (
    "[",
    "http://[",
    "http://[::1",
    "http://[x]",
    "a]b",
    "http://h:notaport",
    "\xff",
    "xn--1-zhc.evil",
    "null",
    "",
)


async def test_a_name_that_cannot_be_split_is_kept_out(service: Service) -> None:
    """403 for a malformed Host or Origin; what is open to all stays open."""
    paths = {
        b"/v1/apps": b"403",
        b"/": b"200",
        b"/livez": b"200",
        b"/readyz?verbose": b"200",
        b"/x/": b"403",
    }
    for value in NAMES:
        text = value.encode("latin-1")
        for path, code in paths.items():
            answer = await raw(service, b"GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (path, text))
            assert answer.split(b" ")[1] == code, (value, path, answer)
            answer = await raw(
                service, b"GET %s HTTP/1.1\r\nHost: localhost\r\nOrigin: %s\r\n\r\n" % (path, text)
            )
            assert answer.split(b" ")[1] == code, (value, path, answer)


async def test_what_nobody_expected_is_500_and_counted(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As JSON, counted once for `where="admin"`; the next request is answered."""

    def fails(*_: Any) -> None:
        raise KeyError("nobody expected this")

    before = fence.tally["admin"]
    with monkeypatch.context() as patch:
        patch.setattr(Pool, "sandboxes", fails)
        assert await ask(service, "GET", "/v1/sandboxes") == (500, {"error": "internal error"})
    assert fence.tally["admin"] == before + 1
    assert (
        f'jsbox_internal_errors_total{{where="admin"}} {before + 1}.0'
        in (await ask(service, "GET", "/metrics"))[1]
    )
    assert (await ask(service, "GET", "/v1/sandboxes"))[0] == 200


async def test_readyz_says_states_not_names_to_whoever_has_no_token(tmp_path: Path) -> None:
    """It answers questions about an app only to clients with a token."""
    folder = Folder(tmp_path)
    digest = hashlib.sha256(b"t0ken").hexdigest()
    folder.text = folder.text.replace("[listen]\n", f'[listen]\nadmin_tokens = ["{digest}"]\n')
    folder.app("secret-name", "throw new Error('secret reason');", "pool = { trip_after = 1 }")
    async with running(folder) as service:
        async with connect(service.gateway_url, channel="secret-name") as gateway:
            await gateway.say("x", "new")
        right = {"Authorization": "Bearer t0ken"}
        for query in ("", "?verbose"):
            status, text = await ask(service, "GET", f"/readyz{query}")
            assert status == 200
            assert "secret" not in text
            assert str(tmp_path) not in text
            if query:
                assert "apps: 0 not ok" in text
                assert "redis: ok" in text
                assert (
                    "app secret-name: state: ok"
                    in (await ask(service, "GET", "/readyz?verbose", **right))[1]
                )
        assert (await ask(service, "GET", "/readyz?app=secret-name"))[0] == 401
        assert (await ask(service, "GET", "/readyz?app=nobody"))[0] == 401
        assert (await ask(service, "GET", "/readyz?app=secret-name", **right))[0] == 200
        await service.drain()
        assert await ask(service, "GET", "/readyz") == (503, "not ready:\nserver: not ok\n")


@asynccontextmanager
async def loop_watched() -> AsyncIterator[None]:
    """Fail if this thread works for too long between two passes of its event loop."""
    async with lag() as measured:
        yield
    assert measured.longest < LOOP_MAX


def body_of(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


async def test_large_contacts_come_in_pages_of_a_bounded_size(service: Service) -> None:
    """Fewer than were asked for; all of them, each once, by the cursor; by a query too. The loop
    goes on meanwhile.
    """
    large = "x" * 190_000
    new = [
        (
            f"k{n:02}",
            Change(
                set={
                    "name": "thandi",
                    "msisdn": f"+27{n:09}",
                    "extras-x": large,
                    "created_at": "2020-01-01 00:00:00",
                },
                groups=(),
            ),
        )
        for n in range(60)
    ]
    for start in range(0, 60, 10):
        assert (
            await service.stores.contacts.create_many("acct", new[start : start + 10], 1000) == {}
        )
    answers: list[list[bytes]] = []
    async with loop_watched():
        for query in ("", "&query=thandi"):
            answers.append([])
            cursor: str | None = "0"
            while cursor is not None:
                answers[-1].append(
                    await raw(service, get(f"{CONTACTS}?limit=1000&cursor={cursor}{query}"))
                )
                cursor = (
                    answers[-1][-1]
                    .rpartition(b'"cursor":')[2]
                    .strip(b'"}')
                    .decode()
                    .replace("null", "")
                    or None
                )
    for pages in answers:
        assert len(pages) > 1
        assert all(len(page) < PAGE_BYTES + 33 * 200_000 for page in pages)
        found = [contact for page in pages for contact in body_of(page)["contacts"]]
        assert [contact["key"] for contact in found] == [key for key, _ in new]
        assert [key for page in pages for key in body_of(page)["keys"]] == [key for key, _ in new]
        assert all(contact["extras-x"] == large for contact in found)


async def test_a_long_log_is_cut_to_a_bounded_size(service: Service) -> None:
    """The newest entries of it, without doubles though others are written meanwhile."""
    logbook = service.stores.logbook
    for n in range(900):
        await logbook.write("acct", "phone", 20, f"{n:04}" + "\u2603\x01" * 8000, 1000)
    async with loop_watched(), trio.open_nursery() as nursery:

        async def write() -> None:
            while True:
                await logbook.write("acct", "phone", 20, "meanwhile", 1000)

        nursery.start_soon(write)
        answer = await raw(service, get("/v1/apps/phone/logs?limit=10000"))
        nursery.cancel_scope.cancel()
    assert PAGE_BYTES < len(answer) < PAGE_BYTES + 33 * 100_000
    numbers = [
        entry["message"][:4]
        for entry in body_of(answer)["entries"]
        if entry["message"] != "meanwhile"
    ]
    assert numbers == sorted(set(numbers), reverse=True)
    assert numbers[0] == "0899"


async def test_a_large_import_does_not_stop_the_loop(service: Service) -> None:
    """16 MiB of contacts, and bodies that take long to parse."""
    rows = [
        {"key": f"k{n}", "name": "x", "extra": {f"e{m}": "v" * 100 for m in range(100)}}
        for n in range(1000)
    ]
    bodies = [
        json.dumps({"contacts": rows}).encode(),
        b'{"contacts": [' + b"{}," * 390_000 + b"{}]}",
        b'{"contacts": [{"name": "' + b"\\u0041" * 2_600_000 + b'"}]}',
        b'{"contacts": [{"groups": [' + b'"a",' * 390_000 + b'"a"]}]}',
    ]
    statuses = []
    async with loop_watched():
        for body in bodies:
            head = f"POST {CONTACTS} HTTP/1.1\r\nHost: localhost\r\n".encode()
            head += b"Content-Length: %d\r\n\r\n" % len(body)
            statuses.append((await raw(service, head + body))[:12])
    assert statuses == [b"HTTP/1.1 200", b"HTTP/1.1 400", b"HTTP/1.1 200", b"HTTP/1.1 200"]


async def test_a_thousand_apps_do_not_stop_the_loop(tmp_path: Path) -> None:
    """Their metrics, states, checks and names."""
    folder = Folder(tmp_path)
    (tmp_path / "x.js").write_text("api.on_inbound_message = function () {};")
    for n in range(1000):
        folder.text += (
            f'[apps.app-{n}]\naccount = "a{n % 7}"\njavascript = "x.js"\n'
            f'[channels.c{n}]\napp = "app-{n}"\n'
        )
    async with running(folder) as service:
        for n in range(1000):
            for outcome in ("ok", "app_error"):
                service.prometheus(CommandServed(f"app-{n}", "kv.get", outcome, 0.01))
        async with loop_watched():
            for path in (
                "/metrics",
                "/v1/apps",
                "/readyz?verbose",
                "/v1/sandboxes",
                "/v1/traces?limit=1000",
            ):
                answer = await raw(service, get(path))
                assert answer.startswith(b"HTTP/1.1 200 ")
                if path in ("/metrics", "/v1/apps", "/readyz?verbose"):
                    assert b"app-999" in answer


def test_json_is_read_strictly() -> None:
    """What is ambiguous or cannot be kept is named with its path."""
    for text, problem in {
        '{"a": [1, {"b": NaN}]}': "a[1].b: NaN is not a JSON number",
        '{"a": [1, {"b": 1, "b": 2}]}': "a[1]: the key 'b' is given twice",
        '{"a": -18446744073709551616}': "a: an integer of 20 digits is too large",
        '{"a": "\\ud83d"}': "a: half of a surrogate pair is no character",
        '{"\\ud83d": 1}': "half of a surrogate pair is no character (in the key '\\ud83d')",
        "-Infinity": "-Infinity is not a JSON number",
        "[" * 65 + "]" * 65: "[0]" * 64 + ": expected at most 64 levels of nesting",
        "[" * 64 + "]" * 64: "",
        '{"a": 18446744073709551615, "b": -9223372036854775808, "c": 1e308}': "",
        '{"d": "\\ud83d\\ude00"}': "",
    }.items():
        assert problem_in(parse(text.encode())) == problem
    assert isinstance(parse(b'{"a": 1, "a": 2}'), Wrong)
    for wrong in (b"", b"{", b"\xff", b"[" * 100_000, b"[1,]", b"'a'", b"\xef\xbb\xbf{}", b'"\n"'):
        with pytest.raises(ValueError, match="expected"):
            parse(wrong)
