"""Look after the embedded Valkey's append-only files while it runs: sync them to disk every second,
and have them rewritten.

We do both ourselves: with the server's own sync once a second, answers overtake writes (valkey.py).
Its own rewrite does not check whether the disk has room for it, and so fills the very disk that it
should relieve.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import redis
import trio
from attrs import define, field

from . import append_only as aof

SYNC_SECONDS = 1.0
LOOK_EVERY = 5  # syncs between two checks whether a rewrite is due
# Bytes of all files from which a rewrite is due; they must also have doubled since the last one.
REWRITE_FROM = 64 << 20
RETRY_SECONDS = (60.0, 3600.0)  # after a rewrite that failed: first, most

log = logging.getLogger(__name__)


@define(eq=False)
class Upkeep:
    """Upkeep for one run of the server that `connect` makes a client of."""

    _folder: Path
    _connect: Callable[[], redis.Redis]
    _fsync: str
    _reserve: int
    _thread: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(1), init=False)
    # Of each increment, the bytes that are on disk.
    _synced: dict[str, int] = field(factory=dict, init=False)
    # A write failed: the file may have a hole by now (append_only_scan.py).
    _is_damaged: bool = field(default=False, init=False)
    _is_asked: bool = field(default=False, init=False)  # we have asked for a rewrite
    _not_before: float = field(default=0.0, init=False)  # when the next rewrite may be asked for
    _retry: float = field(default=RETRY_SECONDS[0], init=False)
    _said: str = field(default="", init=False)  # the problem logged last

    async def run(self) -> None:
        """Sync and check for ever; cancel it when the server ends."""
        while True:
            for _ in range(LOOK_EVERY):
                await trio.sleep(SYNC_SECONDS)
                if self._fsync != "always":
                    await self._aside(self._sync)
            await self._aside(partial(self._look, trio.current_time()))

    async def _aside(self, work: Callable[[], None]) -> None:
        """Run in a thread of our own: no other thread's work delays it, and a disk that hangs does
        not delay a stop.
        """
        await trio.to_thread.run_sync(work, limiter=self._thread, abandon_on_cancel=True)

    def _sync(self) -> None:
        """Sync what was written to disk."""
        try:
            there = aof.increments(self._folder)
            for name, size in there.items():
                if self._synced.get(name) != size:
                    sync_file(self._folder / aof.FOLDER / name)
            self._synced = there
        except OSError as error:
            self._say(f"what was written in the last second may not be on disk: {error}")

    def _look(self, now: float) -> None:
        """Start a rewrite if one is due and there is room for it. The thread closes the client
        that it opened, also when nobody waits for the thread any more.
        """
        with self._connect() as client:
            self._look_at(client, now)

    def _look_at(self, client: redis.Redis, now: float) -> None:
        try:
            found = client.info("persistence")
            memory = int(client.info("memory")["used_memory"])
        except (redis.RedisError, OSError):
            return  # the server has ended, or loads: look again later
        if found["aof_last_write_status"] != "ok":
            self._is_damaged = True
            return
        if found["aof_rewrite_in_progress"] or found.get("aof_rewrite_scheduled"):
            return
        if self._is_asked:
            self._note_rewrite(now, is_done=found["aof_last_bgrewrite_status"] == "ok")
        size, base = int(found["aof_current_size"]), int(found["aof_base_size"])
        is_due = self._is_damaged or (size >= REWRITE_FROM and size >= 2 * base)
        if is_due and now >= self._not_before:
            self._rewrite(client, size, memory)

    def _note_rewrite(self, now: float, *, is_done: bool) -> None:
        self._is_asked = False
        if is_done:
            self._is_damaged, self._said = False, ""
            self._retry, self._not_before = RETRY_SECONDS[0], 0.0
        else:
            self._not_before = now + self._retry
            self._retry = min(self._retry * 2, RETRY_SECONDS[1])

    def _rewrite(self, client: redis.Redis, size: int, memory: int) -> None:
        needed = memory + self._reserve
        try:
            free = shutil.disk_usage(self._folder).free
            if free < needed:
                self._say(
                    f"the store's files should be rewritten: they have {size >> 20} MiB, and "
                    f"{needed >> 20} MiB must be free for it in {self._folder}, "
                    f"where {free >> 20} MiB are"
                )
                return
            client.bgrewriteaof()
            self._is_asked = True
        except (redis.RedisError, OSError) as error:
            self._say(f"the store's files cannot be rewritten: {error}")

    def _say(self, text: str) -> None:
        """Log a problem once, until a rewrite is done."""
        what = text.partition(":")[0]
        if what != self._said:
            log.error("%s", text)
        self._said = what


def sync_file(file: Path) -> None:
    """Sync what any process has written to a file to disk."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
