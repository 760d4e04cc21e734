"""What waits on channels: counted, listed, shown and dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from resources.messages import send
from resources.stores.identity import Sender
from supervisor.admin import health
from supervisor.service import Service

from ...gateway_client import PATIENCE, connect
from ...programs import free_ports, jsbox
from ...service import ECHO, Folder, eventually, running


async def post(service: Service, *texts: str) -> None:
    for text in texts:
        message = send("+27\x1b[2J", text, endpoint="default", helper_metadata={})
        await service.stores.outbox.post("phone", Sender("acct", "phone"), message)


def admin_of(service: Service) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=service.admin_url, trust_env=False, timeout=PATIENCE)


async def numbers(admin: httpx2.AsyncClient, **asked: str) -> tuple[list[int], int | None]:
    body = (await admin.get("/v1/outbox/phone", params=asked)).json()
    return [one["delivery"] for one in body["messages"]], body["cursor"]


async def summary(admin: httpx2.AsyncClient) -> dict[str, Any]:
    (one,) = (await admin.get("/v1/outbox")).json()["outboxes"]
    return dict(one)


async def test_what_waits_is_seen_and_dropped(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pages, oldest first; what is dropped reaches no gateway, all else does."""
    async with admin_of(service) as admin:
        nothing = {"channel": "phone", "count": 0, "bytes": 0, "oldest": None, "newest": 0}
        assert await summary(admin) == nothing
        await post(service, *"abcde")
        found = await summary(admin)
        assert (found["count"], found["newest"]) == (5, 5)
        assert found["oldest"].endswith("Z")
        shown = (await admin.get("/v1/outbox/phone/2")).json()
        assert (shown["message"]["content"], shown["attempts"]) == ("b", 0)
        assert found["bytes"] == 5 * shown["bytes"]
        assert await numbers(admin, limit="2") == ([1, 2], 2)
        assert await numbers(admin, limit="9", cursor="2") == ([3, 4, 5], None)
        metrics = (await admin.get("/metrics")).text
        assert 'jsbox_outbox_messages{channel="phone"} 5.0' in metrics
        assert f'jsbox_outbox_bytes{{channel="phone"}} {found["bytes"]}.0' in metrics
        assert 'jsbox_outbox_oldest_seconds{channel="phone"}' in metrics
        assert (await admin.get("/readyz")).text == "ok\n"
        monkeypatch.setattr(health, "OUTBOX_OLD", -1.0)
        ready = await admin.get("/readyz", params={"app": "phone"})
        assert ready.status_code == 200
        assert "app phone: outbox phone: 5 messages wait, the oldest for 0 minutes" in ready.text
        assert (await admin.delete("/v1/outbox/phone/2")).json() == {"dropped": 2}
        again = await admin.delete("/v1/outbox/phone/2")
        assert (again.status_code, again.json()["error"]) == (
            404, "there is no message 2 in the outbox of phone",
        )  # fmt: skip
        dropped = await admin.delete("/v1/outbox/phone", params={"until": "3"})
        assert dropped.json() == {"dropped": 2, "more": False}
        assert await numbers(admin) == ([4, 5], None)
        async with connect(service.gateway_url) as client:
            contents = [(await client.expect("outbound"))["msg"]["content"] for _ in range(2)]
            assert contents == ["d", "e"]
        for path in ("phone/0", "phone/x", "nobody", "nobody/1"):
            assert (await admin.get(f"/v1/outbox/{path}")).status_code == 404
        assert (await admin.delete("/v1/outbox/phone")).status_code == 400


async def test_what_is_in_memory_is_dropped_too(service: Service) -> None:
    """A message that a client was given and did not acknowledge goes to nobody else, and the room
    that it took is free.
    """
    async with admin_of(service) as admin:
        async with connect(service.gateway_url, acknowledge=False) as client:
            await post(service, "dropped", "kept")
            for _ in range(2):
                await client.expect("outbound")
            assert service.deliveries.unacked("phone") == 2
            assert (await admin.delete("/v1/outbox/phone/1")).json() == {"dropped": 1}
            await eventually(lambda: service.deliveries.unacked("phone") == 1)
        async with connect(service.gateway_url) as client:
            assert (await client.expect("outbound"))["msg"]["content"] == "kept"
        await eventually(lambda: service.deliveries.unacked("phone") == 0)


async def test_the_command(tmp_path: Path) -> None:
    """What waits; a list that no message can disturb; one, some, or all dropped."""
    gateway, port = free_ports(2)
    listen = f'[listen]\ngateway = "127.0.0.1:{gateway}"\nadmin = "127.0.0.1:{port}"\n'
    folder = Folder(tmp_path, listen)
    folder.app("phone", ECHO)

    async def said(*arguments: str, code: int = 0) -> str:
        def run() -> tuple[int, str]:
            ended = jsbox("outbox", *arguments, "-c", str(tmp_path / "jsbox.toml"))
            return ended.returncode, ended.stdout + (ended.stderr if code else "")

        found, text = await trio.to_thread.run_sync(run)
        assert found == code, text
        return text

    async with running(folder) as service:
        await post(service, *"abcde")
        assert "phone                       5" in await said()
        lines = (await said("list", "phone", "-n", "2")).splitlines()
        assert [line.split()[0] for line in lines] == ["NUMBER", "1", "2"]
        assert "+27\\x1b[2J" in lines[1]
        assert "0 is not in the range" in await said("list", "phone", "-n", "0", code=2)
        assert '"content": "c"' in await said("show", "phone", "3")
        text = await said("drop", "phone", "3", "99", code=1)
        assert text.startswith("1 dropped\n")
        assert "\n99: there is no message 99 in the outbox of phone" in text
        assert await said("drop", "phone", "--all") == "4 dropped\n"
        assert await said("list", "phone") == "nothing waits on channel phone\n"
        assert "expected NUMBERs, or --all" in await said("drop", "phone", code=2)
