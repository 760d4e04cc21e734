"""Commands whose outcome may be an error."""

from __future__ import annotations

import trio

from resources.stores.redis import Redis, StoreError


async def outcome(client: Redis, *command: object) -> object:
    """What it is answered with, or the error."""
    try:
        return await client.execute(*command)
    except StoreError as error:
        return error


async def with_neighbours(client: Redis, *command: object) -> list[object]:
    """The outcome of a command, and of one before it and one after it in the same pipeline."""
    found: dict[int, object] = {}

    async def caller(n: int, *asked: object) -> None:
        found[n] = await outcome(client, *asked)

    async with trio.open_nursery() as nursery:
        for n, asked in enumerate((("INCR", "before"), command, ("INCR", "after"))):
            nursery.start_soon(caller, n, *asked)
    return [found[n] for n in range(3)]
