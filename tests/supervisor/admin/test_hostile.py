"""Hostile requests to the admin port: the answer says what is wrong, and nobody else notices."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from resources import fence
from supervisor.sandboxes.pool import Pool
from supervisor.service import Service

from ...gateway_client import connect
from ...service import Folder, running
from .admin_client import CONTACTS, PUSH, ask, raw

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
