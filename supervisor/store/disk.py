"""Looks at the disk of data_dir once a second."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import trio
from attrs import define, field

from resources.stores.room import Room

EVERY = 1.0  # seconds
LATE = 10.0  # seconds without an answer from the disk, after which that is a problem

log = logging.getLogger(__name__)


@define(eq=False)
class Disk:
    """The disk, and the room on it.

    Attributes:
        error: Why it cannot be looked at; empty if it can.
    """

    folder: Path
    room: Room
    error: str = field(default="", init=False)
    _since: float | None = field(default=None, init=False)  # when the look in progress began
    _thread: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(1), init=False)

    @property
    def problem(self) -> str:
        """Why accepted messages may not be kept; empty if all is well."""
        waited = 0.0 if self._since is None else trio.current_time() - self._since
        if waited > LATE:
            return f"the disk of data_dir {self.folder} has not answered for {waited:.0f} s"
        return self.error or self.room.problem

    async def look(self) -> None:
        """Look at the disk once."""
        self._since = trio.current_time()
        try:
            free = await trio.to_thread.run_sync(
                free_bytes, self.folder, abandon_on_cancel=True, limiter=self._thread
            )
        except OSError as error:
            problem = f"data_dir {self.folder} cannot be looked at: {error.strerror}"
            if not self.error:
                log.error("%s", problem)  # noqa: TRY400  # no traceback
            self.error = problem
        else:
            self.error = ""
            self.room.look(free)
        self._since = None

    async def watch(self) -> None:
        """Look at the disk, for ever."""
        while True:
            await trio.sleep(EVERY)
            await self.look()


def free_bytes(folder: Path) -> int:
    """Bytes that we may still write to the disk that a folder is on."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
