"""Holds runs back while the store cannot be used: one that starts without it can neither read nor
answer, and its message would be spent for nothing. What waits is in the journal.

A store that is a cluster may be lost in part: only the accounts there are held back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress

import trio
from attrs import define, field

from resources.fence import fence
from resources.stores.keys import account_key
from resources.stores.redis import Redis, StoreError

AGAIN = 0.25  # seconds between two looks at whether the store can be used again

log = logging.getLogger(__name__)


@define(eq=False)
class Outages:
    """Which accounts are held back. Only `run` waits.

    Attributes:
        resume: Called for each account that is no longer held back.
    """

    _redis: Redis
    resume: Callable[[str], None]
    _held: dict[str, float] = field(factory=dict, init=False)  # account: since when
    _work: trio.Event = field(factory=trio.Event, init=False)

    def holds(self, account: str) -> bool:
        """Whether no run of an account may start now. If so, `run` says when it may again."""
        if self._redis.is_usable(_key(account)):
            return False
        if account not in self._held:
            if not self._held:
                log.warning(
                    "no runs are started, since the store cannot be used: %s (account %s)",
                    self._redis.statistics().problem, account,
                )  # fmt: skip
            self._held[account] = trio.current_time()
            self._work.set()
        return True

    async def run(self) -> None:
        """Look when accounts need no longer be held back, until cancelled."""
        while True:
            if not self._held:
                await self._work.wait()
                self._work = trio.Event()
            await trio.sleep(AGAIN)
            await self._look()

    async def _look(self) -> None:
        for account in list(self._held):
            with fence("outages", f"account {account}"):  # what fails is looked at again
                await self._look_at(account)

    async def _look_at(self, account: str) -> None:
        # A node of a cluster that is back is noticed by asking it.
        with suppress(StoreError):
            await self._redis.try_out(_key(account))
        if self._redis.is_usable(_key(account)):
            since = self._held.pop(account)
            try:
                self.resume(account)
            except BaseException:
                self._held.setdefault(account, since)
                raise
            if not self._held:
                log.info("runs are started again, after %.1f s", trio.current_time() - since)


def _key(account: str) -> str:
    return account_key(account, "probe")
