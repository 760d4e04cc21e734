"""Of an app's log: which entries."""

from __future__ import annotations

import json

import httpx2

from supervisor.service import Service

from ...gateway_client import PATIENCE
from .test_app import following

OLD = [
    ("2026-02-03T04:05:06", "DEBUG", "as an earlier version wrote it"),
    ("2026-02-03T04:05:07.000001Z", "Level 25", "Hello"),
    ("2026-02-03T04:05:08.000001Z", "WARNING", "careful, HELLO again"),
    ("2026-02-03T04:05:09.000001Z", "ERROR", "late"),
]


async def seen(admin: httpx2.AsyncClient, **asked: str) -> list[str]:
    answer = await admin.get("/v1/apps/phone/logs", params=asked)
    assert answer.status_code == 200, answer.text
    return [entry["time"][17:19] for entry in answer.json()["entries"]]


async def test_level_since_and_text(service: Service) -> None:
    """Alone and together; the newest of what is left, however far back it lies; live ones too."""
    for time, level, message in OLD:
        text = json.dumps({"time": time, "level": level, "message": message})
        await service.stores.redis.execute("LPUSH", "jsbox:{acct}:log:phone", text)
    async with httpx2.AsyncClient(
        base_url=service.admin_url, trust_env=False, timeout=PATIENCE
    ) as admin:
        assert await seen(admin) == ["09", "08", "07", "06"]
        assert await seen(admin, level="debug") == ["09", "08", "07", "06"]
        assert await seen(admin, level="warning") == ["09", "08"]
        assert await seen(admin, level="INFO") == ["09", "08", "07"]
        assert await seen(admin, grep="hello") == ["08", "07"]
        assert await seen(admin, grep="hello", limit="1") == ["08"]
        assert await seen(admin, since="2026-02-03T06:05:08+02:00") == ["09", "08"]
        assert await seen(admin, since="1h") == []
        assert await seen(admin, since="2026-02-03T04:05:07Z", level="info", grep="l") == [
            "09", "08", "07",
        ]  # fmt: skip
        entries = (await admin.get("/v1/apps/phone/logs")).json()["entries"]
        assert entries[-1]["time"] == "2026-02-03T04:05:06Z"
        for n in range(100):
            await service.stores.logbook.write("acct", "phone", 10, f"noise {n}", 1000)
        assert await seen(admin, level="error", limit="1") == ["09"]
    async with following(service, "phone", "&level=error&limit=1") as entry:
        assert (await entry())["message"] == "late"
        await service.stores.logbook.write("acct", "phone", 20, "no error", 1000)
        await service.stores.logbook.write("acct", "phone", 50, "an error", 1000)
        found = await entry()
    assert found["message"] == "an error"
    assert found["time"].endswith("Z")
