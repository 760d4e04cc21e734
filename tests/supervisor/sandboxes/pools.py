"""A real pool for tests, and runs in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.lowlevel

from supervisor.config.model import App
from supervisor.observe import ignore
from supervisor.sandboxes.pool import Pool, open_pool

from ...apps import make_app, walls


@asynccontextmanager
async def pool_of(*apps: App, most: int = 10, spare: int = 0) -> AsyncIterator[Pool]:
    async with open_pool(walls(), most, ignore, spare) as pool:
        pool.update({app.name: app for app in apps})
        yield pool


async def run(pool: Pool, app: App) -> int:
    """One run of an app that is done at once. The pid of the process that had it."""

    async def answer(_: object) -> dict[str, object]:
        return {}

    with trio.fail_after(60):
        async with pool.lend(app) as sandbox:
            await sandbox.deliver("r1", "message", {"message_id": "m"}, app.limits, answer)
            return sandbox.process.pid


APP = make_app("api.done();")
