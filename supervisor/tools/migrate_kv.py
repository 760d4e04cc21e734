"""Copying an old sandbox's key-value data from its Redis: values, lifetimes and the key count."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import redis
import trio
from attrs import define
from redis.backoff import NoBackoff
from redis.retry import Retry

from resources.stores.keyspace import Keyspace, KeyspaceFull, Quota
from resources.stores.redis import Redis, open_redis
from resources.text import json_line

from ..config import Config
from ..store.valkey import reach_valkey

PAGE = 500
SECONDS = 30.0


@define
class Copied:
    """Counts of keys: copied, kept because they exist, not JSON, and over the quota."""

    copied: int = 0
    kept: int = 0
    wrong: int = 0
    full: int = 0


async def copy_kv(
    config: Config,
    account: str,
    old_url: str,
    prefix: str,
    sandbox_id: str,
    *,
    dry_run: bool,
    report: Callable[[str], None],
) -> Copied:
    """Copy all keys of a sandbox to an account. Existing keys are kept: a copy can be repeated.

    `report` is called with a line for each key that was not copied.

    Raises:
        redis.RedisError: The old server does not answer.
        CannotStart: The own store does not start.
    """
    settings = config.account(account).kv
    quota = Quota(settings.keys_hard, settings.soft, settings.most_bytes)
    head = f"{prefix}:sandboxes#{sandbox_id}#" if prefix else f"sandboxes#{sandbox_id}#"
    done = Copied()
    old = redis.Redis.from_url(old_url, socket_timeout=SECONDS, retry=Retry(NoBackoff(), 0))
    try:
        async with _own_store(config) as store:
            keyspace = Keyspace(store)
            found = await trio.to_thread.run_sync(
                lambda: old.scan_iter(match=_literal(head) + "*", count=PAGE)
            )
            while page := await trio.to_thread.run_sync(_page, old, found):
                for key, value, milliseconds in page:
                    name = key.decode("utf-8", "surrogateescape").removeprefix(head)
                    await _copy_one(
                        keyspace,
                        account,
                        name,
                        value,
                        milliseconds,
                        quota,
                        done,
                        report,
                        dry_run=dry_run,
                    )
    finally:
        old.close()
    return done


async def _copy_one(
    keyspace: Keyspace,
    account: str,
    name: str,
    value: bytes,
    milliseconds: int,
    quota: Quota,
    done: Copied,
    report: Callable[[str], None],
    *,
    dry_run: bool,
) -> None:
    try:
        value = json_line(value)
        name.encode()
    except ValueError:
        done.wrong += 1
        report(f"{name!r} does not hold JSON, and is left out")
        return
    if await keyspace.get(account, name) is not None:
        done.kept += 1
        return
    if not dry_run:
        try:
            await keyspace.set(
                account,
                name,
                value,
                max(milliseconds // 1000, 1) if milliseconds >= 0 else None,
                quota,
            )
        except KeyspaceFull as full:
            done.full += 1
            limit = (
                f"bytes_max = {quota.most_bytes}" if full.is_bytes else f"keys_hard = {quota.hard}"
            )
            report(f"{name!r} is over accounts.{account}.kv.{limit}")
            return
    done.copied += 1


def _page(old: redis.Redis, found: object) -> list[tuple[bytes, bytes, int]]:
    """The next keys, their values, and their lifetimes in milliseconds (-1: forever)."""
    keys = [key for key, _ in zip(found, range(PAGE), strict=False)]  # type: ignore[call-overload]
    pipeline = old.pipeline(transaction=False)
    for key in keys:
        pipeline.get(key)
        pipeline.pttl(key)
    answers = pipeline.execute() if keys else []
    pairs = zip(keys, answers[::2], answers[1::2], strict=True)
    return [(key, value, left) for key, value, left in pairs if value is not None]


def _literal(text: str) -> str:
    return "".join(f"\\{char}" if char in "*?[]\\^" else char for char in text)


@asynccontextmanager
async def _own_store(config: Config) -> AsyncIterator[Redis]:
    """Open the store, whether the server runs or not."""
    async with AsyncExitStack() as stack:
        url = config.redis.url
        if url == "embedded":
            url = await stack.enter_async_context(reach_valkey(config.data_dir, config.redis.fsync))
        yield await stack.enter_async_context(open_redis(url))
