"""An app's log as it is in the store, read without the server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import trio
from starlette.exceptions import HTTPException

from resources.fence import leaves
from resources.stores.logbook import Logbook
from resources.stores.redis import StoreError, open_redis

from ..admin.logs import LogsAdmin, Sieve, sieve_of
from ..config import Config
from ..errors import CannotStart
from ..store.reading import open_reading
from .common import fail

SECONDS = 600.0  # for a store that loads


def stored_log(
    config: Config, app: str, limit: int, asked: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The newest entries of an app's log, newest first; exits if they cannot be read.

    Args:
        config: Says where the store is, and whose the app is.
        app: Its name.
        limit: How many entries at most.
        asked: Perhaps `level`, `since`, `grep`.
    """
    if app not in config.apps:
        fail(f"there is no app {app!r}")
    try:
        sieve = sieve_of(asked)
    except HTTPException as error:
        fail(error.detail)
    try:
        return trio.run(_read, config, app, limit, sieve)
    except* (CannotStart, StoreError, trio.TooSlowError) as group:
        errors = [str(one) for one in leaves(group) if str(one)]
        fail("; ".join(errors) or f"the store did not answer in {SECONDS:g} s")
    return []


async def _read(config: Config, app: str, limit: int, sieve: Sieve) -> list[dict[str, Any]]:
    account, kept = config.apps[app].account, config.apps[app].log.kept
    with trio.fail_after(SECONDS):
        async with open_reading(config) as url, open_redis(url) as client:
            await client.execute("PING")
            logs = LogsAdmin(Logbook(client), dict)
            found = logs.newest(account, app, min(limit, kept), sieve)
            return [json.loads(row) async for _, row in found]
