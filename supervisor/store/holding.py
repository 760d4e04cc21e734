"""One server at a time on a store that several can reach: the lease, and who we are to it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path

import trio

from resources.stores.errors import StoreRefused
from resources.stores.lease import Held, Lease, open_lease
from resources.stores.redis import StoreError

from ..config import Config
from ..errors import CannotStart
from .ownership import LOCK
from .patience import until_answered

ID = "server-id"  # in data_dir
ID_BYTES = 16
HOST_BYTES = 6  # of the id of a host that shares the work
BOOT = Path("/proc/sys/kernel/random/boot_id")
POLL = 0.5  # seconds between two looks at a lease that another server has
GRACE = 1.2  # times of a lease that a dead server's may take to run out
FOR_GOOD = frozenset({"NOAUTH", "WRONGPASS", "NOPERM"})
"""Codes of refusals that somebody has to act on: no start waits for their end."""

Take = Callable[[], Awaitable[Held | None]]

log = logging.getLogger(__name__)


@asynccontextmanager
async def hold(
    config: Config,
    tell: Callable[[str], None],
    url: str,
    is_awaited: Callable[[StoreError], bool],
) -> AsyncIterator[Lease]:
    """Take the lease of the store, and keep it for as long as the block runs. In mode standby it
    may not be taken yet: see `wait_turn`.

    Args:
        config: Names the data directory, whose lock is held.
        tell: Called with a line now and then while we wait.
        url: Of the store.
        is_awaited: Whether the store's first answer is still waited for after an error.

    Raises:
        CannotStart: The store does not answer, or another server has it (mode single).
        LeaseLost: Another server has taken it; the block is cancelled.
    """
    settings = config.cluster
    is_shared = settings.mode == "shared"
    owner = (host_id if is_shared else owner_id)(config.data_dir)
    opening = open_lease(url, settings.lease, owner, _boot(), own_name(), is_shared=is_shared)
    async with opening as lease:
        try:
            ping = partial(lease.client.execute, "PING")
            await until_answered("its first answer", ping, tell, is_awaited)
            take = partial(until_answered, "its lease", lease.take, tell, _passes)
            held = await take()
            if held is not None and settings.mode != "standby":
                await _outlive(held, take, settings.lease)
        except StoreError as error:
            raise CannotStart(f"redis.url: {error}") from error
        yield lease


async def wait_turn(lease: Lease, tell: Callable[[str], None]) -> None:
    """Wait until no other server has the lease, and take it.

    Args:
        lease: Not ours yet.
        tell: Called with a line that says what we wait for, whenever it changes.
    """
    said = ""
    while True:
        try:
            held = await lease.take()
        except StoreError as error:
            line = f"the store cannot be asked: {error}"
        else:
            if held is None:
                return
            line = f"the store is held by {held.name}"
        if line != said:
            tell(line)
        said = line
        await trio.sleep(POLL)


async def _outlive(held: Held, take: Take, seconds: float) -> None:
    """Wait until the lease of a dead server has run out, and take it.

    Raises:
        CannotStart: The other server lives.
    """
    log.info("the store is held by %s; if it is dead, its lease runs out", held.name)
    latest = trio.current_time() + max(held.left, seconds) * GRACE
    before: Held | None = held
    while before is not None:
        await trio.sleep(min(POLL, max(before.left, 0.02)))
        now = await take()
        is_renewed = now is not None and (now.holder != held.holder or now.left > before.left)
        if is_renewed or (now is not None and trio.current_time() > latest):
            raise CannotStart(
                f"redis.url: the store is held by {held.name}, another jsbox server; stop that one,"
                ' or set [cluster] mode = "standby" on both to have one wait for the other, or'
                ' "shared" on both to have them share the work'
            )
        before = now


def _passes(error: StoreError) -> bool:
    return not (isinstance(error, StoreRefused) and error.code in FOR_GOOD)


def own_name() -> str:
    """Our name, for people."""
    return f"{socket.gethostname()} (process {os.getpid()})"


def owner_id(folder: Path) -> str:
    """What names a data directory: a token in it, made once, and the file of its lock, since a copy
    of the directory has the same token and another lock.
    """
    file, token = folder / ID, ""
    with suppress(OSError, ValueError):
        token = file.read_text("ascii").strip()
    if len(token) != 2 * ID_BYTES or not token.isalnum():
        token = os.urandom(ID_BYTES).hex()
        try:
            draft = file.with_suffix(".new")
            draft.write_text(token, "ascii")
            draft.replace(file)
        except OSError as error:  # then a restart waits for the lease
            log.warning("%s cannot be written: %s", file, error.strerror)
    lock = (folder / LOCK).stat()
    return f"{token}:{lock.st_dev}:{lock.st_ino}"


def host_id(folder: Path) -> str:
    """What names the server of a data directory among those that share a store."""
    return blake2b(owner_id(folder).encode(), digest_size=HOST_BYTES).hexdigest()


def _boot() -> str:
    """What names this boot of the host; nothing that comes again if it cannot be known."""
    try:
        return BOOT.read_text("ascii").strip()
    except (OSError, ValueError):
        return os.urandom(ID_BYTES).hex()
