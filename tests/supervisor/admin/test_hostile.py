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
PATHS: dict[tuple[str, int], list[str]] = {
    ("GET", 400): [
        f"/v1/traces?limit={LONG}",
        "/v1/traces?limit=\u0663",
        "/v1/traces?limit=-1",
        f"/v1/apps/phone/logs?limit={LONG}",
        "/v1/apps/phone/logs?limit=%ff",
        f"/v1/apps/phone/limits?what_if=wall={LONG[:400]}s",
        f"/v1/apps/phone/limits?what_if=commands={LONG}",
        f"/v1/apps/phone/limits?what_if=memory={LONG[:400]}GiB",
        "/v1/apps/phone/limits?what_if=wall=nan",
        f"{CONTACTS}?limit={LONG}",
        f"{CONTACTS}?cursor={LONG}",
        f"{CONTACTS}?cursor=99999999999999999",
        f"{CONTACTS}?query=" + "(" * 3000,
        "/v1/accounts/%ff/contacts",
        f"/v1/deadletters?limit={LONG}",
        f"/v1/deadletters?cursor={LONG}",
    ],
    ("GET", 200): [
        f"/v1/traces?limit={LONG}&limit=1",
        f"{CONTACTS}?query=%ed%a0%bd",
    ],
    ("GET", 404): [
        f"/v1/traces/{LONG}",
        "/v1/traces?app=%00",
        f"{CONTACTS}/%00%0a",
        f"{CONTACTS}/{LONG}",
        "/v1/accounts/a%2Fb/contacts",
        f"/v1/recordings/{LONG}",
        "/v1/recordings/%0d%0a",
        f"/v1/deadletters/{LONG}",
        "/v1/apps/",
        "/%2e%2e",
        "/console.js/",
        "/readyz?app=%00",
        f"/{LONG}",
    ],
    ("POST", 404): [
        f"/v1/sandboxes/{LONG}/kill",
        "/v1/sandboxes/-1/kill",
        "/v1/sandboxes/\u0663/kill",
        "/v1/sandboxes/1e5/kill",
        "/v1/deadletters/%00/retry",
    ],
    ("DELETE", 404): [
        f"/v1/deadletters/{LONG}",
    ],
    ("BREW", 405): [
        "/v1/apps",
    ],
    ("OPTIONS", 405): [
        "/v1/apps",
    ],
    ("HEAD", 200): [
        "/v1/apps",
    ],
    ("PUT", 405): [
        PUSH,
    ],
}


async def test_a_path_that_leads_nowhere_is_said_to(service: Service) -> None:
    """Numbers of 5,000 digits, digits of other scripts, NUL, halves."""
    before = fence.tally["admin"]
    for (method, code), paths in PATHS.items():
        for path in paths:
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
    for name in ("secret-broker", "secret-other"):  # nothing listens there
        folder.text += f'[channels.{name}]\ntype = "http"\nurl = "http://127.0.0.1:9/{name}"\n'
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
                assert text.count("channel: ") == 1
                assert (
                    "app secret-name: state: ok"
                    in (await ask(service, "GET", "/readyz?verbose", **right))[1]
                )
        assert (await ask(service, "GET", "/readyz?app=secret-name"))[0] == 401
        assert (await ask(service, "GET", "/readyz?app=nobody"))[0] == 401
        assert (await ask(service, "GET", "/readyz?app=secret-name", **right))[0] == 200
        await service.drain()
        assert await ask(service, "GET", "/readyz") == (503, "not ready:\nserver: not ok\n")
