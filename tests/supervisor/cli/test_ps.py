"""`jsbox ps` in broken situations: each shows, with what to look at next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from resources.stores.outbox import Waiting
from supervisor.admin import health
from supervisor.admin.audit import NAME

from ...service import ECHO
from .operator import operating


async def test_each_problem_shows_once_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused reload, a channel that nobody reads, a full queue, a lost line of the audit log;
    nothing if all is well.
    """
    async with operating(tmp_path) as jsbox:
        service = jsbox.service
        well = await jsbox("ps")
        head, *rest = well.stdout.splitlines()
        assert head.startswith("APP")
        assert all(line.startswith("- ") for line in rest), rest  # spare processes
        (tmp_path / "phone.js").write_text("function ( {")
        refused = await jsbox("reload")
        assert refused.exit_code == 3
        old = datetime.now(UTC) - timedelta(seconds=2 * health.OUTBOX_OLD)
        found = {"phone": Waiting(count=7, size=700, oldest=old, newest=7)}

        async def look(_: object) -> dict[str, Waiting]:
            return found

        monkeypatch.setattr(type(service.outboxes), "_look", look)
        service.outboxes.found = found
        monkeypatch.setattr(type(service.dispatcher), "waiting", lambda *_: 1000)
        await service.audit.begin("me", "", "what was begun before has ended")
        (service.config.data_dir / NAME).unlink()
        (service.config.data_dir / NAME).mkdir()
        await service.audit.begin("me", "", "what cannot be written")
        broken = (await jsbox("ps")).stdout
        for text in (
            "config: the last reload was refused (jsbox check): ",
            "phone.js:1:",
            "outbox phone: 7 messages wait, the oldest for 10 minutes (jsbox outbox)",
            "channel phone: unread: 7 messages wait, and nobody is connected to take them",
            "app phone: queue: 1000 messages wait, of 1000 at most (pool.queue)",
            "audit.jsonl cannot be written: Is a directory",
        ):
            assert broken.count(text) == 1, broken
        (tmp_path / "phone.js").write_text(
            f"api.on_inbound_message = function (command) {{ {ECHO} }};"
        )
        assert (await jsbox("reload")).exit_code == 0
        assert "the last reload was refused" not in (await jsbox("ps")).stdout
