"""Real processes for tests: booted, and given runs whose commands are answered at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from supervisor.config.model import App
from supervisor.errors import SandboxFault
from supervisor.jail.argv import Jail
from supervisor.sandboxes.lifecycle import hold_sandbox
from supervisor.sandboxes.protocol import ConsoleLine, Request
from supervisor.sandboxes.run import RunUse
from supervisor.sandboxes.sandbox import Sandbox

from ...apps import jail_of, make_app


@asynccontextmanager
async def booted(app: App, jail: Jail | None = None) -> AsyncIterator[Sandbox]:
    async with trio.open_nursery() as nursery:
        sandbox: Sandbox = await nursery.start(hold_sandbox, app, jail or jail_of(app))
        nursery.start_soon(_watch, sandbox)
        try:
            yield sandbox
        finally:
            sandbox.end()
            with trio.fail_after(60):
                await sandbox.ended.wait()
            nursery.cancel_scope.cancel()


async def _watch(sandbox: Sandbox) -> None:
    """What the pool does for all its sandboxes."""
    while True:
        sandbox.check_cpu()
        await trio.sleep(0.02)


async def deliver(
    sandbox: Sandbox, seconds: float = 20.0, **replies: Any
) -> tuple[RunUse, list[Request | ConsoleLine]]:
    """One run; every command is answered at once."""
    asked: list[Request | ConsoleLine] = []

    async def answer(request: Request | ConsoleLine) -> dict[str, object] | None:
        asked.append(request)
        return None if isinstance(request, ConsoleLine) else {"success": True} | replies

    payload = {"message_id": "m1", "content": "hi"}
    with trio.fail_after(seconds):
        use = await sandbox.deliver("r1", "message", payload, sandbox.app.limits, answer)
    return use, asked


async def fault_of(
    javascript: str, limits: dict[str, Any] | None = None, **fields: Any
) -> SandboxFault:
    async with booted(make_app(javascript, limits=limits, **fields)) as sandbox:
        with pytest.raises(SandboxFault) as raised:
            await deliver(sandbox)
        return raised.value
