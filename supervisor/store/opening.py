"""Open the store that the config names: the embedded server, or one that the operator runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from attrs import frozen

from resources.stores.lease import Lease
from resources.stores.redis import Redis, open_redis
from resources.stores.room import Room

from ..config import Config
from .disk import Disk
from .holding import hold
from .ownership import lock_data_dir
from .patience import until_answered
from .valkey import FOLDER, FROM_WITHIN, open_valkey

EMBEDDED = "embedded"  # as redis.url


@frozen
class Store:
    """Made by `open_store`.

    Attributes:
        redis: A client. The embedded server has answered it; to another one it sends nothing while
            the lease is not held.
        disk: The disk of data_dir. Its room has no bound if the server is not the embedded one.
        url: How a process of ours that is started in `cwd` reaches the server.
        lease: Of a server that others can reach; in mode standby it may not be taken yet.
    """

    redis: Redis
    disk: Disk
    url: str
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
        if config.redis.url == EMBEDDED:
            opening = _open_embedded(config, tell)
        else:
            opening = _open_external(config, tell)
        yield await stack.enter_async_context(opening)


@asynccontextmanager
async def _open_embedded(config: Config, tell: Callable[[str], None]) -> AsyncIterator[Store]:
    settings = config.redis
    reserve = settings.disk_reserve
    async with (
        open_valkey(config.data_dir, settings.fsync, reserve=reserve, tell=tell) as url,
        open_redis(url) as client,
    ):
        await until_answered("its first answer", partial(client.execute, "PING"), tell)
        disk = Disk(config.data_dir, Room(reserve))
        await disk.look()
        yield Store(client, disk, FROM_WITHIN, str(config.data_dir / FOLDER))


@asynccontextmanager
async def _open_external(config: Config, tell: Callable[[str], None]) -> AsyncIterator[Store]:
    url = config.redis.url
    async with hold(config, tell) as lease, open_redis(url, lease, config.redis.replicas) as client:
        disk = Disk(config.data_dir, Room(0))
        await disk.look()
        yield Store(client, disk, url, "/", lease)
