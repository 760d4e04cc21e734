"""Reloads and previews of them take turns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from supervisor.config import Config
from supervisor.errors import CannotStart
from supervisor.reload import Reloads, Result


async def test_a_reload_waits_for_one_preview_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are asked for: each loads every app, and a token that may only read is enough
    to ask.
    """
    done, begin = list[str](), trio.Event()

    async def prepare(_: Reloads) -> Any:
        await begin.wait()
        done.append("preview")
        raise CannotStart("as in any preview that is refused")

    async def reload(_: Reloads) -> Result:
        done.append("reload")
        return {"ok": True, "errors": []}

    monkeypatch.setattr(Reloads, "_prepare", prepare)
    monkeypatch.setattr(Reloads, "_reload", reload)

    def nothing(*_: object) -> None:
        """Listen to what is said."""

    service = SimpleNamespace(
        is_draining=False, status=str, prometheus=nothing,
        systemd=SimpleNamespace(reloading=nothing, ready=nothing),
    )  # fmt: skip
    reloads = Reloads(cast("Any", service), Config)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(reloads.preview)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(reloads.reload)
        await trio.testing.wait_all_tasks_blocked()
        begin.set()
    assert done == ["preview", "reload", *["preview"] * 4]
