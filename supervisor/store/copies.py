"""The folders for copies of a store that is read without its server. What a killed reader leaves is
removed by the next one, and by the next start of the service.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

PREFIX = "reading-"


@contextmanager
def open_copy(data_dir: Path) -> Iterator[Path]:
    """A folder for a copy, locked for as long as the block runs. Raises OSError."""
    with _locked(data_dir):  # until ours is locked, others would take it for a leftover
        _remove(data_dir)
        made = TemporaryDirectory(prefix=PREFIX, dir=data_dir)
        lock = os.open(made.name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield Path(made.name)
    finally:
        os.close(lock)
        made.cleanup()


def remove_copies(data_dir: Path) -> None:
    """Remove copies whose readers were killed; those in use stay. Raises nothing, and waits for
    nobody.
    """
    with suppress(OSError), _locked(data_dir, fcntl.LOCK_NB):
        _remove(data_dir)


def _remove(data_dir: Path) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    for folder in data_dir.glob(f"{PREFIX}*"):
        with suppress(OSError):  # it is in use, or no folder
            lock = os.open(folder, flags)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)


@contextmanager
def _locked(data_dir: Path, how: int = 0) -> Iterator[None]:
    """Keep others from making and removing copies. Raises OSError."""
    lock = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | how)
        yield
    finally:
        os.close(lock)
