"""Temporary folders that do not outlive their supervisor by much: what a killed one left behind,
the next one removes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "jsbox-"
LOCK = ".lock"
PROBE_FILES = f"{PREFIX}probe-*-0.*"
PROBE_SECONDS = 60  # that one takes at most


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A folder of mode 0700 below the system's folder for such, as long as the block runs."""
    remove_leftovers()
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{purpose}-") as name:
        folder = Path(name)
        draft = folder / f"{LOCK}.new"
        with draft.open("w") as lock:
            # Locked before it has its name: whoever finds it finds it locked, as long as we live.
            fcntl.flock(lock, fcntl.LOCK_EX)
            draft.rename(folder / LOCK)
            yield folder


def remove_leftovers() -> None:
    """Remove the folders of ours whose owners are gone, and the files of probes that were killed
    over them (sandbox_js/probe.js).
    """
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
