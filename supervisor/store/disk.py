"""Looks at the disk of data_dir once a second."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import trio
from attrs import define, field

from resources.stores.room import Room

EVERY = 1.0  # seconds
LATE = 10.0  # without an answer of the disk, after which that is a problem

log = logging.getLogger(__name__)


@define(eq=False)
class Disk:
    """The disk, and the room on it.

    Attributes:
        error: Why it cannot be looked at; empty while it can.
    """

    folder: Path
    room: Room
    error: str = field(default="", init=False)
    # when the look that has not ended yet began
    _since: float | None = field(default=None, init=False)
    _thread: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(1), init=False)

    @property
    def problem(self) -> str:
        """Why nothing can be promised; empty if all is well."""
        if self._since is not None and trio.current_time() - self._since > LATE:
            return f"the disk of data_dir {self.folder} has not answered for {trio.current_time() - self._since:.0f} s"
        return self.error or self.room.problem

    async def look(self) -> None:
        """Once."""
        self._since = trio.current_time()
        try:
            free = await trio.to_thread.run_sync(
                free_bytes, self.folder, abandon_on_cancel=True, limiter=self._thread
            )
        except OSError as error:
            if not self.error:
                log.error("data_dir %s cannot be looked at: %s", self.folder, error.strerror)  # noqa: TRY400  # no trace
            self.error = f"data_dir {self.folder} cannot be looked at: {error.strerror}"
        else:
            self.error = ""
            self.room.look(free)
        self._since = None

    async def watch(self) -> None:
        """For ever."""
        while True:
            await trio.sleep(EVERY)
            await self.look()


def free_bytes(folder: Path) -> int:
    """Bytes that we may still write where a folder is."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
