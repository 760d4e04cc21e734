"""The admin port over HTTP: what it shows, who may use it, what it refuses."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
import trio

from supervisor.service import Service

from ...gateway_client import connect
from ...in_turn import in_turn
from ...service import ECHO, Folder, eventually, running


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    folder = Folder(tmp_path)
    folder.app("phone", "api.log_info('line\\nforged', function () { " + ECHO + " });")
    async with running(folder) as service:
        yield service


@asynccontextmanager
async def client_of(service: Service, **headers: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(
        base_url=service.admin_url, headers=headers, trust_env=False
    ) as client:
        yield client


async def test_what_it_shows(service: Service) -> None:
    """Apps with their state, processes, logs newest first, metrics, health."""
    async with connect(service.gateway_url) as gateway, client_of(service) as admin:
        await gateway.say("one", "new")
        await gateway.say("two", "new")
        (app,) = (await admin.get("/v1/apps")).json()["apps"]
        assert (app["name"], app["account"], app["queue"], app["endpoints"]) == (
            "phone",
            "acct",
            0,
            {"default": "phone"},
        )
        assert (app["processes"], app["connections"]) == (
            {"busy": 0, "idle": 1, "booting": 0},
            {"phone": 1},
        )
        (process,) = (await admin.get("/v1/sandboxes")).json()["sandboxes"]
        assert (process["app"], process["state"], process["runs"]) == ("phone", "idle", 2)
        assert process["rss"] > 10 << 20
        assert process["cpu"] > 0
        assert Path(f"/proc/{process['pid']}").exists()
        entries = (await admin.get("/v1/apps/phone/logs", params={"limit": 1})).json()["entries"]
        assert [(entry["level"], entry["message"]) for entry in entries] == [
            ("INFO", "line\nforged")
        ]
        metrics = (await admin.get("/metrics")).text
        assert 'jsbox_missing_replies_total{app="phone"} 0.0' in metrics  # before the first one
        assert 'jsbox_messages_total{app="phone",kind="message",outcome="ok"} 2.0' in metrics
        assert (
            'jsbox_resource_requests_total{app="phone",command="info",outcome="success",'
            'resource="log"} 2.0' in metrics
        )
        assert 'jsbox_sandbox_processes{app="phone",state="idle"} 1.0' in metrics
        assert 'jsbox_inbound_total{answer="accepted",channel="phone"} 2.0' in metrics
        for path in ("/livez", "/readyz"):
            answer = await admin.get(path)
            assert (answer.status_code, answer.text) == (200, "ok\n")


@in_turn(
    ("method", "path", "code", "text"),
    [
        ("GET", "/v1/apps/nobody/logs", 404, "there is no app 'nobody'"),
        ("POST", "/v1/apps/nobody/push", 404, "there is no app 'nobody'"),
        ("GET", "/v1/apps/phone/logs?limit=0", 400, "limit: expected 1 to 10000"),
        ("GET", "/v1/apps/phone/logs?limit=x", 400, "limit: expected 1 to 10000"),
        ("GET", "/v1/apps/phone/logs?level=loud", 400, "level: expected debug, info, warning,"),
        ("GET", "/v1/apps/phone/logs?since=2026-02-03T04:05", 400, "since: expected a time with"),
        ("GET", "/v1/apps/phone/logs?since=yesterday", 400, "since: expected a time with"),
        ("GET", "/v1/apps/phone/logs?limit=99999", 400, "limit: expected 1 to 10000"),
        ("POST", "/v1/apps/phone/push", 400, "addrs"),
        ("PUT", "/v1/reload", 405, ""),
        ("GET", "/nothing", 404, ""),
    ],
)
async def test_what_it_refuses(
    service: Service, method: str, path: str, code: int, text: str
) -> None:
    """With a reason."""
    async with client_of(service) as admin:
        answer = await admin.request(method, path, content=b"{")
        assert answer.status_code == code
        assert text in answer.text


async def test_web_pages_and_made_up_names_are_kept_out(service: Service) -> None:
    """Without tokens it is for programs on this host: not for another site's page, not under a name
    that leads here.
    """
    async with client_of(service, Origin="https://evil.example") as admin:
        assert (await admin.post("/v1/reload")).status_code == 403
    async with client_of(service, Host="evil.example") as admin:
        assert (await admin.get("/v1/apps")).status_code == 403
        assert (await admin.get("/livez")).status_code == 200
    async with client_of(service, Origin="http://localhost:8420") as admin:
        assert (await admin.get("/v1/apps")).status_code == 200


async def test_with_tokens_everybody_needs_one(tmp_path: Path) -> None:
    """On loopback, too; health needs none."""
    folder = Folder(tmp_path)
    digest = hashlib.sha256(b"t0ken").hexdigest()
    folder.text = folder.text.replace("[listen]\n", f'[listen]\nadmin_tokens = ["{digest}"]\n')
    async with running(folder) as service:
        for header in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic t0ken"},
            {"Authorization": "Bearer"},
        ):
            async with client_of(service, **header) as admin:
                assert (await admin.get("/v1/apps")).status_code == 401
                assert (await admin.get("/readyz")).status_code == 200
        async with client_of(service, Authorization="Bearer t0ken", Host="jsbox.example") as admin:
            assert (await admin.get("/v1/apps")).status_code == 200


async def test_a_log_is_followed(service: Service) -> None:
    """First the newest entries, oldest first; then new ones, each once."""
    async with connect(service.gateway_url) as gateway, following(service, "phone") as entries:
        await gateway.say("one")
        assert (await entries())["message"] == "line\nforged"
        for _ in range(3):
            await gateway.say("more")
        times = [(await entries())["time"] for _ in range(3)]
        assert times == sorted(set(times))
    async with following(service, "phone") as entries:
        assert [(await entries())["time"] for _ in range(4)][1:] == times


@asynccontextmanager
async def following(
    service: Service, app: str, more: str = ""
) -> AsyncIterator[Callable[[], Awaitable[dict[str, str]]]]:
    """Gives a function that waits for the next entry. (By hand: httpx leaves its generators to the
    garbage collector.)
    """
    async with await trio.open_tcp_stream("127.0.0.1", service.admin_port) as stream:
        await stream.send_all(
            f"GET /v1/apps/{app}/logs?follow=1{more} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        received = b""

        async def entry() -> dict[str, str]:
            nonlocal received
            with trio.fail_after(60):
                while not (found := re.search(rb"^(\{.*\})\n", received, re.MULTILINE)):
                    received += await stream.receive_some()
            received = received[found.end() :]
            return dict(json.loads(found[1]))

        yield entry


async def test_a_follower_that_leaves_is_forgotten(service: Service) -> None:
    """Nothing is kept for it."""
    async with following(service, "phone"):
        await eventually(lambda: ("acct", "phone") in service.stores.logbook._books)
        book = service.stores.logbook._books["acct", "phone"]
        await eventually(lambda: len(book.followers) == 1)
    await eventually(lambda: not book.followers)


async def test_draining_is_not_ready(service: Service) -> None:
    """Alive, but not for new messages."""
    await service.drain()
    async with client_of(service) as admin:
        answer = await admin.get("/readyz")
        assert (answer.status_code, answer.text) == (
            503,
            "not ready:\nserver: the server is about to restart\n",
        )
        assert (await admin.get("/livez")).status_code == 200


async def test_what_other_limits_would_have_ended(service: Service) -> None:
    """Counted over the newest runs, each limit alone and all together; a bad question says what may
    be asked.
    """
    async with connect(service.gateway_url) as client, client_of(service) as admin:
        for _ in range(65):
            await client.say("x", "new")
        path = "/v1/apps/phone/limits"
        answer = (
            await admin.get(
                path, params={"what_if": ["wall=1ms", "cpu=10s", "commands=1", "heap=1MiB"]}
            )
        ).json()
        found = answer["what_if"]
        assert found["limits"]["cpu"] == {"value": 10.0, "over": 0, "of": 65}
        assert found["limits"]["commands"] == {"value": 1.0, "over": 65, "of": 65}
        assert found["limits"]["heap"] == {"value": 1048576.0, "over": 2, "of": 2}
        assert found["runs"] == {"over": 65, "of": 65}
        seen = {row["name"]: row["seen"] for row in answer["limits"]}
        assert 1 << 20 < seen["heap"]["most"] < 64 << 20
        for wrong in ("wall", "wall=5", "stack=1MiB", "commands=0", "heap=1s"):
            refused = await admin.get(path, params={"what_if": wrong})
            assert refused.status_code == 400, wrong
            assert "what_if" in refused.json()["error"]
