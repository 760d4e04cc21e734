"""Temporary folders. The next supervisor removes those that a killed one left behind."""

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
PROBE_SECONDS = 60  # the most that a probe takes

log = logging.getLogger(__name__)


@define(eq=False)
class Scratch:
    """A temporary folder of ours. Something else may remove it: a cleaner of /tmp does, by age."""

    path: Path
    mode: int
    _held: ExitStack

    def is_there(self) -> bool:
        """Whether it is there and only ours. If it was removed it is made again, empty.

        Ask before running or reading anything in it: in /tmp, others may take its name.
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
                "the folder %s was removed and cannot be made again: %s", self.path, error.strerror
            )
            return False
        log.warning("the folder %s was removed; made it again", self.path)
        return True

    def hold(self) -> None:
        """Lock it for as long as we live: a file in it for our successors, the folder itself for
        systemd-tmpfiles.
        """
        draft = self.path / f"{LOCK}.new"
        # Locked before it gets its name: nobody can find it unlocked while we live.
        fcntl.flock(self._held.enter_context(draft.open("w")), fcntl.LOCK_EX)
        draft.rename(self.path / LOCK)
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._held.callback(os.close, folder)
        fcntl.flock(folder, fcntl.LOCK_SH)
        self.path.chmod(self.mode)


@contextmanager
def open_scratch(purpose: str, mode: int = 0o700) -> Iterator[Scratch]:
    """Make a folder in the system's temporary folder; remove it when the block ends.

    Raises:
        OSError: It cannot be made.
    """
    remove_leftovers()
    with ExitStack() as held:
        scratch = Scratch(Path(tempfile.mkdtemp(prefix=f"{PREFIX}{purpose}-")), mode, held)
        try:
            scratch.hold()
            yield scratch
        finally:
            # It may be gone, or somebody else's by now; that is no reason to fail.
            shutil.rmtree(scratch.path, ignore_errors=True)


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """As `open_scratch` with mode 0700; gives the path."""
    with open_scratch(purpose) as scratch:
        yield scratch.path


def remove_leftovers() -> None:
    """Remove our folders whose owners are gone, and the files that killed probes left
    (sandbox_js/probe.js).
    """
    with suppress(OSError):  # the temporary folder itself is gone
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
