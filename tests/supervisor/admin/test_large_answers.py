"""Large questions to the admin port and large answers: bounded, and the loop goes on meanwhile."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from resources.stores.contacts import Change
from supervisor.admin.bodies import PAGE_BYTES
from supervisor.observe import CommandServed
from supervisor.service import Service

from ...lag import lag, step_bound
from ...service import Folder, running
from .admin_client import CONTACTS, raw

LOOP_MAX = step_bound()


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


@pytest.mark.slow
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


@pytest.mark.slow
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
