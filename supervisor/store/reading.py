"""Reading a store beside the service, or without one: what is read is never written to.

Of a data directory that no server uses, a copy is served by a Valkey of its own, for as long as it
is read: a service may start meanwhile. The large base of the store is linked, not copied, since
Valkey only ever replaces it; the increments, which it appends to or cuts, are copied.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from ..config import Config
from ..errors import CannotStart
from . import append_only as aof
from .copies import open_copy
from .opening import EMBEDDED
from .ownership import owner_of
from .valkey import FOLDER, live_url, open_valkey

COPY_MAX = 4 << 30  # bytes of increments that are copied
INCREMENT = ".incr.aof"


@asynccontextmanager
async def open_reading(config: Config) -> AsyncIterator[str]:
    """Give the URL of a server with the store's data, to be read only: the one that has it, or one
    that has a copy. It is valid while the block runs.

    Raises:
        CannotStart: There is no store, or it cannot be read; the text says why.
    """
    if config.redis.url != EMBEDDED:
        yield config.redis.url
        return
    folder = config.data_dir / FOLDER
    if await trio.to_thread.run_sync(owner_of, folder) is not None:
        with live_url(config.data_dir) as url:
            yield url
        return
    try:
        with open_copy(config.data_dir) as copy:
            await trio.to_thread.run_sync(_copy, folder, copy / FOLDER)
            async with open_valkey(copy, config.redis.fsync) as url:
                yield url
    except OSError as error:
        text = error.strerror or str(error)
        raise CannotStart(f"the store in {config.data_dir} cannot be read: {text}") from error


def _copy(folder: Path, copy: Path) -> None:
    """Make a copy of a server's folder. Raises CannotStart, OSError."""
    files = folder / aof.FOLDER
    try:
        names = sorted(os.listdir(files))  # noqa: PTH208  # names, not paths
    except FileNotFoundError:
        raise CannotStart(f"there is no store in {folder}") from None
    copied = [name for name in names if name.endswith(INCREMENT) or name == aof.MANIFEST]
    size = sum((files / name).stat().st_size for name in copied)
    if size > COPY_MAX:
        raise CannotStart(f"{size >> 20} MiB of {files} would have to be copied; start the service")
    (copy / aof.FOLDER).mkdir(parents=True, mode=0o700)
    for name in names:
        source, target = files / name, copy / aof.FOLDER / name
        if name in copied:
            shutil.copyfile(source, target)
        elif source.is_file():
            os.link(source, target, follow_symlinks=False)
