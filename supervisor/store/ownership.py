"""Who owns the files: one supervisor the data directory, one server the store's folder.

A supervisor holds a lock on a file in data_dir. A server holds a record lock on a file in its
folder for as long as it lives (host/with_parent.py), so a server that a killed supervisor left
behind is found by it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
import trio

from ..errors import CannotStart

LOCK = "lock"  # in data_dir, and in the server's folder
OWN_FOLDER = "process-{}"  # in data_dir, of each of several processes (supervisor/processes)
OWN_FOLDERS = "process-[0-9]*"
POLL = 0.02  # seconds
_FLOCK = "hhqqi"  # struct flock

log = logging.getLogger(__name__)


@contextmanager
def lock_data_dir(folder: Path) -> Iterator[None]:
    """Keep the data directory for this process.

    Raises:
        CannotStart: Another process has it, or it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+")
    except OSError as error:
        raise CannotStart(f"data_dir {folder} cannot be used: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            text = f"{folder} is used by process {owner}; stop it, or set another data_dir"
            raise CannotStart(text) from None
        with suppress(OSError):  # the disk is full: the lock holds even so
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        yield


def owner_of(folder: Path) -> int | None:
    """The process id of the server that runs in a folder; None if none does."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, owner = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    finally:
        os.close(descriptor)
    return None if kind == fcntl.F_UNLCK else int(owner)


def end_leftover(folder: Path, client: redis.Redis, seconds: float) -> None:
    """End a server that a killed supervisor left behind and that still writes these files: ask it
    to save and exit, and kill it after `seconds`. Blocks: call it in a thread of Trio's.

    Raises:
        OSError: It did not end after twice that time.
    """
    try:
        client.shutdown()
    except (redis.RedisError, OSError):
        pass  # there is none, or it does not answer
    finally:
        client.close()
    began, is_killed = time.monotonic(), False
    while (owner := owner_of(folder)) is not None:
        trio.from_thread.check_cancelled()
        waited = time.monotonic() - began
        if waited > seconds and not is_killed:
            log.error(
                "the server left behind in %s (process %d) does not end; killing it", folder, owner
            )
            with suppress(ProcessLookupError, PermissionError):
                os.kill(owner, signal.SIGKILL)
            is_killed = True
        elif waited > 2 * seconds:
            raise OSError(f"process {owner} has the files in {folder}, and does not end")
        time.sleep(POLL)
