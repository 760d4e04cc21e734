"""Whose turn it is to take in what waits at a broker for a channel, if several servers share the
work: two that took by turns would take a user's messages out of order.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import trio
from attrs import frozen

from resources.stores.partitions import ChannelTurn, Ownership, Taken, host_of
from resources.stores.peers import Peers
from resources.stores.redis import StoreError

AGAIN = 0.5  # seconds until it is asked for again
GIVE_SECONDS = 2.0  # that the end waits for the store

log = logging.getLogger(__name__)


@frozen
class ChannelTurns:
    """Turns of this server."""

    _peers: Peers
    _ownership: Ownership
    _bury: Callable[[str], Awaitable[None]] | None = None  # clears away what a dead server left

    @asynccontextmanager
    async def turn(self, channel: str) -> AsyncIterator[None]:
        """Wait until no other server that lives takes in what comes on a channel; keep it so for as
        long as the block runs.
        """
        turn = ChannelTurn(channel)
        while True:
            try:
                owner = await self._take(turn)
            except StoreError as error:
                log.debug("channel %s: %s", channel, error)
                owner = None
            if owner is not None:
                break
            await trio.sleep(AGAIN)
        try:
            yield
        finally:
            with trio.move_on_after(GIVE_SECONDS, shield=True), suppress(StoreError):
                await self._ownership.give(turn, owner)

    async def _take(self, turn: ChannelTurn) -> bytes | None:
        """Take it, also from one that is dead; return who has it now, or None: another has."""
        dead = b""
        while True:
            (taken,) = await self._ownership.take([(turn, dead)])
            if not isinstance(taken, Taken):
                raise taken
            if taken.is_ours:
                return taken.owner
            host, process = host_of(taken.owner)
            if taken.owner == dead or await self._peers.lives(host, process):
                return None
            await self._peers.bury(host)
            if await self._peers.lives(host, process):
                return None
            if self._bury is not None:  # else our newer replies would overtake those it left
                await self._bury(host)
            dead = taken.owner
