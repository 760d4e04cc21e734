"""Tasks that run for ever. Apart from the fence, which a process without an event loop has, too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from .fence import fence

BACKOFF = (0.1, 10.0)  # seconds until a task is restarted: first, most
SETTLED_SECONDS = 60.0  # a task that ran this long restarts after the first pause


async def keep_running(where: str, task: Callable[[], Awaitable[None]]) -> None:
    """Run a background task for ever: if it fails or returns, restart it after a pause."""
    pause = BACKOFF[0]
    while True:
        began = trio.current_time()
        with fence(where):
            await task()
        if trio.current_time() - began > SETTLED_SECONDS:
            pause = BACKOFF[0]
        await trio.sleep(pause)
        pause = min(pause * 2, BACKOFF[1])
