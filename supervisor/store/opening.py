"""The store that the config names: an embedded server, with its disk, or one of the operator's own."""

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
from .patience import is_loading, until_answered
from .valkey import FOLDER, FROM_WITHIN, lock_data_dir, open_valkey

EMBEDDED = "embedded"  # as redis.url


@frozen
class Store:
    """Made by `open_store`.

    Attributes:
        redis: A client; it has been answered.
        disk: That of data_dir; its room is that of the embedded server, and without end for another
            one.
        url: How a process of ours reaches the server that is started in `cwd`.
    """

    redis: Redis
    disk: Disk
    url: str
    cwd: str


@asynccontextmanager
async def open_store(config: Config, tell: Callable[[str], None]) -> AsyncIterator[Store]:
    """The store, once it answers. The embedded one is waited for, however long it takes; of another
    one only that it loads.

    Args:
        config: Says which.
        tell: Called with a line while it is waited for.

    Raises:
        CannotStart: It cannot be started, or reached.
    """
    settings, is_embedded = config.redis, config.redis.url == EMBEDDED
    async with AsyncExitStack() as stack:
        stack.enter_context(lock_data_dir(config.data_dir))
        url, there, cwd = settings.url, settings.url, "/"
        if is_embedded:
            opening = open_valkey(
                config.data_dir, settings.fsync, reserve=settings.disk_reserve, tell=tell
            )
            url, there, cwd = (
                await stack.enter_async_context(opening),
                FROM_WITHIN,
                str(config.data_dir / FOLDER),
            )
        client = await stack.enter_async_context(open_redis(url))
        try:
            ping = partial(client.execute, "PING")
            await until_answered(
                "its first answer", ping, tell, lambda error: is_embedded or is_loading(error)
            )
        except StoreError as error:
            raise CannotStart(f"redis.url: {error}") from error
        disk = Disk(config.data_dir, Room(settings.disk_reserve if is_embedded else 0))
        await disk.look()
        yield Store(client, disk, there, cwd)
