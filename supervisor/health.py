"""Whether messages can be taken and answered, and what stands in the way.

What concerns the whole host makes it not ready: a load balancer, or a person, should look. What concerns one app does not: an app that crashes
must not take its neighbours out of service. It is told all the same, and asked for by name it counts.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import trio
from attrs import frozen

from resources.stores.redis import Redis

from .config.model import App
from .dispatcher import Dispatcher
from .pool import Pool

DISK_LEAST = 64 << 20  # bytes free below which nothing can be promised: the store writes all the time
DISK_LOW = 1 << 30
QUEUE_FULL = 0.9  # of pool.queue
QUEUE_OLD = 30.0  # seconds that a message waits for its turn
LAG_LATE = 1.0  # seconds


@frozen
class Check:
    """One thing that was looked at.

    Attributes:
        problem: Empty where it is well.
        app: Of which app it is, or None.
        is_note: It is for a person to look at, and in the way of nothing.
    """

    name: str
    problem: str
    is_fatal: bool = True
    app: str | None = None
    is_note: bool = False


@frozen
class Health:
    """Looks at everything that can be in the way."""

    apps: Callable[[], Mapping[str, App]]
    redis: Redis
    dispatcher: Dispatcher
    pool: Pool
    data_dir: Path
    is_embedded: bool
    is_draining: Callable[[], bool]
    search_problem: Callable[[], str]
    lag: Callable[[], float]
    dead_letters: Callable[[], Mapping[str, int]]  # by app

    async def checks(self) -> list[Check]:
        """All of them."""
        return [
            Check("server", "the server is about to restart" if self.is_draining() else ""),
            self._store(),
            *await self._disk(),
            Check("search", self.search_problem(), is_fatal=False),
            self._loop(),
            *(check for app in self.apps().values() for check in self._app(app)),
            *self._dead_letters(),
        ]

    def _store(self) -> Check:
        found = self.redis.statistics()
        return Check("redis", found.problem, is_fatal=found.concerns_all)

    async def _disk(self) -> list[Check]:
        try:
            free = (await trio.to_thread.run_sync(shutil.disk_usage, self.data_dir)).free
        except OSError as error:
            return [Check("disk", f"data_dir {self.data_dir} cannot be looked at: {error.strerror}")]
        text = f"{free / (1 << 20):.0f} MiB are free in {self.data_dir}"
        is_fatal = self.is_embedded and free < DISK_LEAST
        return [Check("disk", text if free < DISK_LOW else "", is_fatal=is_fatal)]

    def _loop(self) -> Check:
        lag = self.lag()
        return Check("loop", f"the supervisor's loop is {lag:.1f} s late" if lag > LAG_LATE else "", is_fatal=False)

    def _dead_letters(self) -> list[Check]:
        """Something for a person to look at; messages are taken and answered all the same."""
        return [
            Check("dead letters", f"{count} (jsbox deadletters)", is_fatal=False, app=app, is_note=True)
            for app, count in self.dead_letters().items()
        ]

    def _app(self, app: App) -> list[Check]:
        crashes = self.pool.crashes.state(app)
        waiting, oldest = self.dispatcher.waiting(app.name), self.dispatcher.oldest(app.name)
        busy = self.pool.statistics(app.name)
        bad_state = (
            ""
            if crashes.state == "running"
            else f"it is {crashes.state}: {crashes.last.splitlines()[0] if crashes.last else ''}"
        )
        full = f"{waiting} messages wait, of {app.pool.queue} at most (pool.queue)"
        old = f"a message has waited for {oldest:.0f} s; {busy.busy} of {app.pool.max_processes} processes (pool.max_processes) are busy"
        problems = {
            "state": bad_state,
            "queue": full if waiting >= app.pool.queue * QUEUE_FULL else "",
            "age": old if oldest > QUEUE_OLD else "",
        }
        return [Check(name, problem, is_fatal=False, app=app.name) for name, problem in problems.items()]
