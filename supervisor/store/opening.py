"""Open the store that the config names: the embedded server, or one that the operator runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import trio
from attrs import frozen

from resources.stores.lease import Lease
from resources.stores.peers import PARTITIONS
from resources.stores.redis import Redis, open_redis
from resources.stores.room import Room

from ..config import Config
from ..errors import CannotStart
from .copies import remove_copies
from .disk import Disk
from .holding import hold
from .ownership import OWN_FOLDER, lock_data_dir
from .patience import is_loading, until_answered
from .valkey import FOLDER, FROM_WITHIN, live_url, open_valkey

EMBEDDED = "embedded"  # as redis.url


@frozen
class Store:
    """Made by `open_store`.

    Attributes:
        redis: A client. The embedded server has answered it; to another one it sends nothing while
            the lease is not held.
        disk: The disk of data_dir. Its room has no bound if the server is not the embedded one.
        url: How a process of ours that is started in `cwd` reaches the server.
        own_url: How this process reaches it.
        lease: Of a server that others can reach; in mode standby it may not be taken yet.
    """

    redis: Redis
    disk: Disk
    url: str
    own_url: str
    cwd: str
    lease: Lease | None = None


@asynccontextmanager
async def open_store(config: Config, tell: Callable[[str], None]) -> AsyncIterator[Store]:
    """Open the store and wait until it answers. The embedded server may take however long it needs;
    another one is waited for only while it loads its data, or refuses.

    Args:
        config: Says which store.
        tell: Called with a line now and then while we wait.

    Raises:
        CannotStart: The store cannot be started or reached, or another server has it.
        LeaseLost: Another server has taken it; the block is cancelled.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(lock_data_dir(config.data_dir))
        if config.redis.url == EMBEDDED and config.cluster.mode == "shared":
            opening = _open_kept(config, tell)
        elif config.redis.url == EMBEDDED:
            opening = _open_embedded(config, tell)
        else:
            opening = _open_external(config, tell)
        yield await stack.enter_async_context(opening)


@asynccontextmanager
async def _open_embedded(config: Config, tell: Callable[[str], None]) -> AsyncIterator[Store]:
    settings = config.redis
    reserve = settings.disk_reserve
    await trio.to_thread.run_sync(remove_copies, config.data_dir)
    async with (
        open_valkey(config.data_dir, settings.fsync, reserve=reserve, tell=tell) as url,
        open_redis(url) as client,
    ):
        ask = partial(client.execute, "EXISTS", PARTITIONS)
        if await until_answered("its first answer", ask, tell):
            _note_divided(config.data_dir)
        disk = Disk(config.data_dir, Room(reserve))
        await disk.look()
        yield Store(client, disk, FROM_WITHIN, url, str(config.data_dir / FOLDER))


def _note_divided(data_dir: Path) -> None:
    """Several processes have served this store, elsewhere: it was restored from a backup. What is
    in its journals only a server reads that begins as they do.

    Raises:
        CannotStart: Always. The next start knows it from the folder of the first process.
    """
    (data_dir / OWN_FOLDER.format(1)).mkdir(mode=0o700, exist_ok=True)
    raise CannotStart(
        f"the store in {data_dir} was served by several processes (cluster.processes), which its"
        " backup does not say; that is noted now: start again"
    )


@asynccontextmanager
async def _open_kept(config: Config, tell: Callable[[str], None]) -> AsyncIterator[Store]:
    """The embedded server that another process of this service keeps, in the folder above ours
    (supervisor/processes).
    """
    data_dir = config.data_dir.parent
    with live_url(data_dir) as url:
        async with (
            hold(config, tell, url, lambda _: True) as lease,
            open_redis(url, lease) as client,
        ):
            disk = Disk(data_dir, Room(config.redis.disk_reserve))
            await disk.look()
            yield Store(client, disk, FROM_WITHIN, url, str(data_dir / FOLDER), lease)


@asynccontextmanager
async def _open_external(config: Config, tell: Callable[[str], None]) -> AsyncIterator[Store]:
    url = config.redis.url
    holding = hold(config, tell, url, is_loading)
    async with holding as lease, open_redis(url, lease, config.redis.replicas) as client:
        disk = Disk(config.data_dir, Room(0))
        await disk.look()
        yield Store(client, disk, url, url, "/", lease)
