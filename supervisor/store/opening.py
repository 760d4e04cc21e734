"""Open the store that the config names: the embedded server, or one that the operator runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from attrs import frozen

from resources.stores.redis import Redis, StoreError, open_redis
from resources.stores.room import Room

from ..config import Config
from ..errors import CannotStart
from .disk import Disk
from .ownership import lock_data_dir
from .patience import is_loading, until_answered
from .valkey import FOLDER, FROM_WITHIN, open_valkey

EMBEDDED = "embedded"  # as redis.url


@frozen
class Store:
    """Made by `open_store`.

    Attributes:
        redis: A client that the server has answered.
        disk: The disk of data_dir. Its room has no bound if the server is not the embedded one.
        url: How a process of ours that is started in `cwd` reaches the server.
    """

    redis: Redis
    disk: Disk
    url: str
    cwd: str


@asynccontextmanager
async def open_store(config: Config, tell: Callable[[str], None]) -> AsyncIterator[Store]:
    """Open the store and wait until it answers. The embedded server may take however long it needs;
    another one is waited for only while it loads its data.

    Args:
        config: Says which store.
        tell: Called with a line now and then while we wait.

    Raises:
        CannotStart: The store cannot be started or reached.
    """
    settings, is_embedded = config.redis, config.redis.url == EMBEDDED
    async with AsyncExitStack() as stack:
        stack.enter_context(lock_data_dir(config.data_dir))
        url, url_for_children, cwd = settings.url, settings.url, "/"
        if is_embedded:
            reserve = settings.disk_reserve
            opening = open_valkey(config.data_dir, settings.fsync, reserve=reserve, tell=tell)
            url = await stack.enter_async_context(opening)
            url_for_children, cwd = FROM_WITHIN, str(config.data_dir / FOLDER)
        client = await stack.enter_async_context(open_redis(url))

        def is_worth(error: StoreError) -> bool:
            return is_embedded or is_loading(error)

        try:
            ping = partial(client.execute, "PING")
            await until_answered("its first answer", ping, tell, is_worth)
        except StoreError as error:
            raise CannotStart(f"redis.url: {error}") from error
        disk = Disk(config.data_dir, Room(settings.disk_reserve if is_embedded else 0))
        await disk.look()
        yield Store(client, disk, url_for_children, cwd)
