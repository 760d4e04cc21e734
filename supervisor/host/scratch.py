"""Temporary folders that do not outlive their supervisor by much: what a killed one left behind,
the next one removes.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from attrs import define

PREFIX = "jsbox-"
LOCK = ".lock"
PROBE_FILES = f"{PREFIX}probe-*-0.*"
PROBE_SECONDS = 60  # that one takes at most

log = logging.getLogger(__name__)


@define(eq=False)
class Scratch:
    """A temporary folder of ours. Others may take it away: a cleaner of /tmp does, by age."""

    path: Path
    mode: int
    _held: ExitStack

    def is_there(self) -> bool:
        """Whether it is there, and nobody's but ours; one that was taken away is made again, empty.

        What is executed or read from it is only safe after that was asked: in /tmp somebody else
        may take its name.
        """
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return self._make_again()
        except OSError:
            return False
        writable = stat.S_IMODE(found.st_mode) & (stat.S_IWGRP | stat.S_IWOTH) & ~self.mode
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not writable

    def _make_again(self) -> bool:
        self._held.close()
        try:
            self.path.mkdir(mode=0o700)
            self.hold()
        except OSError as error:
            log.warning(
                "the folder %s was taken away, and cannot be made again: %s",
                self.path,
                error.strerror,
            )
            return False
        log.warning("the folder %s was taken away, and is made again", self.path)
        return True

    def hold(self) -> None:
        """Lock it for as long as we live: the file tells our successors, the folder itself tells
        systemd-tmpfiles.
        """
        draft = self.path / f"{LOCK}.new"
        # Locked before it has its name: whoever finds it finds it locked, as long as we live.
        fcntl.flock(self._held.enter_context(draft.open("w")), fcntl.LOCK_EX)
        draft.rename(self.path / LOCK)
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._held.callback(os.close, folder)
        fcntl.flock(folder, fcntl.LOCK_SH)
        self.path.chmod(self.mode)


@contextmanager
def open_scratch(purpose: str, mode: int = 0o700) -> Iterator[Scratch]:
    """A folder below the system's folder for such, as long as the block runs.

    Raises:
        OSError: None can be made there.
    """
    remove_leftovers()
    with ExitStack() as held:
        scratch = Scratch(Path(tempfile.mkdtemp(prefix=f"{PREFIX}{purpose}-")), mode, held)
        try:
            scratch.hold()
            yield scratch
        finally:
            shutil.rmtree(
                scratch.path, ignore_errors=True
            )  # somebody else's by now, or gone: no reason not to end well


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """The path of one of mode 0700."""
    with open_scratch(purpose) as scratch:
        yield scratch.path


def remove_leftovers() -> None:
    """Remove the folders of ours whose owners are gone, and the files of probes that were killed
    over them (sandbox_js/probe.js).
    """
    with suppress(OSError):  # the folder for such has gone itself
        _remove_leftovers()


def _remove_leftovers() -> None:
    for file in Path(tempfile.gettempdir()).glob(PROBE_FILES):
        with suppress(OSError):
            found = file.lstat()
            if stat.S_ISREG(found.st_mode) and found.st_mtime < time.time() - PROBE_SECONDS:
                file.unlink()
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        with suppress(OSError):
            if folder.lstat().st_uid != os.geteuid():
                continue
            descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(descriptor)
